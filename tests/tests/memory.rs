//! Sessions that leave memory and come back: idle ones, those of a worker that is short of memory,
//! and those whose time has come with nobody there.

use anyhow::Result;
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use tempfile::TempDir;

/// A cluster of the fixture app that keeps its sessions in a file.
async fn cluster(folder: &TempDir, flags: &[(&str, &str)]) -> Result<Cluster> {
    Cluster::start(options(folder, flags)).await
}

fn options(folder: &TempDir, flags: &[(&str, &str)]) -> Options {
    let store = format!("sqlite:{}/sessions.sqlite", folder.path().display());
    let mut options = Options::fixture().store(&store);
    options.workers = 1;
    for (flag, value) in flags {
        options = options.worker_flag(flag, value);
    }
    options
}

async fn list(browser: &mut Browser) -> Result<Value> {
    browser.send(json!({"tag": "list"})).await?;
    let list = browser.receive_where(|message| message["tag"] == "list").await?;
    Ok(list["items"].clone())
}

async fn append(browser: &mut Browser, n: u64, length: u64) -> Result<()> {
    browser.send(json!({"tag": "append", "n": n})).await?;
    browser.wait_for("length", &json!(length)).await
}

#[tokio::test]
async fn an_idle_session_leaves_memory_and_comes_back_with_everything() -> Result<()> {
    let folder = TempDir::new()?;
    let cluster = cluster(&folder, &[("--passivate-after", "300ms")]).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    append(&mut browser, 1, 1).await?;
    append(&mut browser, 2, 2).await?;
    browser.close().await?;
    cluster.wait_for_worker_status(0, |status| status["sessions"] == 0).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    browser.wait_for("length", &json!(2)).await?;
    append(&mut browser, 3, 3).await?;
    assert_eq!(list(&mut browser).await?, json!([1, 2, 3]));
    Ok(())
}

#[tokio::test]
async fn a_session_with_a_tab_stays_in_memory_however_idle() -> Result<()> {
    let folder = TempDir::new()?;
    let cluster = cluster(&folder, &[("--passivate-after", "100ms")]).await?;
    let mut idle = Browser::connect(&cluster.url("?session=idle")).await?;
    append(&mut idle, 1, 1).await?;
    // Ten others come and go meanwhile.
    for n in 0..10 {
        let mut other = Browser::connect(&cluster.url(&format!("?session=other-{n}"))).await?;
        append(&mut other, 1, 1).await?;
        other.close().await?;
        cluster.wait_for_worker_status(0, |status| status["sessions"] == 1).await?;
    }
    append(&mut idle, 2, 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_fresh_session_in_which_nothing_happened_costs_no_row() -> Result<()> {
    let folder = TempDir::new()?;
    let cluster = cluster(&folder, &[("--passivate-after", "100ms")]).await?;
    for _ in 0..5 {
        Browser::connect(&cluster.url("")).await?.close().await?;
    }
    let mut browser = Browser::connect(&cluster.url("")).await?;
    append(&mut browser, 1, 1).await?;
    browser.close().await?;
    cluster.wait_for_worker_status(0, |status| status["sessions"] == 0).await?;
    let rows = rusqlite::Connection::open(folder.path().join("sessions.sqlite"))?.query_row(
        "SELECT count(*) FROM session",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    assert_eq!(rows, 1, "only the one that has something to keep");
    Ok(())
}

#[tokio::test]
async fn work_that_is_due_is_done_with_nobody_there() -> Result<()> {
    let folder = TempDir::new()?;
    // What is due within the idle time keeps a session in memory, so it must be further away.
    let mut cluster = cluster(&folder, &[("--passivate-after", "100ms")]).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    browser.send(json!({"tag": "later", "n": 7, "seconds": 8})).await?;
    append(&mut browser, 1, 1).await?;
    browser.close().await?;
    cluster.wait_for_worker_status(0, |status| status["dirty"] == 0).await?;
    // Another worker finds the session, whose owner has died, and does what is due.
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;
    let woken = |status: &Value| status["commits"].as_u64() > Some(0);
    cluster.wait_for_worker_status(0, woken).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    browser.wait_for("length", &json!(2)).await?;
    assert_eq!(list(&mut browser).await?, json!([1, 7]));
    Ok(())
}

#[tokio::test]
async fn a_worker_short_of_memory_lets_idle_states_go_and_their_pages_notice_nothing() -> Result<()>
{
    let folder = TempDir::new()?;
    let budget = (72 * 1024 * 1024).to_string();
    let options = options(&folder, &[("--memory-budget", &budget)]);
    // As in the image: what is large goes back to the system.
    let options = options.worker_variable("MALLOC_MMAP_THRESHOLD_", "1048576");
    let cluster =
        Cluster::start(options.worker_variable("MALLOC_TRIM_THRESHOLD_", "16777216")).await?;
    let mut browsers = Vec::new();
    for n in 0..30 {
        let mut browser = Browser::connect(&cluster.url(&format!("?session=s-{n}"))).await?;
        append(&mut browser, n, 1).await?;
        browser.send(json!({"tag": "grow", "bytes": 4 * 1024 * 1024})).await?;
        browser.wait_for("ballast", &json!(4 * 1024 * 1024)).await?;
        browsers.push(browser);
    }
    // 120 MiB of states, and they are back below the budget; less than one state beyond it may be
    // what the worker itself, which asks the kernel in a cheaper way, takes for as much as it may.
    let resident = || cluster.workers[0].process.resident_kib();
    cluster.wait_for_worker_status(0, |_| resident().is_ok_and(|kib| kib < 75 * 1024)).await?;
    for (n, browser) in browsers.iter_mut().enumerate() {
        append(browser, 100, 2).await?;
        assert_eq!(list(browser).await?, json!([n, 100]));
    }
    Ok(())
}

#[tokio::test]
async fn a_message_that_ends_its_worker_again_and_again_ends_only_its_session() -> Result<()> {
    let folder = TempDir::new()?;
    let mut cluster = cluster(&folder, &[]).await?;
    let mut poisoned = Browser::connect(&cluster.url("?session=poisoned")).await?;
    let mut other = Browser::connect(&cluster.url("?session=other")).await?;
    append(&mut poisoned, 1, 1).await?;
    append(&mut other, 1, 1).await?;
    cluster.wait_for_worker_status(0, |status| status["dirty"] == 0).await?;
    poisoned.send(json!({"tag": "die"})).await?;
    // The first death is nobody's; each of the next three is a strike.
    for _ in 0..4 {
        cluster.workers[0].process.wait().await?;
        cluster.start_worker_again(0).await?;
    }
    assert_eq!(poisoned.closed().await?, 4503);
    append(&mut other, 2, 2).await?;
    assert_eq!(list(&mut other).await?, json!([1, 2]));
    assert!(cluster.workers[0].process.id().is_some(), "nobody dies of it any more");
    Ok(())
}

#[tokio::test]
async fn sessions_of_which_two_owners_have_died_are_all_served() -> Result<()> {
    let folder = TempDir::new()?;
    let mut cluster = cluster(&folder, &[]).await?;
    let mut browsers = Vec::new();
    for n in 0..3 {
        let mut browser = Browser::connect(&cluster.url(&format!("?session=s-{n}"))).await?;
        append(&mut browser, n, 1).await?;
        browsers.push(browser);
    }
    cluster.wait_for_worker_status(0, |status| status["dirty"] == 0).await?;
    cluster.kill_worker(0).await?;
    // As if the owner before had died, too, before it could commit what it was sent.
    let database = rusqlite::Connection::open(folder.path().join("sessions.sqlite"))?;
    assert_eq!(database.execute("UPDATE session SET strikes = 1", [])?, 3);
    cluster.restart_worker(0).await?;
    // Each may be why, so they are fed one at a time; the others do not wait for one that is quiet.
    for browser in &mut browsers {
        append(browser, 10, 2).await?;
    }
    for (n, browser) in browsers.iter_mut().enumerate() {
        assert_eq!(list(browser).await?, json!([n, 10]));
    }
    Ok(())
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_kept_and_its_page_is_told() -> Result<()> {
    let folder = TempDir::new()?;
    let mut cluster = cluster(&folder, &[]).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    append(&mut browser, 1, 1).await?;
    browser.send(json!({"tag": "spoil"})).await?;
    browser.wait_for("spoilt", &json!(true)).await?;
    cluster.wait_for_worker_status(0, |status| status["dirty"] == 0).await?;
    let length = || -> Result<i64> {
        let database = rusqlite::Connection::open(folder.path().join("sessions.sqlite"))?;
        Ok(database.query_row("SELECT length(state) FROM session", [], |row| row.get(0))?)
    };
    let saved = length()?;
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;
    assert_eq!(browser.closed().await?, 4503);
    let mut again = Browser::connect(&cluster.url("?session=anna")).await?;
    assert_eq!(again.closed().await?, 4503);
    assert_eq!(length()?, saved, "its bytes are kept");
    let mut other = Browser::connect(&cluster.url("?session=other")).await?;
    append(&mut other, 1, 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_reset_where_that_is_wanted() -> Result<()> {
    let folder = TempDir::new()?;
    let mut cluster = cluster(&folder, &[("--on-unreadable", "reset")]).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    append(&mut browser, 1, 1).await?;
    browser.send(json!({"tag": "spoil"})).await?;
    browser.wait_for("spoilt", &json!(true)).await?;
    cluster.wait_for_worker_status(0, |status| status["dirty"] == 0).await?;
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;
    let error = browser.receive_where(|message| message["tag"] == "error").await?;
    let text = "this session's saved state could not be read, so it starts from nothing";
    assert_eq!(error["error"], text);
    let details = error["details"].as_str().unwrap_or_default();
    assert!(details.contains("it was marked as unreadable; a new field needs"), "{details}");
    append(&mut browser, 2, 1).await?;
    assert_eq!(list(&mut browser).await?, json!([2]));
    Ok(())
}

#[tokio::test]
async fn a_state_that_is_too_long_is_told_and_saved_again_once_it_is_short_enough() -> Result<()> {
    let folder = TempDir::new()?;
    let cluster = cluster(&folder, &[("--commit-interval", "100ms")]).await?;
    let mut browser = Browser::connect(&cluster.url("?session=anna")).await?;
    browser.send(json!({"tag": "grow", "bytes": 17 * 1024 * 1024})).await?;
    let error = browser.receive_where(|message| message["tag"] == "error").await?;
    let text = error["error"].as_str().unwrap_or_default();
    assert!(text.starts_with("this session is not saved: its state is 178"), "{text}");
    assert!(text.ends_with("bytes long, allowed are 16777216"), "{text}");
    append(&mut browser, 1, 1).await?;
    Ok(())
}
