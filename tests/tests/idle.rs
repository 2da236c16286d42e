//! Very many browsers that are quiet, at as many gateways as their descriptors demand.
//! `SINGLE_STATE_TEST_IDLE=100000` says how many; memory and speed are printed, and never judged.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use single_state_tests::cluster::{Cluster, Node, Options};
use single_state_tests::process::program;
use tokio::process::Command;

const WORKERS: usize = 2;
/// Some of the 20,000 descriptors that a process may have are left.
const BROWSERS_PER_PROCESS: usize = 19_500;
/// From here on all processes of a small machine are to get their share of it: browsers connect no
/// faster than this, …
const VERY_MANY: usize = 200_000;
const CONNECTS_PER_SECOND: &str = "2000";
/// … and are asked more rarely whether they are there: every 20 s is 50,000 times a second for a
/// million of them.
const RARE_PINGS: [(&str, &str); 2] = [("--ping-after", "20m"), ("--idle-timeout", "40m")];
/// For the tests of each day.
const FEW: usize = 400;

#[tokio::test]
async fn idle_browsers_at_several_gateways_are_all_connected_and_stay() -> Result<()> {
    let asked = std::env::var("SINGLE_STATE_TEST_IDLE").ok();
    let browsers: usize = asked.as_deref().map_or(Ok(FEW), str::parse)?;
    let quiet = if asked.is_some() { "10s" } else { "1s" };
    let per_process = BROWSERS_PER_PROCESS.min(browsers.div_ceil(2));
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("sessions.sqlite").display());
    let mut options = Options { workers: WORKERS, ..Options::default() }.store(&store);
    let mut flags = Vec::new();
    if browsers > VERY_MANY {
        options =
            RARE_PINGS.iter().fold(options, |all, (flag, value)| all.gateway_flag(flag, value));
        flags.extend(["--connects-per-second", CONNECTS_PER_SECOND]);
    }
    let cluster = Cluster::start(options).await?;
    let mut others = Vec::new();
    for _ in 1..browsers.div_ceil(per_process) {
        others.push(cluster.another_gateway().await?);
    }
    let gateways: Vec<_> = std::iter::once(&cluster.gateway).chain(&others).collect();

    let report = folder.path().join("report.json");
    let output = Command::new(program("swarm"))
        .args(["--browsers", &browsers.to_string(), "--idle", "--v1-share", "0.5"])
        .args(flags)
        .args(["--warm-up", quiet, "--duration", quiet])
        .args(["--browsers-per-process", &per_process.to_string()])
        .args(gateways.iter().map(|gateway| format!("--url=ws://{}/ws", gateway.address)))
        .args(watched("gateways", gateways.iter().copied()))
        .args(watched("workers", &cluster.workers))
        .arg("--json")
        .arg(&report)
        .kill_on_drop(true)
        .output()
        .await?;
    let (said, wrong) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "{said}{wrong}");
    println!("{} gateways, {WORKERS} workers\n{said}", gateways.len());
    let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    assert_eq!((&report["connected"], &report["closed"]), (&browsers.into(), &0.into()));
    assert_eq!(report["swarm_processes"], gateways.len());
    let mut sessions = 0;
    for worker in &cluster.workers {
        sessions += worker.status().await?["sessions"].as_u64().context("no sessions")?;
    }
    assert_eq!(sessions, browsers as u64, "each has a session in memory");
    Ok(())
}

/// Flags that have the swarm report these together.
fn watched<'a>(
    name: &str,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> impl Iterator<Item = String> {
    let pids = nodes.into_iter().filter_map(|node| node.process.id());
    pids.map(move |pid| format!("--pid={name}={pid}"))
}
