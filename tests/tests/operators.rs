//! What operators see: probes, status, metrics.

use std::process::Stdio;

use anyhow::{Context, Result};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use single_state_tests::DEADLINE;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::fleet::{Fleet, Plan};
use single_state_tests::process::program;
use single_state_tests::proxy::{Faults, Flow};
use tempfile::TempDir;
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

const FOR_BROWSERS: &str = "single_state_queued_bytes{waits_for=\"browsers\"}";
const FOR_WORKERS: &str = "single_state_queued_bytes{waits_for=\"workers\"}";
const FOR_ACKS: &str = "single_state_queued_bytes{waits_for=\"acknowledgements\"}";
const FOR_SESSIONS: &str = "single_state_queued_bytes{waits_for=\"sessions\"}";
const FOR_GATEWAYS: &str = "single_state_queued_bytes{waits_for=\"gateways\"}";
const STALLS_IN: &str = "single_state_credit_stalls_total{direction=\"in\"}";
const STALLS_OUT: &str = "single_state_credit_stalls_total{direction=\"out\"}";

#[tokio::test]
async fn what_waits_for_a_slow_page_is_counted() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let (gateway, worker) = (&cluster.gateway, &cluster.workers[0]);
    let mut slow = Browser::connect_slow(&cluster.url("")).await?;
    assert_eq!(slow.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    gateway.wait_for_metric(FOR_BROWSERS, |bytes| bytes == 0.0).await?;
    assert_eq!(worker.metric(STALLS_OUT).await?, 0.0);

    // More than the kernel takes, and all of one call: so the page is not given up.
    let events = 80;
    slow.send(json!({"tag": "burst", "events": events, "bytes": 120_000})).await?;
    gateway.wait_for_metric(FOR_BROWSERS, |waiting| waiting > 60_000.0).await?;
    worker.wait_for_metric(STALLS_OUT, |stalls| stalls > 0.0).await?;
    assert_eq!(gateway.metric(STALLS_IN).await?, 0.0, "it is not the session that is slow");

    for n in 0..events {
        assert_eq!(slow.receive().await?["n"], n);
    }
    gateway.wait_for_metric(FOR_BROWSERS, |bytes| bytes == 0.0).await
}

#[tokio::test]
async fn what_waits_for_a_slow_link_is_counted() -> Result<()> {
    let options = Options { workers: 1, ..Options::fixture() };
    let plan = Plan { options, gateways: 1, has_proxies: true, ..Plan::default() };
    let fleet = Fleet::start(plan).await?;
    let mut tab = Browser::connect(&fleet.url(0, "")).await?;
    assert_eq!(tab.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    let slow = Faults { down: Flow::Slow(1_000_000), ..Faults::default() };
    fleet.proxies[0][0].set(slow);
    // More than any kernel takes.
    tab.send(json!({"tag": "burst", "events": 4, "bytes": 15_000_000})).await?;
    fleet.workers[0].wait_for_metric(FOR_GATEWAYS, |bytes| bytes > 1e6).await?;
    fleet.proxies[0][0].heal();
    for n in 0..4 {
        assert_eq!(tab.receive().await?["n"], n);
    }
    fleet.workers[0].wait_for_metric(FOR_GATEWAYS, |bytes| bytes == 0.0).await
}

#[tokio::test]
async fn what_waits_for_a_busy_session_is_counted_and_for_how_long_it_did() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let (gateway, worker) = (&cluster.gateway, &cluster.workers[0]);
    let mut tab = Browser::connect(&cluster.url("")).await?;
    tab.send(json!({"tag": "wait", "seconds": 8})).await?;
    // Its window takes 16 of them, and the gateway keeps the others.
    for _ in 0..40 {
        tab.send_binary(vec![0; 4000]).await?;
    }
    worker.wait_for_metric(FOR_SESSIONS, |bytes| bytes > 60_000.0).await?;
    gateway.wait_for_metric(FOR_WORKERS, |bytes| bytes > 60_000.0).await?;
    gateway.wait_for_metric(FOR_ACKS, |bytes| bytes > 60_000.0).await?;
    gateway.wait_for_metric(STALLS_IN, |stalls| stalls > 0.0).await?;
    assert_eq!(tab.receive().await?["tag"], "waited");
    for _ in 0..40 {
        assert_eq!(tab.receive_binary().await?.len(), 4000);
    }
    worker.wait_for_metric(FOR_SESSIONS, |bytes| bytes == 0.0).await?;
    gateway.wait_for_metric(FOR_WORKERS, |bytes| bytes == 0.0).await?;
    gateway.wait_for_metric(FOR_ACKS, |bytes| bytes == 0.0).await?;

    // All but the first have waited for most of its handler's time, if not in the gateway.
    assert_eq!(worker.metric("single_state_queue_seconds_count").await?, 41.0);
    assert!(worker.metric("single_state_queue_seconds_sum").await? > 15.0);
    assert!(worker.metric("single_state_queue_seconds_sum").await? < 41.0 * 60.0);
    assert!(worker.metric("single_state_handle_seconds_sum").await? >= 8.0);
    Ok(())
}

/// Where sessions are kept that several workers, and the test, know of.
fn store() -> Result<(TempDir, String)> {
    let folder = TempDir::new()?;
    let store = format!("sqlite:{}/sessions.sqlite", folder.path().display());
    Ok((folder, store))
}

#[tokio::test]
async fn sessions_that_are_not_at_home_are_counted_until_they_are() -> Result<()> {
    let (_folder, store) = store()?;
    let options = Options { workers: 2, ..Options::fixture() }.store(&store);
    let mut cluster = Cluster::start(options).await?;
    let misplaced = "single_state_sessions_misplaced";
    let mut tabs = Vec::new();
    for index in [0, 0, 1] {
        let session = cluster.session_on(index, "a");
        let mut tab = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
        assert_eq!(tab.ask(json!({"tag": "ping"})).await?["worker"], index);
        tabs.push(tab);
    }
    assert_eq!(cluster.gateway.metric(misplaced).await?, 0.0);
    cluster.kill_worker(0).await?;
    // Two tabs are one session.
    cluster.wait_for_metric(misplaced, |sessions| sessions == 1.0).await?;
    cluster.restart_worker(0).await?;
    cluster.wait_for_metric(misplaced, |sessions| sessions == 0.0).await?;
    // What was said before may be said again.
    tabs[1].send(json!({"tag": "ping"})).await?;
    tabs[1].receive_where(|message| message["worker"] == 0).await.map(drop)
}

#[tokio::test]
async fn sessions_are_counted_while_they_load_sleep_and_leave() -> Result<()> {
    let (folder, store) = store()?;
    let options = Options { workers: 1, ..Options::fixture() }.store(&store);
    let options = options.worker_flag("--memory-budget", "1").worker_flag("--handler-grace", "60s");
    let cluster = Cluster::start(options.worker_flag("--drain-timeout", "60s")).await?;
    let worker = &cluster.workers[0];

    let database = Connection::open(folder.path().join("sessions.sqlite"))?;
    database.execute_batch("BEGIN IMMEDIATE")?;
    let mut tab = Browser::connect(&cluster.url("?session=anna")).await?;
    worker.wait_for_metric("single_state_sessions_loading", |sessions| sessions == 1.0).await?;
    database.execute_batch("COMMIT")?;
    tab.send(json!({"tag": "append", "n": 1})).await?;
    tab.wait_for("length", &json!(1)).await?;
    assert_eq!(worker.metric("single_state_sessions_loading").await?, 0.0);

    worker.wait_for_metric("single_state_sessions_asleep", |sessions| sessions == 1.0).await?;
    tab.send(json!({"tag": "wait", "seconds": 60})).await?;
    worker.wait_for_metric("single_state_sessions_asleep", |sessions| sessions == 0.0).await?;

    // What runs is waited for.
    worker.process.signal("TERM")?;
    worker.wait_for_metric("single_state_sessions_leaving", |sessions| sessions == 1.0).await
}
