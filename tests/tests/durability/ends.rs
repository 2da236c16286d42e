//! A worker that is told to end commits what it has, or says what it could not.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use single_state_tests::append::{Appender, is_stored, must_have_all};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::postgres::TempPostgres;

use crate::sqlite;

const PAGES: usize = 20;
const ITEMS: u64 = 20;

/// No commit comes by itself: it is the end that saves.
async fn start(store: &str) -> Result<(Cluster, Vec<Appender>)> {
    start_with(store, "2s").await
}

async fn start_with(store: &str, drain_timeout: &str) -> Result<(Cluster, Vec<Appender>)> {
    let options = Options { workers: 2, ..Options::default() };
    let options = options.store(store).worker_flag("--commit-interval", "1h");
    let cluster = Cluster::start(options.worker_flag("--drain-timeout", drain_timeout)).await?;
    let mut pages = Appender::connect_many(&cluster, PAGES).await?;
    for page in &mut pages {
        page.append_all(ITEMS).await?;
        ensure!(!is_stored(store, std::slice::from_ref(page)).await?, "committed, and why?");
    }
    Ok((cluster, pages))
}

async fn a_drain_commits_everything(store: &str) -> Result<()> {
    let (mut cluster, mut pages) = start_with(store, "50s").await?;
    for worker in &mut cluster.workers {
        worker.process.signal("TERM")?;
        let status = worker.process.wait().await?;
        ensure!(status.code() == Some(0), "{status}:\n{}", worker.process.output());
    }
    ensure!(is_stored(store, &pages).await?, "a worker has ended well, and something is missing");
    for index in 0..cluster.workers.len() {
        cluster.wait_for_worker(index, "down").await?;
        cluster.restart_worker(index).await?;
    }
    must_have_all(&mut pages).await
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_commits_everything_to_sqlite_first() -> Result<()> {
    let folder = tempfile::tempdir()?;
    a_drain_commits_everything(&sqlite(&folder)).await
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_commits_everything_to_postgresql_first() -> Result<()> {
    let server = TempPostgres::start().await?;
    a_drain_commits_everything(&server.url()).await
}

#[tokio::test]
async fn sessions_that_are_never_committed_otherwise_are_committed_at_the_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = Options { workers: 1, ..Options::default() }.store(&sqlite(&folder));
    let mut cluster = Cluster::start(options.worker_flag("--durability", "memory")).await?;
    let mut pages = Appender::connect_many(&cluster, PAGES).await?;
    for page in &mut pages {
        page.append_all(ITEMS).await?;
    }
    cluster.workers[0].process.signal("TERM")?;
    ensure!(cluster.workers[0].process.wait().await?.success());
    cluster.wait_for_worker(0, "down").await?;
    cluster.restart_worker(0).await?;
    must_have_all(&mut pages).await
}

#[tokio::test]
async fn sessions_leave_memory_when_nobody_is_there_and_come_back_as_they_were() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = Options { workers: 1, ..Options::default() }.store(&sqlite(&folder));
    let options = options.worker_flag("--commit-interval", "1h");
    let cluster = Cluster::start(options.worker_flag("--passivate-after", "100ms")).await?;
    for round in 0..4 {
        let mut page = Browser::connect(&cluster.url("?session=idle")).await?;
        page.send(json!({"tag": "append", "item": round.to_string()})).await?;
        page.wait_for("count", &json!(round + 1)).await?;
        page.close().await?;
        cluster.wait_for_worker_status(0, |status| status["sessions"] == 0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_that_cannot_commit_ends_with_1_and_says_of_how_many_sessions() -> Result<()> {
    let server = TempPostgres::start().await?;
    let (mut cluster, mut pages) = start(&server.url()).await?;
    server.stop_fast().await?;
    let mut left = 0;
    for worker in &mut cluster.workers {
        worker.process.signal("TERM")?;
        let status = worker.process.wait().await?;
        ensure!(status.code() == Some(1), "{status}:\n{}", worker.process.output());
        let told = |line: &str| {
            let (number, _) = line.split_once(" sessions were not committed in time")?;
            number.rsplit(' ').next()?.parse::<usize>().ok()
        };
        left += worker.process.wait_for_line(told).await.context("it says how many")?;
    }
    ensure!(left == PAGES, "{left} sessions, and there are {PAGES}");
    // Its gateway still has what was not acknowledged.
    server.restart().await?;
    for index in 0..cluster.workers.len() {
        cluster.wait_for_worker(index, "down").await?;
        cluster.restart_worker(index).await?;
    }
    must_have_all(&mut pages).await
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_waits_for_its_database_as_long_as_it_may() -> Result<()> {
    let server = TempPostgres::start().await?;
    let (mut cluster, mut pages) = start_with(&server.url(), "50s").await?;
    server.stop_fast().await?;
    for worker in &cluster.workers {
        worker.process.signal("TERM")?;
        worker.process.wait_for_message("worker drains").await?;
    }
    for index in 0..cluster.workers.len() {
        cluster.wait_for_worker_status(index, |status| status["saving"] == false).await?;
    }
    server.restart().await?;
    for worker in &mut cluster.workers {
        let status = worker.process.wait().await?;
        ensure!(status.code() == Some(0), "{status}:\n{}", worker.process.output());
    }
    ensure!(is_stored(&server.url(), &pages).await?, "a worker has ended well");
    for index in 0..cluster.workers.len() {
        cluster.wait_for_worker(index, "down").await?;
        cluster.restart_worker(index).await?;
    }
    must_have_all(&mut pages).await
}
