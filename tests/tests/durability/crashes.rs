//! Every worker killed at once, with everything committed and in the middle of everything.

use anyhow::{Result, ensure};
use single_state_tests::append::{
    Appender, Crowd, is_stored, kill_and_restart, must_have_all, must_survive, wait_until_stored,
};
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::postgres::TempPostgres;

use crate::sqlite;

const PAGES: usize = 40;
const ITEMS: u64 = 50;

#[tokio::test]
async fn every_committed_item_survives_the_kill_of_every_worker_in_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    committed_items_survive(&sqlite(&folder)).await
}

#[tokio::test]
async fn every_committed_item_survives_the_kill_of_every_worker_in_postgresql() -> Result<()> {
    let server = TempPostgres::start().await?;
    committed_items_survive(&server.url()).await
}

async fn committed_items_survive(store: &str) -> Result<()> {
    let mut cluster = Cluster::start(Options::default().store(store)).await?;
    let mut pages = Appender::connect_many(&cluster, PAGES).await?;
    for page in &mut pages {
        page.append_all(ITEMS).await?;
    }
    wait_until_stored(store, &pages).await?;
    kill_and_restart(&mut cluster).await?;
    must_have_all(&mut pages).await
}

#[tokio::test]
async fn what_a_page_has_seen_is_stored_already_when_sessions_are_durable() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = sqlite(&folder);
    let options = Options::default().store(&store).worker_flag("--durability", "durable");
    let mut cluster = Cluster::start(options).await?;
    let mut pages = Appender::connect_many(&cluster, PAGES).await?;
    for page in &mut pages {
        page.append_all(ITEMS).await?;
        ensure!(is_stored(&store, std::slice::from_ref(page)).await?, "{page:?} has seen more");
    }
    kill_and_restart(&mut cluster).await?;
    must_have_all(&mut pages).await
}

#[tokio::test]
async fn every_item_survives_kills_while_it_is_appended_relaxed_in_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    all_items_survive(&sqlite(&folder), "relaxed").await
}

#[tokio::test]
async fn every_item_survives_kills_while_it_is_appended_durable_in_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    all_items_survive(&sqlite(&folder), "durable").await
}

#[tokio::test]
async fn every_item_survives_kills_while_it_is_appended_relaxed_in_postgresql() -> Result<()> {
    let server = TempPostgres::start().await?;
    all_items_survive(&server.url(), "relaxed").await
}

#[tokio::test]
async fn every_item_survives_kills_while_it_is_appended_durable_in_postgresql() -> Result<()> {
    let server = TempPostgres::start().await?;
    all_items_survive(&server.url(), "durable").await
}

/// Nobody waits for a commit: gateways send again what was not acknowledged.
async fn all_items_survive(store: &str, durability: &str) -> Result<()> {
    let options = Options::default().store(store).worker_flag("--durability", durability);
    // Each life of a worker has commits, and work beyond them.
    let mut cluster = Cluster::start(options.worker_flag("--commit-interval", "100ms")).await?;
    let crowd = Crowd::start(Appender::connect_many(&cluster, PAGES).await?);
    for _ in 0..3 {
        crowd.wait_for_more(PAGES as u64 * 10).await?;
        kill_and_restart(&mut cluster).await?;
    }
    crowd.wait_for_more(PAGES as u64).await?;
    let pages = crowd.end().await?;
    must_survive(&mut cluster, store, pages).await
}
