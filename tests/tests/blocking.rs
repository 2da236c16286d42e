//! A handler that blocks its worker's event loop is named, and does not become a failover (R9).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::process::Process;
use tokio::process::Command;

/// The watchdog's line about the code that blocks.
async fn warning(worker: &Process) -> Result<Value> {
    log_line(worker, BLOCKS).await
}

const BLOCKS: &str = "a handler blocks all sessions of this worker";

async fn log_line(process: &Process, beginning: &str) -> Result<Value> {
    process
        .wait_for_line(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["message"].as_str()?.starts_with(beginning).then_some(line)
        })
        .await
}

/// The gateway has had one and the same link to each worker all the time.
async fn check_no_link_was_lost(cluster: &Cluster, before: &Value) -> Result<()> {
    let now = cluster.gateway.status().await?;
    for index in 0..cluster.workers.len() {
        let (now, before) = (&now["workers"][index], &before["workers"][index]);
        assert_eq!(now["state"], "up");
        assert_eq!(now["incarnation"], before["incarnation"]);
        let log = cluster.workers[index].process.output();
        assert!(!log.contains("link ended"), "{log}");
    }
    let log = cluster.gateway.process.output();
    assert!(!log.contains("link lost"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_handler_that_blocks_its_worker_for_5_s_costs_no_link_and_is_named() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 2, ..Options::fixture() }).await?;
    let before = cluster.gateway.status().await?;
    let (blocking, waiting, elsewhere) = (
        cluster.session_on(0, "blocking"),
        cluster.session_on(0, "waiting"),
        cluster.session_on(1, "elsewhere"),
    );
    let mut browser = Browser::connect(&cluster.url(&format!("?session={blocking}"))).await?;
    let mut neighbour = Browser::connect(&cluster.url(&format!("?session={waiting}"))).await?;
    let mut stranger = Browser::connect(&cluster.url(&format!("?session={elsewhere}"))).await?;
    neighbour.ask(json!({"tag": "ping"})).await?;

    browser.send(json!({"seconds": 5, "tag": "block"})).await?;
    let line = warning(&cluster.workers[0].process).await?;
    assert_eq!(line["session.id"], json!(blocking));
    assert_eq!(line["handler"], "\"block\"");
    let message = line["message"].as_str().unwrap_or_default();
    assert!(message.contains("ctx.compute"), "it says what to do: {message}");

    neighbour.send(json!({"tag": "append", "n": 1})).await?;
    browser.send(json!({"tag": "append", "n": 2})).await?;
    assert_eq!(stranger.ask(json!({"tag": "ping"})).await?["worker"], 1);

    assert_eq!(browser.receive().await?["tag"], "unblocked");
    browser.wait_for("length", &json!(1)).await?;
    neighbour.wait_for("length", &json!(1)).await?;
    check_no_link_was_lost(&cluster, &before).await?;
    log_line(&cluster.workers[0].process, "the event loop is free again").await?;
    assert!(cluster.workers[0].metric("single_state_blocked_total").await? >= 1.0);
    Ok(())
}

#[tokio::test]
async fn a_handler_that_blocks_for_too_long_ends_the_worker_and_no_socket() -> Result<()> {
    let options = Options { workers: 1, ..Options::fixture() };
    let mut cluster = Cluster::start(options.worker_flag("--block-limit", "1s")).await?;
    let mut browser = Browser::connect(&cluster.url("?session=endless")).await?;
    browser.send(json!({"tag": "block", "seconds": 1_000_000})).await?;
    let worker = &mut cluster.workers[0].process;
    assert_eq!(worker.wait().await?.code(), Some(1));
    let line = log_line(worker, "the worker ends: a handler has blocked").await?;
    assert_eq!((&line["level"], &line["session.id"]), (&json!("ERROR"), &json!("endless")));
    assert_eq!(line["handler"], "\"block\"");
    cluster.wait_for_worker(0, "down").await?;
    browser.send(json!({"tag": "append", "n": 1})).await?;
    assert_eq!(cluster.gateway.status().await?["connections"], 1);
    Ok(())
}

#[tokio::test]
async fn work_beside_a_session_that_blocks_is_named_too() -> Result<()> {
    let options = Options { workers: 1, ..Options::fixture() };
    let cluster = Cluster::start(options.worker_flag("--block-warning", "100ms")).await?;
    let mut browser = Browser::connect(&cluster.url("?session=busy")).await?;
    browser.send(json!({"tag": "block", "seconds": 1, "beside": true})).await?;
    // A slow machine may warn of others as well.
    let of_work = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["handler"] == "the work \"slow work\"").then_some(line)
    };
    let line = cluster.workers[0].process.wait_for_line(of_work).await?;
    assert_eq!(line["session.id"], "busy");
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with(BLOCKS)), "{line}");
    assert_eq!(browser.receive().await?["tag"], "unblocked");
    Ok(())
}

#[tokio::test]
async fn a_handler_that_computes_or_waits_blocks_nothing() -> Result<()> {
    let options = Options { workers: 1, ..Options::fixture() }
        .worker_flag("--block-warning", "1s")
        .worker_flag("--block-limit", "2s");
    let cluster = Cluster::start(options).await?;
    let mut computing = Browser::connect(&cluster.url("?session=computing")).await?;
    let mut waiting = Browser::connect(&cluster.url("?session=waiting")).await?;
    waiting.send(json!({"tag": "wait", "seconds": 3})).await?;
    assert_eq!(computing.ask(json!({"tag": "compute", "seconds": 3})).await?["tag"], "computed");
    assert_eq!(waiting.receive().await?["tag"], "waited");
    let log = cluster.workers[0].process.output();
    assert!(!log.contains("a handler blocks"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_was_stopped_for_longer_than_the_limit_goes_on() -> Result<()> {
    let options = Options { workers: 1, ..Options::fixture() };
    let cluster = Cluster::start(options.worker_flag("--block-limit", "1s")).await?;
    let mut browser = Browser::connect(&cluster.url("?session=stopped")).await?;
    browser.ask(json!({"tag": "append", "n": 1})).await?;
    let worker = &cluster.workers[0].process;
    worker.signal("STOP")?;
    // The gateway says so after 3 s of silence: nobody keeps the link of a stopped process alive.
    cluster.wait_for_worker(0, "down").await?;
    worker.signal("CONT")?;
    cluster.wait_for_worker(0, "up").await?;
    browser.send(json!({"tag": "list"})).await?;
    let list = browser.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!([1]), "the process lived on, and with it the session");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_gets_no_cpu_is_not_ended_for_it() -> Result<()> {
    let options = Options { workers: 1, ..Options::fixture() };
    let cluster = Cluster::start(options.worker_flag("--block-limit", "1s")).await?;
    let mut browser = Browser::connect(&cluster.url("?session=starved")).await?;
    browser.ask(json!({"tag": "append", "n": 1})).await?;
    let worker = &cluster.workers[0].process;

    // Its event loop, which is its first thread, has what others leave: nearly nothing.
    let id = worker.id().context("it runs")?.to_string();
    let schedule = async |policy| {
        let set = Command::new("chrt").args([policy, "--pid", "0", &id]).status().await?;
        ensure!(set.success(), "chrt {policy}");
        Ok(())
    };
    schedule("--idle").await?;
    let cores = std::thread::available_parallelism()?.get();
    let until = Instant::now() + Duration::from_secs(3);
    let others = (0..2 * cores).map(|_| {
        std::thread::spawn(move || {
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        })
    });
    let others: Vec<_> = others.collect();
    browser.send(json!({"tag": "toil", "millis": 300})).await?;
    others.into_iter().for_each(|other| other.join().expect("it ends"));
    schedule("--other").await?;

    assert_eq!(browser.receive().await?["tag"], "toiled", "the process lived on");
    assert!(!worker.output().contains("a handler blocks"), "{}", worker.output());
    Ok(())
}
