//! A gateway that is told to end sends its browsers away one after another, and serves each of them
//! until then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::json;
use single_state_tests::DEADLINE;
use single_state_tests::browser::Browser;
use single_state_tests::client::{Client, Manners};
use single_state_tests::cluster::{Cluster, Node, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A cluster whose gateway sends so many browsers away in a second.
async fn cluster(rate: &str) -> Result<Cluster> {
    let options = Options { workers: 1, ..Options::fixture() };
    Cluster::start(options.gateway_flag("--drain-rate", rate)).await
}

/// So many pages, in the order in which they have come.
async fn browsers(cluster: &Cluster, count: usize) -> Result<Vec<Browser>> {
    let mut browsers = Vec::new();
    for i in 0..count {
        let mut browser = Browser::connect(&cluster.url(&format!("?session=page-{i}"))).await?;
        assert_eq!(browser.ask(json!({"tag": "ping"})).await?["tag"], "pong");
        browsers.push(browser);
    }
    Ok(browsers)
}

async fn wait_until_not_ready(gateway: &Node) -> Result<()> {
    let not_ready = async {
        while gateway.admin_get("/readyz").await?.0 == 200 {}
        Ok(())
    };
    timeout(DEADLINE, not_ready).await?
}

const PAGE: &str = "GET /ws HTTP/1.1\r\nhost: a\r\n\r\n";
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\n\
                       sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

#[tokio::test]
async fn a_gateway_that_drains_takes_nobody_new_and_serves_those_it_has() -> Result<()> {
    // The last one has its turn after half a minute.
    let mut cluster = cluster("1").await?;
    let mut browsers = browsers(&cluster, 30).await?;
    let mut kept_alive = TcpStream::connect(&cluster.gateway.address).await?;
    kept_alive.write_all(PAGE.as_bytes()).await?;
    kept_alive.readable().await?;

    cluster.gateway.process.signal("TERM")?;
    wait_until_not_ready(&cluster.gateway).await?;
    assert!(TcpStream::connect(&cluster.gateway.address).await.is_err(), "it still listens");
    assert_eq!(cluster.gateway.metric("single_state_draining").await?, 1.0);
    kept_alive.write_all(UPGRADE.as_bytes()).await?;
    let mut answers = String::new();
    timeout(DEADLINE, kept_alive.read_to_string(&mut answers)).await??;
    assert!(answers.contains("HTTP/1.1 426 ") && answers.contains("HTTP/1.1 503 "), "{answers}");
    assert_eq!(browsers[0].closed().await?, 1012);
    for n in 1..=30 {
        let last = &mut browsers[29];
        last.send(json!({"tag": "append", "n": n})).await?;
        last.wait_for("length", &json!(n)).await?;
    }

    // The second signal does not wait for them.
    cluster.gateway.process.signal("TERM")?;
    assert_eq!(cluster.gateway.process.wait().await?.code(), Some(1));
    cluster.gateway.process.wait_for_line(|line| line.contains("cut off").then_some(())).await
}

#[tokio::test]
async fn browsers_are_sent_away_one_after_another() -> Result<()> {
    let mut cluster = cluster("5").await?;
    let mut browsers = browsers(&cluster, 40).await?;
    let mut last = browsers.pop().expect("there are 40");
    let mut others = JoinSet::new();
    for mut browser in browsers {
        others.spawn(async move { browser.closed().await });
    }
    cluster.gateway.process.signal("TERM")?;
    let mut served = 0;
    while let Some(code) = others.join_next().await {
        assert_eq!(code??, 1012);
        // Its own turn may come with that of the one before.
        if others.len() > 1 {
            served += usize::from(last.ask(json!({"tag": "ping"})).await.is_ok());
        }
    }
    assert!(served >= 20, "of 39 that went, {served} left the last one where it was");
    assert_eq!(last.closed().await?, 1012);
    assert!(cluster.gateway.process.wait().await?.success());
    Ok(())
}

#[tokio::test]
async fn what_a_page_sends_before_it_knows_that_it_is_sent_away_is_applied() -> Result<()> {
    let mut cluster = cluster("0").await?;
    let other = cluster.another_gateway().await?;
    let mut page = browsers(&cluster, 1).await?.remove(0);
    cluster.gateway.process.signal("TERM")?;
    let sent_away = |line: &str| line.contains("browser sent away").then_some(());
    cluster.gateway.process.wait_for_line(sent_away).await?;
    for n in 1..=3 {
        page.send(json!({"tag": "append", "n": n})).await?;
    }
    assert_eq!(page.closed().await?, 1012);
    assert!(cluster.gateway.process.wait().await?.success());
    let mut again = Browser::connect(&format!("ws://{}/ws?session=page-0", other.address)).await?;
    again.send(json!({"tag": "list"})).await?;
    let list = again.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!([1, 2, 3]));
    Ok(())
}

#[tokio::test]
async fn clients_go_on_at_another_gateway_and_nothing_is_lost_or_applied_twice() -> Result<()> {
    const CLIENTS: usize = 20;
    let options = Options { workers: 2, ..Options::default() };
    let options = options.worker_flag("--commit-interval", "20ms");
    let mut cluster = Cluster::start(options.gateway_flag("--drain-rate", "20")).await?;
    let other = cluster.another_gateway().await?;
    let (over, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for i in 0..CLIENTS {
        let mut client =
            Client::new(&cluster.url(&format!("?session=mine-{i}")), Manners::default());
        client.open().await?;
        client.set_url(&format!("ws://{}/ws?session=mine-{i}", other.address));
        let mut items = Vec::new();
        append(&mut client, &mut items).await?;
        clients.spawn(go_on(client, items, over.clone()));
    }
    cluster.gateway.process.signal("TERM")?;
    assert!(cluster.gateway.process.wait().await?.success());
    over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        let (mut client, items) = client??;
        assert_eq!(client.items().await?, items);
        // One that is slow to hear of it finds its connection gone.
        assert!(client.connections() == 2 && client.closes() <= 1, "{} closes", client.closes());
    }
    Ok(())
}

/// Appends an item, and waits until it is acknowledged.
async fn append(client: &mut Client, items: &mut Vec<String>) -> Result<()> {
    let item = format!("item {}", items.len());
    client.publish(&json!({"tag": "append", "item": item})).await?;
    items.push(item);
    client.settle().await
}

/// Appends one item after another until it is over and the client has come to the other gateway, and
/// one more there.
async fn go_on(
    mut client: Client,
    mut items: Vec<String>,
    over: Arc<AtomicBool>,
) -> Result<(Client, Vec<String>)> {
    while !over.load(Ordering::Relaxed) || client.connections() < 2 {
        append(&mut client, &mut items).await?;
    }
    append(&mut client, &mut items).await?;
    Ok((client, items))
}
