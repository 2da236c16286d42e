//! What one browser may make the gateway hold or do, and that nobody else notices.

use anyhow::{Result, bail};
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options, http};

fn one_worker() -> Options {
    Options { workers: 1, ..Options::fixture() }
}

#[tokio::test]
async fn a_browser_that_sends_more_than_its_rate_is_slowed_and_loses_nothing() -> Result<()> {
    let options = one_worker().gateway_flag("--max-messages-per-second", "100");
    let cluster = Cluster::start(options).await?;
    let mut quick = Browser::connect(&cluster.url("?session=quick")).await?;
    let mut other = Browser::connect(&cluster.url("?session=other")).await?;
    for n in 0..300 {
        quick.send(json!({"tag": "append", "n": n})).await?;
    }
    quick.send(json!({"tag": "list"})).await?;
    // The neighbour has many answers before the quick one has all of its own.
    for _ in 0..20 {
        assert_eq!(other.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    }
    let mut received = 0;
    while quick.try_receive().is_some() {
        received += 1;
    }
    assert!(received < 300, "{received} answers came at once");
    let list = quick.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!((0..300).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test]
async fn connections_beyond_the_limits_are_refused_and_have_room_again_later() -> Result<()> {
    let options = one_worker().gateway_flag("--max-connections", "2");
    let cluster = Cluster::start(options).await?;
    let one = Browser::connect(&cluster.url("")).await?;
    let _two = Browser::connect(&cluster.url("")).await?;
    assert_eq!(Browser::connect_refused(&cluster.url("")).await?.status, 503);
    one.close().await?;
    cluster.wait_for_metric("single_state_connections", |open| open < 2.0).await?;
    Browser::connect(&cluster.url("")).await?;

    let options = one_worker().gateway_flag("--max-connections-per-address", "1");
    let cluster = Cluster::start(options).await?;
    let _one = Browser::connect(&cluster.url("")).await?;
    assert_eq!(Browser::connect_refused(&cluster.url("")).await?.status, 429);
    Ok(())
}

#[tokio::test]
async fn a_quiet_browser_that_answers_pings_stays_and_one_that_does_not_is_given_up() -> Result<()>
{
    let options = one_worker().gateway_flag("--ping-after", "1s");
    let cluster = Cluster::start(options.gateway_flag("--idle-timeout", "8s")).await?;
    // The library answers pings while it is read, so this one lives while it waits …
    let mut there = Browser::connect(&cluster.url("?session=there")).await?;
    // … and nobody reads for this one.
    let gone = Browser::connect(&cluster.url("?session=gone")).await?;
    there.send(json!({"tag": "wait", "seconds": 12})).await?;
    assert_eq!(there.receive().await?["tag"], "waited");
    tokio::select! {
        more = there.receive() => bail!("{more:?}"),
        is_alone = cluster.wait_for_metric("single_state_connections", |open| open == 1.0) => {
            is_alone?;
        }
    }
    drop(gone);
    Ok(())
}

#[tokio::test]
async fn compression_is_not_negotiated() -> Result<()> {
    let cluster = Cluster::start(one_worker()).await?;
    let request = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                   sec-websocket-extensions: permessage-deflate\r\n\r\n\u{8}";
    let head = single_state_tests::browser::upgrade_head(&cluster.gateway.address, request).await?;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(!head.to_lowercase().contains("sec-websocket-extensions"), "{head}");
    Ok(())
}

#[tokio::test]
async fn a_request_whose_head_does_not_end_is_cut_off() -> Result<()> {
    let cluster = Cluster::start(one_worker()).await?;
    // No end of the head: the gateway hangs up by itself.
    http(&cluster.gateway.address, "GET /ws HTTP/1.1\r\nhost: a\r\n").await?;
    Ok(())
}

#[tokio::test]
async fn a_flood_of_pings_that_nobody_reads_costs_no_memory_and_delays_nobody() -> Result<()> {
    let cluster = Cluster::start(one_worker()).await?;
    let mut neighbour = Browser::connect(&cluster.url("?session=neighbour")).await?;
    let before = cluster.gateway.process.resident_kib()?;
    let address = cluster.gateway.address.clone();
    let flood = tokio::spawn(async move {
        single_state_tests::browser::flood(&address, &[0x89, 0x80, 0, 0, 0, 0], 40_000_000).await
    });
    let mut answers = 0;
    while !flood.is_finished() {
        assert_eq!(neighbour.ask(json!({"tag": "ping"})).await?["tag"], "pong");
        answers += 1;
    }
    flood.await??;
    let grown = cluster.gateway.process.resident_kib()?.saturating_sub(before);
    assert!(grown < 4 * 1024, "the gateway grew by {grown} KiB");
    assert!(answers > 10, "the neighbour had {answers} answers meanwhile");
    Ok(())
}

#[tokio::test]
async fn a_message_of_16_mib_arrives_whole_while_others_are_served() -> Result<()> {
    let options = one_worker().gateway_flag("--max-message-bytes", "16777216");
    let options = options.gateway_flag("--max-frame-bytes", "16777216");
    let cluster = Cluster::start(options.gateway_flag("--max-bytes-per-second", "0")).await?;
    let mut large = Browser::connect(&cluster.url("?session=large")).await?;
    let mut other = Browser::connect(&cluster.url("?session=other")).await?;
    let bytes: Vec<u8> = (0..=255).cycle().take(16 << 20).collect();
    large.send_binary(bytes.clone()).await?;
    for _ in 0..100 {
        assert_eq!(other.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    }
    assert!(large.receive_binary().await? == bytes);
    Ok(())
}

/// Browsers of the crowd; `make crowd` sets more.
fn crowd() -> usize {
    let size = std::env::var("SINGLE_STATE_TEST_CROWD").ok();
    size.and_then(|size| size.parse().ok()).unwrap_or(300)
}

#[tokio::test]
async fn a_crowd_that_does_not_read_or_drips_its_handshake_leaves_the_others_alone() -> Result<()> {
    let options = one_worker().gateway_flag("--max-handshakes-per-second", "0");
    let cluster = Cluster::start(options).await?;
    let before = cluster.gateway.process.resident_kib()?;
    let (crowd, tenth) = (crowd(), crowd() / 10);
    let mut deaf = Vec::new();
    let mut dripping = Vec::new();
    for i in 0..tenth {
        let mut browser =
            Browser::connect_slow(&cluster.url(&format!("?session=deaf-{i}"))).await?;
        browser.send(json!({"tag": "burst", "events": 20, "bytes": 10_000})).await?;
        deaf.push(browser);
        let mut stream = tokio::net::TcpStream::connect(&cluster.gateway.address).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /ws HT").await?;
        dripping.push(stream);
    }
    let mut others = Vec::new();
    for i in 0..crowd - 2 * tenth {
        let mut browser = Browser::connect(&cluster.url(&format!("?session=other-{i}"))).await?;
        for _ in 0..5 {
            assert_eq!(browser.ask(json!({"tag": "ping"})).await?["tag"], "pong");
        }
        others.push(browser);
    }
    // Each that does not read: a window, and the output that its socket is taking. The rest: what a
    // browser costs.
    let bound = tenth as u64 * (64 + 16) + crowd as u64 * 6 + 4096;
    let grown = cluster.gateway.process.resident_kib()?.saturating_sub(before);
    println!("{crowd} browsers: the gateway grew by {grown} KiB, allowed are {bound}");
    assert!(grown < bound, "the gateway grew by {grown} KiB, allowed are {bound}");
    Ok(())
}

#[tokio::test]
async fn a_session_for_which_a_worker_has_no_room_waits_until_there_is() -> Result<()> {
    let options = one_worker().worker_flag("--max-sessions", "1");
    let cluster = Cluster::start(options).await?;
    let mut first = Browser::connect(&cluster.url("?session=first")).await?;
    first.ask(json!({"tag": "append", "n": 1})).await?;
    let mut second = Browser::connect(&cluster.url("?session=second")).await?;
    second.send(json!({"tag": "append", "n": 2})).await?;
    first.send(json!({"tag": "end"})).await?;
    assert_eq!(first.closed().await?, 4410);
    second.wait_for("length", &json!(1)).await
}

#[tokio::test]
async fn of_browsers_that_come_all_at_once_each_is_soon_served_or_turned_away() -> Result<()> {
    const STORM: usize = 400;
    let options = one_worker().gateway_flag("--max-handshakes-per-second", "50");
    let cluster = Cluster::start(options.gateway_flag("--max-handshake-wait", "1s")).await?;
    let before = cluster.gateway.process.resident_kib()?;
    let url = cluster.url("");
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..STORM {
        let url = url.clone();
        storm.spawn(async move { Browser::connect_or_refused(&url).await });
    }
    let (mut served, mut refused, mut hung_up) = (Vec::new(), 0, 0);
    while let Some(outcome) = storm.join_next().await {
        match outcome? {
            Ok(Ok(browser)) => served.push(browser),
            // It had said nothing within a second.
            Err(_) => hung_up += 1,
            Ok(Err(refusal)) => {
                assert_eq!(refusal.status, 503);
                assert!(refusal.body.contains("try later"), "{}", refusal.body);
                refused += 1;
            }
        }
    }
    // A second's worth at once, and as many while the others come.
    assert!(served.len() >= 50 && refused > 0, "{} served, {refused} refused", served.len());
    let shed = cluster.gateway.metric("single_state_handshakes_shed_total").await?;
    assert_eq!((shed, served.len() + refused + hung_up), ((refused + hung_up) as f64, STORM));
    assert!(hung_up < STORM / 10, "{hung_up} were not told");
    assert_eq!(cluster.gateway.metric("single_state_handshakes_waiting").await?, 0.0);
    for browser in &mut served {
        assert_eq!(browser.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    }
    let grown = cluster.gateway.process.resident_kib()?.saturating_sub(before);
    assert!(grown < 6 * 1024, "the gateway grew by {grown} KiB");
    Ok(())
}

#[tokio::test]
async fn browsers_that_wait_when_the_gateway_ends_are_turned_away() -> Result<()> {
    let options = one_worker().gateway_flag("--max-handshakes-per-second", "1");
    let options = options.gateway_flag("--max-handshake-wait", "0");
    let mut cluster = Cluster::start(options.gateway_flag("--drain-rate", "1")).await?;
    let mut served = Browser::connect(&cluster.url("")).await?;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let url = cluster.url("");
        waiting.spawn(async move { Browser::connect_or_refused(&url).await });
    }
    cluster.wait_for_metric("single_state_handshakes_waiting", |waiting| waiting >= 40.0).await?;
    cluster.gateway.process.signal("TERM")?;
    let mut refused = 0;
    while let Some(outcome) = waiting.join_next().await {
        refused += usize::from(outcome?.is_ok_and(|outcome| outcome.is_err()));
    }
    assert!(refused >= 40, "{refused} were told");
    assert_eq!(served.closed().await?, 1012);
    assert!(cluster.gateway.process.wait().await?.success());
    Ok(())
}
