//! Every rendered object against the schema of its kind, strictly: a field that the API does not know
//! is a mistake, as for a server that validates strictly.
//!
//! The schemas of Kubernetes' own kinds come from k8s-openapi's types; those of operators' kinds
//! are in `schemas/`, and have only the fields that are used here. What Kubernetes gives as a list of
//! words is in neither, so that is in [`WORDS`].

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use jsonschema::Validator;
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolumeClaim, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};

use single_state_tests::manifests::{OTHER, WHOLE, render, root, the, title};

/// Words that a field of this name may have, wherever it stands.
const WORDS: [(&str, &[&str]); 13] = [
    ("podManagementPolicy", &["OrderedReady", "Parallel"]),
    ("restartPolicy", &["Always"]),
    ("whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"]),
    ("protocol", &["TCP", "UDP", "HTTPS"]),
    ("policyTypes", &["Ingress", "Egress"]),
    ("accessModes", &["ReadWriteOnce"]),
    ("unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"]),
    ("pathType", &["Prefix", "Exact"]),
    ("imagePullPolicy", &["Always", "IfNotPresent"]),
    ("drop", &["ALL"]),
    ("verbs", &["list", "watch"]),
    ("matchLabelKeys", &["pod-template-hash"]),
    ("topologyKey", &["topology.kubernetes.io/zone", "kubernetes.io/hostname"]),
];
/// Words of a field `type`, by the field around it.
const TYPES: [(&str, &[&str]); 7] = [
    ("seccompProfile", &["RuntimeDefault"]),
    ("strategy", &["RollingUpdate", "Recreate"]),
    ("updateStrategy", &["RollingUpdate"]),
    ("metrics", &["Pods", "Resource"]),
    ("policies", &["Percent", "Pods"]),
    ("target", &["AverageValue", "Utilization"]),
    ("matches", &["PathPrefix"]),
];

/// Validators by `apiVersion/kind`.
struct Schemas(HashMap<String, Validator>);

impl Schemas {
    fn load() -> Result<Self> {
        let mut schemas = Self(HashMap::new());
        schemas.add::<ConfigMap>()?;
        schemas.add::<Deployment>()?;
        schemas.add::<HorizontalPodAutoscaler>()?;
        schemas.add::<Ingress>()?;
        schemas.add::<Namespace>()?;
        schemas.add::<NetworkPolicy>()?;
        schemas.add::<PersistentVolumeClaim>()?;
        schemas.add::<PodDisruptionBudget>()?;
        schemas.add::<Role>()?;
        schemas.add::<RoleBinding>()?;
        schemas.add::<Secret>()?;
        schemas.add::<Service>()?;
        schemas.add::<ServiceAccount>()?;
        schemas.add::<StatefulSet>()?;
        let folder = root().join("tests/tests/deploy/schemas");
        for entry in std::fs::read_dir(folder)? {
            let text = std::fs::read_to_string(entry?.path())?;
            let kinds: HashMap<String, Value> = serde_saphyr::from_str(&text)?;
            for (kind, schema) in kinds {
                schemas.insert(kind, schema)?;
            }
        }
        Ok(schemas)
    }

    fn add<K: Resource + JsonSchema>(&mut self) -> Result<()> {
        let kind = format!("{}/{}", K::API_VERSION, K::KIND);
        self.insert(kind, schema_for!(K).to_value())
    }

    fn insert(&mut self, kind: String, mut schema: Value) -> Result<()> {
        close(&mut schema);
        let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_owned())?;
        self.0.insert(kind, validator);
        Ok(())
    }

    /// All that is wrong with an object, a sentence each.
    fn mistakes(&self, object: &Value) -> Vec<String> {
        let part = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let kind = format!("{}/{}", part("apiVersion"), part("kind"));
        let Some(validator) = self.0.get(&kind) else { return vec![format!("no kind {kind}")] };
        let told = validator.iter_errors(object);
        let mut told: Vec<_> =
            told.map(|error| format!("{}: {error}", error.instance_path())).collect();
        wrong_words(object, "", "", &mut told);
        told
    }
}

/// Lets objects have only the fields that the schema names.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let is_schema = fields.get("properties").is_some_and(Value::is_object);
            if is_schema && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(close),
        _ => {}
    }
}

/// Adds what has a word that its field does not know; `field` of `around` is where `value` stands.
fn wrong_words(value: &Value, around: &str, field: &str, told: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                wrong_words(value, field, name, told);
            }
        }
        Value::Array(values) => {
            for value in values {
                wrong_words(value, around, field, told);
            }
        }
        Value::String(word) => {
            let known = if field == "type" { &TYPES[..] } else { &WORDS[..] };
            let name = if field == "type" { around } else { field };
            let known = known.iter().find(|(known, _)| *known == name);
            if let Some((_, words)) = known
                && !words.contains(&word.as_str())
            {
                told.push(format!("{name}: {word} is none of {words:?}"));
            }
        }
        _ => {}
    }
}

#[test]
fn every_object_is_valid_for_a_server_that_is_strict() -> Result<()> {
    let schemas = Schemas::load()?;
    for folder in WHOLE.iter().chain(&OTHER) {
        for object in render(folder)? {
            let mistakes = schemas.mistakes(&object);
            ensure!(mistakes.is_empty(), "{folder}: {}: {mistakes:#?}", title(&object));
        }
    }
    Ok(())
}

#[test]
fn a_mistake_in_a_manifest_is_noticed() -> Result<()> {
    let schemas = Schemas::load()?;
    let objects = render("overlays/prod")?;
    let change = |of: &str, pointer: &str, value: Value| -> Result<()> {
        let mut object = the(&objects, of)?.clone();
        let (parent, name) = pointer.rsplit_once('/').context("a field's pointer")?;
        let parent = object.pointer_mut(parent).with_context(|| format!("no {pointer} in {of}"))?;
        parent[name] = value;
        ensure!(!schemas.mistakes(&object).is_empty(), "{of} {pointer} is not noticed");
        Ok(())
    };
    let pod = "/spec/template/spec";
    change("Deployment/gateway", "/spec/minReadySecond", json!(1))?;
    change("Deployment/gateway", "/spec/minReadySeconds", json!("1"))?;
    change("Deployment/gateway", &format!("{pod}/containers"), json!({}))?;
    change("StatefulSet/worker", "/spec/podManagementPolicy", json!("Paralel"))?;
    change(
        "StatefulSet/worker",
        &format!("{pod}/securityContext/seccompProfile/type"),
        json!("x"),
    )?;
    change("StatefulSet/worker", &format!("{pod}/containers"), json!([{"image": "no-name"}]))?;
    change("StatefulSet/worker", "/kind", json!("StatefulSets"))?;
    change("PodDisruptionBudget/worker", "/spec/selector", json!("worker"))?;
    change("ServiceMonitor/worker", "/spec/endpoints/0/intervall", json!("5s"))?;
    change("Cluster/database", "/spec/instances", json!("3"))
}
