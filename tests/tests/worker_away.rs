//! A browser's socket stays open while its worker is away.

use anyhow::Result;
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};

#[tokio::test]
async fn a_socket_stays_open_while_its_worker_is_killed_and_is_served_when_it_is_back() -> Result<()>
{
    let mut cluster = Cluster::start(Options::fixture()).await?;
    let (lost, kept) = (cluster.session_on(1, "lost"), cluster.session_on(2, "kept"));
    let mut browser = Browser::connect(&cluster.url(&format!("?session={lost}"))).await?;
    let mut neighbour = Browser::connect(&cluster.url(&format!("?session={kept}"))).await?;
    browser.ask(json!({"tag": "append", "n": 1})).await?;
    neighbour.ask(json!({"tag": "append", "n": 1})).await?;

    cluster.kill_worker(1).await?;
    cluster.wait_for_worker(1, "down").await?;
    for n in 2..=100 {
        browser.send(json!({"tag": "append", "n": n})).await?;
    }
    assert_eq!(neighbour.ask(json!({"tag": "list"})).await?["items"], json!([1]));
    cluster.restart_worker(1).await?;

    // The memory store has lost the first one; what was sent meanwhile is there once, in order.
    browser.send(json!({"tag": "list"})).await?;
    let list = browser.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!((2..=100).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test]
async fn a_browser_that_comes_while_its_worker_is_away_is_accepted_and_served_later() -> Result<()>
{
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    cluster.kill_worker(0).await?;
    cluster.wait_for_worker(0, "down").await?;
    let session = cluster.session_on(0, "early");
    let mut browser = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
    assert_eq!(browser.header("x-single-state-worker"), Some("0"), "the placement's choice");
    browser.send(json!({"tag": "append", "n": 7})).await?;
    cluster.restart_worker(0).await?;
    browser.wait_for("length", &json!(1)).await
}

#[tokio::test]
async fn a_browser_whose_worker_is_away_is_served_by_another_one() -> Result<()> {
    let mut cluster = Cluster::start(Options::fixture()).await?;
    cluster.kill_worker(0).await?;
    cluster.wait_for_worker(0, "down").await?;
    let session = cluster.session_on(0, "elsewhere");
    let mut browser = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
    browser.ask(json!({"tag": "append", "n": 7})).await?;
    assert!(matches!(browser.header("x-single-state-worker"), Some("1" | "2")));
    Ok(())
}

#[tokio::test]
async fn input_for_a_worker_that_is_away_is_bounded_and_nothing_of_it_is_lost() -> Result<()> {
    const MESSAGES: u64 = 40;
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let mut browser = Browser::connect(&cluster.url("?session=flood")).await?;
    browser.ask(json!({"tag": "append", "n": 0})).await?;
    cluster.kill_worker(0).await?;
    cluster.wait_for_worker(0, "down").await?;
    let before = cluster.gateway.process.resident_kib()?;
    let flood = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let padding = "x".repeat(250_000);
            browser.send(json!({"tag": "append", "n": n, "padding": padding})).await?;
        }
        browser.send(json!({"tag": "list"})).await?;
        anyhow::Ok(browser)
    });
    // Of 10 MB the gateway takes one message beyond its bound, and then stops reading.
    cluster.wait_for_metric("single_state_messages_in_total", |taken| taken >= 3.0).await?;
    let grown = cluster.gateway.process.resident_kib()?.saturating_sub(before);
    assert!(grown < 4 * 1024, "the gateway grew by {grown} KiB");
    cluster.restart_worker(0).await?;
    let mut browser = flood.await??;
    let list = browser.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!((0..MESSAGES).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test]
async fn a_parked_browser_is_sent_away_with_1013_when_no_worker_comes_back() -> Result<()> {
    let options = Options { workers: 1, ..Options::default() };
    let mut cluster = Cluster::start(options.gateway_flag("--park-timeout", "200ms")).await?;
    let mut browser = Browser::connect(&cluster.url("")).await?;
    cluster.kill_worker(0).await?;
    assert_eq!(browser.closed().await?, 1013);
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_ends_says_so_to_its_browsers() -> Result<()> {
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let mut browser = Browser::connect(&cluster.url("")).await?;
    cluster.gateway.process.signal("TERM")?;
    assert_eq!(browser.closed().await?, 1012);
    assert!(cluster.gateway.process.wait().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_worker_ends_cleanly_when_it_is_told_to() -> Result<()> {
    let mut cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    cluster.workers[0].process.signal("TERM")?;
    assert!(cluster.workers[0].process.wait().await?.success());
    cluster.wait_for_worker(0, "down").await
}

#[tokio::test]
async fn a_frozen_worker_is_noticed_and_its_browsers_wait() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let mut browser = Browser::connect(&cluster.url("?session=frozen")).await?;
    browser.ask(json!({"tag": "append", "n": 1})).await?;
    cluster.workers[0].process.signal("STOP")?;
    cluster.wait_for_worker(0, "down").await?;
    browser.send(json!({"tag": "append", "n": 2})).await?;
    cluster.workers[0].process.signal("CONT")?;
    cluster.wait_for_worker(0, "up").await?;
    browser.send(json!({"tag": "list"})).await?;
    let list = browser.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!([1, 2]), "the process lived on, and with it the session");
    Ok(())
}
