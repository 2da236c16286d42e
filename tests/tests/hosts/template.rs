//! What a rendered manifest says about a pod: all that is needed to start it as Kubernetes would.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use single_state_tests::manifests::{containers, list, the};

/// Where every pod with a token finds it.
pub(crate) const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A pod with one container.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Files of mounted Secrets, by their whole path.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) has_token: bool,
    pub(crate) ports: Vec<(String, u16)>,
    /// Path and port that are asked whether it is ready.
    pub(crate) ready: (String, u16),
    /// So long it lives on before it is told to end …
    pub(crate) pre_stop: Duration,
    /// … and so long after the same moment it is killed.
    pub(crate) grace: Duration,
    /// So long it must have been ready before the next one is touched.
    pub(crate) min_ready: Duration,
}

impl Template {
    /// The pods of `kind/name`.
    pub(crate) fn of(objects: &[Value], title: &str) -> Result<Self> {
        let set = &the(objects, title)?["spec"];
        let pod = &set["template"]["spec"];
        let container = containers(pod).next().context("a container")?;
        ensure!(containers(pod).count() == 1, "{title} has more containers");
        let ports = list(&container["ports"]).iter().map(|port| {
            let number = port["containerPort"].as_u64().context("a port has a number")?;
            Ok((text(&port["name"])?, u16::try_from(number)?))
        });
        let ports = ports.collect::<Result<Vec<_>>>()?;
        let probe = &container["readinessProbe"]["httpGet"];
        let asked = ports.iter().find(|(name, _)| probe["port"] == **name);
        let (_, asked) = asked.context("its probe asks a port that it has")?;
        let pre_stop = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
        let user = |key: &str| -> Result<u32> {
            let number = pod["securityContext"][key].as_u64();
            Ok(number.with_context(|| format!("{title} has no {key}"))?.try_into()?)
        };
        Ok(Self {
            command: text(&container["command"][0])?,
            args: list(&container["args"]).iter().map(text).collect::<Result<_>>()?,
            env: variables(objects, container)?,
            files: files(objects, pod, container)?,
            user: user("runAsUser")?,
            group: user("runAsGroup")?,
            has_token: pod["automountServiceAccountToken"] == true,
            ready: (text(&probe["path"])?, *asked),
            ports,
            pre_stop: seconds(pre_stop).unwrap_or_default(),
            grace: seconds(&pod["terminationGracePeriodSeconds"]).context("a grace period")?,
            min_ready: seconds(&set["minReadySeconds"]).unwrap_or_default(),
        })
    }

    /// The number of a port by its name.
    pub(crate) fn port(&self, name: &str) -> Result<u16> {
        let port = self.ports.iter().find(|(known, _)| known == name);
        Ok(port.with_context(|| format!("no port {name}"))?.1)
    }

    /// What a variable is set to.
    pub(crate) fn variable(&self, name: &str) -> Result<&str> {
        value(&self.env, name)
    }

    /// The one mounted file that ends so.
    pub(crate) fn file(&self, end: &str) -> Result<&[u8]> {
        let file = self.files.iter().find(|(path, _)| path.ends_with(end));
        Ok(&file.with_context(|| format!("no file {end}"))?.1)
    }
}

/// The variables of a container.
pub(crate) fn variables(objects: &[Value], container: &Value) -> Result<Vec<(String, String)>> {
    list(&container["env"]).iter().map(|variable| variable_of(objects, variable)).collect()
}

/// What one of these variables is set to.
pub(crate) fn value<'a>(variables: &'a [(String, String)], name: &str) -> Result<&'a str> {
    let variable = variables.iter().find(|(known, _)| known == name);
    Ok(&variable.with_context(|| format!("no variable {name}"))?.1)
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("no text: {value}"))?.to_owned())
}

fn seconds(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_secs)
}

fn variable_of(objects: &[Value], variable: &Value) -> Result<(String, String)> {
    let from = &variable["valueFrom"]["secretKeyRef"];
    let value = match variable.get("value") {
        Some(value) => text(value)?,
        None => String::from_utf8(secret(objects, &text(&from["name"])?, &text(&from["key"])?)?)?,
    };
    Ok((text(&variable["name"])?, value))
}

fn secret(objects: &[Value], name: &str, key: &str) -> Result<Vec<u8>> {
    let secret = the(objects, &format!("Secret/{name}"))?;
    let value = text(&secret["data"][key]).with_context(|| format!("{key} of {name}"))?;
    // Long ones are wrapped.
    let value: String = value.split_whitespace().collect();
    Ok(STANDARD.decode(value)?)
}

/// All keys of each Secret that is mounted.
fn files(objects: &[Value], pod: &Value, container: &Value) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for mount in list(&container["volumeMounts"]) {
        let volume = list(&pod["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
        let Some(of) = volume.and_then(|volume| volume["secret"].get("secretName")) else {
            continue;
        };
        let (of, at) = (text(of)?, text(&mount["mountPath"])?);
        let keys = the(objects, &format!("Secret/{of}"))?["data"].as_object();
        for key in keys.context("a Secret has data")?.keys() {
            files.push((format!("{at}/{key}"), secret(objects, &of, key)?));
        }
    }
    Ok(files)
}
