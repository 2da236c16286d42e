//! What operators see: probes, status, metrics.

use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use single_state_tests::DEADLINE;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::process::program;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

#[tokio::test]
async fn probes_tell_alive_and_ready() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    for node in [&cluster.gateway, &cluster.workers[0]] {
        assert_eq!(node.admin_get("/livez").await?, (200, "alive\n".to_owned()));
        assert_eq!(node.admin_get("/readyz").await?, (200, "ready\n".to_owned()));
    }
    Ok(())
}

#[tokio::test]
async fn a_process_whose_log_nobody_reads_any_more_goes_on_and_ends_when_it_is_told_to()
-> Result<()> {
    for name in ["worker", "gateway"] {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(program(name));
        command.current_dir(folder.path()).stderr(Stdio::piped()).kill_on_drop(true);
        let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let more: &[&str] = match name {
            "worker" => &["--store", "memory:"],
            _ => &["--workers", "127.0.0.1:1", "--unsigned-sessions"],
        };
        if name == "gateway" {
            command.arg("run");
        }
        let mut process = command.args(flags).args(more).spawn()?;
        let mut log = BufReader::new(process.stderr.take().context("its log")?).lines();
        while !log.next_line().await?.context("it listens first")?.contains(" listens") {}
        drop(log);
        let id = process.id().and_then(|id| Pid::from_raw(id as i32)).context("it runs")?;
        kill_process(id, Signal::TERM)?;
        let status = timeout(DEADLINE, process.wait()).await.context(name)??;
        assert!(status.success(), "{name}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_gateway_stays_ready_when_its_workers_go_away_later() -> Result<()> {
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    cluster.kill_worker(0).await?;
    cluster.wait_for_worker(0, "down").await?;
    assert_eq!(cluster.gateway.admin_get("/readyz").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn status_and_metrics_count_connections_sessions_and_messages() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let mut browsers = Vec::new();
    for i in 0..5 {
        let mut browser = Browser::connect(&cluster.url(&format!("?session=s{i}"))).await?;
        browser.ask(json!({"tag": "items"})).await?;
        browsers.push(browser);
    }
    let (gateway, worker) = (cluster.gateway.status().await?, cluster.workers[0].status().await?);
    assert_eq!(gateway["connections"], 5);
    assert_eq!(gateway["generation"], 1);
    assert_eq!(gateway["workers"][0]["streams"], 5);
    assert_eq!((&worker["index"], &worker["sessions"]), (&json!(0), &json!(5)));
    assert_eq!(worker["incarnation"], gateway["workers"][0]["incarnation"]);
    assert_eq!(cluster.gateway.metric("single_state_messages_in_total").await?, 5.0);
    assert_eq!(cluster.gateway.metric("single_state_messages_out_total").await?, 5.0);
    assert_eq!(cluster.workers[0].metric("single_state_messages_handled_total").await?, 5.0);
    for browser in browsers {
        browser.close().await?;
    }
    cluster.wait_for_metric("single_state_connections", |open| open == 0.0).await?;
    Ok(())
}

#[tokio::test]
async fn sessions_that_nobody_used_leave_memory_with_their_browser() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let browser = Browser::connect(&cluster.url("")).await?;
    assert_eq!(cluster.workers[0].status().await?["sessions"], 1);
    drop(browser);
    cluster.wait_for_metric("single_state_connections", |open| open == 0.0).await?;
    cluster.wait_for_worker_status(0, |status| status["sessions"] == 0).await
}
