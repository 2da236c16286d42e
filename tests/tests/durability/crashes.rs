//! Every worker killed at once, with everything committed and in the middle of everything.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::append::{
    Appender, Crowd, is_stored, kill_and_restart, must_have_all, must_survive, wait_until_stored,
};
use single_state_tests::browser::Browser;
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

#[tokio::test]
async fn a_page_sees_each_event_once_when_sessions_are_durable() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = Options::default().store(&sqlite(&folder)).worker_flag("--durability", "durable");
    let mut cluster = Cluster::start(options).await?;
    let mut page = Browser::connect(&cluster.url("?session=events")).await?;
    page.send(json!({"tag": "append", "item": "a"})).await?;
    page.wait_for("count", &json!(1)).await?;
    for kill in 0..3 {
        let list = page.ask(json!({"tag": "items"})).await?;
        ensure!(list["tag"] == "items", "after {kill} kills: {list}");
        kill_and_restart(&mut cluster).await?;
        let found = page.ask(json!({"tag": "where"})).await?;
        ensure!(found["tag"] == "where", "a page has seen this before: {found}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_sees_each_event_once_also_when_a_handler_of_a_durable_session_panics() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let options = Options::fixture().store(&sqlite(&folder)).worker_flag("--durability", "durable");
    let cluster = Cluster::start(options).await?;
    let mut page = Browser::connect(&cluster.url("?session=events")).await?;
    page.send(json!({"tag": "append", "n": 1})).await?;
    page.wait_for("length", &json!(1)).await?;
    for panic in 0..3 {
        let list = page.ask(json!({"tag": "list"})).await?;
        ensure!(list["tag"] == "list", "after {panic} panics: {list}");
        page.send(json!({"tag": "panic"})).await?;
        let error = page.receive_where(|message| message["tag"] != "assign").await?;
        ensure!(error["tag"] == "error", "a page has seen this before: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn two_pages_of_one_session_lose_nothing_and_see_the_same_order() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = sqlite(&folder);
    let options = Options::default().store(&store).worker_flag("--commit-interval", "50ms");
    let mut cluster = Cluster::start(options).await?;
    let mut pages = Vec::new();
    for _ in 0..3 {
        pages.push(Browser::connect(&cluster.url("?session=shared")).await?);
    }
    for number in 0..300 {
        for (name, page) in pages.iter_mut().enumerate() {
            page.send(json!({"tag": "append", "item": format!("{name}/{number}")})).await?;
        }
        if number % 100 == 50 {
            kill_and_restart(&mut cluster).await?;
        }
    }
    for page in &mut pages {
        page.wait_for("count", &json!(900)).await?;
    }
    let mut lists = Vec::new();
    for page in &mut pages {
        page.send(json!({"tag": "items"})).await?;
        lists.push(page.receive_where(|message| message["tag"] == "items").await?);
    }
    for name in 0..pages.len() {
        let name = format!("{name}/");
        let items = lists[0]["items"].as_array().context("a list")?.iter();
        let mine = items.filter(|item| item.as_str().is_some_and(|item| item.starts_with(&name)));
        let sent: Vec<_> = (0..300).map(|number| json!(format!("{name}{number}"))).collect();
        ensure!(mine.eq(&sent), "page {name}: {}", lists[0]);
    }
    ensure!(lists.iter().all(|list| list["items"] == lists[0]["items"]), "{lists:?}");
    Ok(())
}

#[tokio::test]
async fn a_long_list_is_too_long_to_come_with_its_claim_and_survives_too() -> Result<()> {
    let (folder, server) = (tempfile::tempdir()?, TempPostgres::start().await?);
    for store in [sqlite(&folder), server.url()] {
        let mut cluster = Cluster::start(Options::default().store(&store)).await?;
        let mut page = Browser::connect(&cluster.url("?session=long")).await?;
        for number in 0..30_u64 {
            let item = format!("{number}{}", "x".repeat(100_000));
            page.send(json!({"tag": "append", "item": item})).await?;
            if number == 20 {
                kill_and_restart(&mut cluster).await?;
            }
        }
        page.wait_for("count", &json!(30)).await?;
        kill_and_restart(&mut cluster).await?;
        page.send(json!({"tag": "items"})).await?;
        let list = page.receive_where(|message| message["tag"] == "items").await?;
        let items = list["items"].as_array().context("a list")?;
        let numbers =
            items.iter().filter_map(|item| item.as_str()?.split('x').next()?.parse::<u64>().ok());
        ensure!(numbers.eq(0..30_u64), "{} items", items.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_training_goes_on_where_it_was_committed_with_nobody_sending_anything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = Options::default().store(&sqlite(&folder));
    let mut cluster = Cluster::start(options.worker_flag("--commit-interval", "50ms")).await?;
    let mut page = Browser::connect(&cluster.url("?session=training")).await?;
    page.send(json!({"tag": "train", "steps": 40})).await?;
    for done in [5, 15] {
        let far = |m: &Value| m["key"] == "progress" && m["value"]["done"].as_u64() >= Some(done);
        page.receive_where(far).await?;
        kill_and_restart(&mut cluster).await?;
    }
    page.wait_for("training", &json!("done")).await
}
