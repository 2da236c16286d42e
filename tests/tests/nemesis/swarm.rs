//! Runs `swarm nemesis` and reads its report.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use single_state_tests::DEADLINE;
use single_state_tests::process::program;
use tokio::process::Command;
use tokio::time::timeout;

/// What the tests want to know of a report.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) faults: usize,
    survived: usize,
    pub(crate) acknowledged: usize,
    lost: usize,
    doubled: usize,
    closed_by_worker_faults: usize,
    pub(crate) closed_by_gateway_faults: usize,
    settled_ms: Option<u64>,
    kinds: Vec<OfKind>,
    reasons: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct OfKind {
    kind: String,
    count: usize,
}

/// What it has printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs it with these arguments to its end, with a variable more if one is given.
pub(crate) async fn nemesis(line: &str, variable: Option<(&str, &str)>) -> Result<Ended> {
    let mut command = Command::new(program("swarm"));
    command.arg("nemesis").args(line.split_whitespace()).kill_on_drop(true).envs(variable);
    let output = timeout(2 * DEADLINE, command.output()).await.context("it does not end")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ended {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// So many faults of these kinds are survived, and nothing is lost, doubled or closed that must not.
pub(crate) async fn must_survive(faults: &[&str], count: usize, more: &str) -> Result<Report> {
    let (names, millis) = (faults.join(","), 2800 * count);
    let line = format!(
        "--seed 1 --faults {names} --duration {millis}ms --browsers 10 --pace 100ms --json - {more}"
    );
    let ended = nemesis(&line, None).await?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let report: Report = serde_json::from_str(&ended.stdout).context(ended.stderr)?;
    let wrong = report.lost + report.doubled + report.closed_by_worker_faults;
    ensure!(wrong == 0 && report.reasons.is_empty(), "{report:?}");
    ensure!(report.faults == count && report.survived == count, "{report:?}");
    ensure!(report.acknowledged > 0 && report.settled_ms.is_some(), "{report:?}");
    let counts: BTreeMap<_, _> =
        report.kinds.iter().map(|of| (of.kind.as_str(), of.count)).collect();
    for kind in faults {
        ensure!(counts.get(kind).is_some_and(|count| *count > 0), "no {kind} in {counts:?}");
    }
    Ok(report)
}
