//! Dashboard, alerts and autoscaler ask for metrics that the programs export, by labels that these
//! metrics have; and the alerts fire for what they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};

use single_state_tests::manifests::{deploy, list, of_kind, render, text, the, tool};

/// Labels that Prometheus adds, and those that `count_values` makes.
const ADDED: [&str; 5] = ["namespace", "pod", "instance", "job", "generation"];

/// Label names by series, as one gateway and one worker export them that nobody has used yet.
async fn exported() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in [&cluster.gateway, &cluster.workers[0]] {
        let (_, text) = node.admin_get("/metrics").await?;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, labels) = line.split_once(['{', ' ']).context("a series")?;
            let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
            series.entry(name.to_owned()).or_default().extend(keys(labels));
        }
    }
    Ok(series)
}

/// Names before `=`, `=~` and `!=` in a list of labels.
fn keys(labels: &str) -> impl Iterator<Item = String> {
    let pairs = labels.split(',').filter_map(|pair| pair.split_once(['=', '!']));
    pairs.map(|(key, _)| key.trim().to_owned())
}

/// Metrics of ours, and labels, that an expression names.
fn names(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for (at, _) in expression.match_indices("single_state_") {
        let rest = &expression[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        metrics.insert(rest[..end.unwrap_or(rest.len())].to_owned());
    }
    for part in expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        labels.extend(keys(part));
    }
    for word in ["by (", "on (", "group_left (", "without ("] {
        for part in expression.split(word).skip(1).filter_map(|rest| rest.split(')').next()) {
            let named = part.split(',').map(|name| name.trim().to_owned());
            labels.extend(named.filter(|name| !name.is_empty()));
        }
    }
    (metrics, labels)
}

/// The expressions of the dashboard's panels, with their titles.
fn panels() -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&text("monitoring/dashboard.json")?)?;
    let mut found = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            let expression = target["expr"].as_str().context("an expression")?;
            found.push((panel["title"].to_string(), expression.to_owned()));
        }
    }
    Ok(found)
}

fn rules() -> Result<Value> {
    Ok(serde_saphyr::from_str(&text("monitoring/rules.yaml")?)?)
}

/// The alerts' expressions, with their names.
fn alerts() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for rule in list(&rules()?["groups"][0]["rules"]) {
        let (name, expression) = (rule["alert"].as_str(), rule["expr"].as_str());
        found.push((name.context("a name")?.to_owned(), expression.context("an expr")?.to_owned()));
    }
    Ok(found)
}

#[tokio::test]
async fn panels_and_alerts_name_metrics_and_labels_that_are_exported_from_the_start() -> Result<()>
{
    let exported = exported().await?;
    let (panels, alerts) = (panels()?, alerts()?);
    ensure!(panels.len() > 50 && alerts.len() > 10, "{} {}", panels.len(), alerts.len());
    let mut shown = BTreeSet::new();
    for (title, expression) in panels.iter().chain(&alerts) {
        let (metrics, labels) = names(expression);
        let mut known: BTreeSet<&str> = ADDED.into();
        for metric in &metrics {
            let has = exported.get(metric).with_context(|| format!("{title}: no {metric}"))?;
            known.extend(has.iter().map(String::as_str));
        }
        for label in labels {
            ensure!(known.contains(&*label), "{title}: {metrics:?} have no label {label}");
        }
        shown.extend(metrics);
    }
    let base = |name: &str| {
        let parts = ["_total", "_bucket", "_sum", "_count"];
        let cut = parts.iter().find_map(|part| name.strip_suffix(part));
        cut.unwrap_or(name).to_owned()
    };
    let shown: BTreeSet<_> = shown.iter().map(|name| base(name)).collect();
    let hidden: Vec<_> = exported.keys().filter(|name| !shown.contains(&base(name))).collect();
    ensure!(hidden.is_empty(), "no panel shows {hidden:?}");
    Ok(())
}

#[tokio::test]
async fn a_worker_tells_which_list_it_goes_by_and_how_long_what_is_said_waits_at_the_gate()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("sessions.sqlite").display());
    let gate = "single_state_gate_seconds_count";
    for (durability, waits) in [("relaxed", false), ("durable", true)] {
        let options = Options { workers: 1, ..Options::default() }.store(&store);
        let cluster = Cluster::start(options.worker_flag("--durability", durability)).await?;
        let worker = &cluster.workers[0];
        ensure!(worker.metric("single_state_generation").await? == 1.0, "its generation");
        let mut browser = Browser::connect(&cluster.url(&format!("?session={durability}"))).await?;
        browser.send(json!({"tag": "append", "item": "a"})).await?;
        browser.wait_for("count", &json!(1)).await?;
        cluster.wait_for_worker_status(0, |status| status["dirty"] == 0).await?;
        cluster.wait_for_metric("single_state_link_round_trip_seconds", |s| s > 0.0).await?;
        ensure!((worker.metric(gate).await? > 0.0) == waits, "{durability}");
    }
    Ok(())
}

#[tokio::test]
async fn the_autoscaler_asks_for_a_metric_of_gateways() -> Result<()> {
    let exported = exported().await?;
    let objects = render("overlays/prod")?;
    let scaler = the(&objects, "HorizontalPodAutoscaler/gateway")?;
    let metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"].as_str();
    let metric = metric.context("a metric of pods")?;
    ensure!(exported.contains_key(metric), "there is no {metric}");
    ensure!(text("kubernetes/parts/custom-metrics/values.yaml")?.contains(metric), "no adapter");
    Ok(())
}

#[test]
fn the_operators_rules_are_those_of_prometheus() -> Result<()> {
    let objects = render("overlays/prod")?;
    let operators = of_kind(&objects, "PrometheusRule").next().context("a PrometheusRule")?;
    ensure!(operators["spec"] == rules()?, "prometheus-rule.yaml and rules.yaml differ");
    Ok(())
}

#[test]
fn the_runbook_has_each_alert() -> Result<()> {
    let runbook = text("README.md")?;
    for (alert, _) in alerts()? {
        ensure!(runbook.contains(&format!("`{alert}`")), "deploy/README.md has no {alert}");
    }
    Ok(())
}

fn promtool(arguments: &[&str], folder: &Path) -> Result<()> {
    let program = tool("promtool");
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.context("run promtool: `tests/setup.sh test` gets it")?;
    let told = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&told));
    Ok(())
}

#[test]
fn alerts_fire_for_what_they_are_for() -> Result<()> {
    let folder = deploy("monitoring");
    promtool(&["check", "rules", "rules.yaml"], &folder)?;
    promtool(&["test", "rules", "rules-test.yaml"], &folder)?;
    promtool(&["check", "config", "--syntax-only", "prometheus.yaml"], &folder)
}

#[test]
fn prometheus_understands_every_panel() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rules = panels()?.into_iter().enumerate().map(|(at, (_, expression))| {
        let expression = expression.replace("$__rate_interval", "1m").replace("$namespace", ".*");
        json!({"record": format!("panel:{at}"), "expr": expression})
    });
    let file = json!({"groups": [{"name": "panels", "rules": rules.collect::<Vec<_>>()}]});
    std::fs::write(folder.path().join("panels.yaml"), file.to_string())?;
    promtool(&["check", "rules", "panels.yaml"], folder.path())
}
