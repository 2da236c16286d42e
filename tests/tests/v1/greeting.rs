//! The upgrade, hello and welcome: who gets which session.

use anyhow::Result;
use serde_json::{Value, json};
use single_state_tests::browser::upgrade_head;
use single_state_tests::cluster::Cluster;

use crate::client::{CHANNEL, Client, append, hello, one_worker, one_worker_options};

fn hello_to(session: &str) -> Value {
    json!(["hello", {"session": session, "channel": CHANNEL, "attach": 1}])
}

async fn closed_after(cluster: &Cluster, hello: Value) -> Result<u16> {
    let mut client = Client::connect(cluster, "").await?;
    client.say(hello).await?;
    client.closed().await
}

#[tokio::test]
async fn a_client_that_offers_v1_gets_it_and_is_welcomed() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut client, welcome) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    assert_eq!(client.header("sec-websocket-protocol"), Some("single-state.v1"));
    assert!(welcome["epoch"].as_u64().is_some_and(|epoch| epoch > 0), "{welcome}");
    let limits = json!({"message_bytes": 1 << 20, "frame_bytes": 1 << 18, "unacked_messages": 1024, "unacked_bytes": 1 << 18});
    let epoch = welcome["epoch"].clone();
    let expected = json!({"session": "mine", "epoch": epoch, "resumed": false, "applied": 0,
        "durability": "memory", "limits": limits, "worker": 0});
    assert_eq!(welcome, expected);
    client.say(append(1)).await?;
    let body = json!({"tag": "assign", "key": "length", "value": 1});
    let mut told = [client.next().await?, client.next().await?];
    told.sort_by_key(|message| message[0].is_string());
    assert_eq!(told, [json!([1, body]), json!(["ack", 1])], "there was nothing to reset");
    Ok(())
}

#[tokio::test]
async fn a_browser_that_offers_something_else_is_a_plain_page() -> Result<()> {
    let cluster = one_worker().await?;
    for (offer, chosen) in [
        ("chat, single-state.v1", true),
        ("chat\r\nsec-websocket-protocol: single-state.v1", true),
        ("chat", false),
        ("single-state.v2", false),
        ("Single-State.v1", false),
    ] {
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             sec-websocket-protocol: {offer}\r\n\r\n"
        );
        let head = upgrade_head(&cluster.gateway.address, &request).await?.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{offer}: {head}");
        let header = "sec-websocket-protocol: single-state.v1\r\n";
        assert_eq!(head.contains(header), chosen, "{offer}: {head}");
        assert_eq!(head.contains("sec-websocket-protocol"), chosen, "{offer}: {head}");
        assert_eq!(head.contains("x-single-state-session"), !chosen, "{offer}: {head}");
    }
    Ok(())
}

#[tokio::test]
async fn the_upgrade_names_session_and_worker_only_when_the_address_does() -> Result<()> {
    let cluster = one_worker().await?;
    let named = Client::connect(&cluster, "?session=mine").await?;
    assert_eq!(named.header("x-single-state-session"), Some("mine"));
    assert_eq!(named.header("x-single-state-worker"), Some("0"));
    assert_eq!(named.header("set-cookie"), None);
    for query in ["", "?session=new"] {
        let minted = Client::connect(&cluster, query).await?;
        assert_eq!(minted.header("x-single-state-session"), None);
        assert_eq!(minted.header("x-single-state-worker"), None);
        assert!(minted.header("set-cookie").is_some(), "hello may name none");
    }
    Ok(())
}

#[tokio::test]
async fn the_session_is_that_of_hello_else_of_the_address_else_of_the_cookie_else_new() -> Result<()>
{
    let cluster = one_worker().await?;
    let cookie = [("cookie", "single_state=of-the-cookie")];
    for (query, hello, expected) in [
        ("?session=of-the-address", hello_to("of-hello"), Some("of-hello")),
        ("?session=of-the-address", hello(CHANNEL, 1), Some("of-the-address")),
        ("", hello(CHANNEL, 1), Some("of-the-cookie")),
        ("?session=new", hello(CHANNEL, 1), None),
    ] {
        let mut client = Client::connect_with(&cluster, query, &cookie).await?;
        client.say(hello).await?;
        let welcome = client.welcome().await?;
        let session = welcome["session"].as_str().unwrap_or_default();
        match expected {
            Some(expected) => assert_eq!(session, expected),
            None => {
                let set = client.header("set-cookie").unwrap_or_default();
                assert!(set.starts_with(&format!("single_state={session};")), "{set}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_minted_session_is_the_same_one_for_a_client_that_comes_back_with_it() -> Result<()> {
    let cluster = one_worker().await?;
    let mut first = Client::connect(&cluster, "").await?;
    first.say(hello(CHANNEL, 1)).await?;
    let session = first.welcome().await?["session"].as_str().unwrap_or_default().to_owned();
    first.say(append(1)).await?;
    first.acked(1).await?;
    let mut other = Client::connect(&cluster, "").await?;
    other
        .say(json!(["hello", {"session": session, "channel": "channel-0002", "attach": 1}]))
        .await?;
    assert_eq!(other.welcome().await?["session"], session);
    assert_eq!(other.output("assign").await?.1["value"], 1);
    Ok(())
}

#[tokio::test]
async fn what_is_no_hello_is_closed_with_4400() -> Result<()> {
    let cluster = one_worker().await?;
    for first in [
        r#"[1,{"tag":"ping"}]"#,
        r#"["ack",1,1]"#,
        r#"{"tag":"ping"}"#,
        r#"["hello"]"#,
        r#"["hello",{}]"#,
        r#"["hello",{"channel":"channel-0001"}]"#,
        r#"["hello",{"channel":"short","attach":1}]"#,
        r#"["hello",{"channel":"channel-0001","attach":0}]"#,
        r#"["hello",{"channel":"channel-0001","attach":1.0}]"#,
        r#"["hello",{"channel":"channel-0001","attach":-1}]"#,
        r#"["hello",{"channel":"channel-0001","attach":9007199254740992}]"#,
        r#"["hello",{"channel":"channel-0001","attach":1,"seen":[1]}]"#,
        r#"["hello",{"channel":"channel-0001","attach":1,"seen":[1,-1]}]"#,
        r#"["hello",{"channel":"channel-0001","attach":1,"session":"a b"}]"#,
        r#"["hello",{"channel":"channel-0001","attach":1,"session":""}]"#,
        r#"["hello",{"channel":"channel-0001","attach":1},"#,
        "",
    ] {
        let mut client = Client::connect(&cluster, "").await?;
        client.say_text(first).await?;
        assert_eq!(client.closed().await?, 4400, "{first}");
    }
    let mut client = Client::connect(&cluster, "").await?;
    client.say_binary(vec![0, 0, 0, 0, 0, 0, 0, 1]).await?;
    assert_eq!(client.closed().await?, 4400, "binary");
    cluster.wait_for_metric("single_state_connections", |open| open == 0.0).await
}

#[tokio::test]
async fn a_client_that_never_says_hello_is_closed_with_4400() -> Result<()> {
    let options = one_worker_options().gateway_flag("--hello-timeout", "3s");
    let cluster = Cluster::start(options).await?;
    let (mut welcomed, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    let mut silent = Client::connect(&cluster, "?session=mine").await?;
    assert_eq!(silent.closed().await?, 4400);
    assert!(silent.say(hello("channel-0002", 1)).await.is_err(), "too late");
    welcomed.say(append(1)).await?;
    welcomed.acked(1).await
}

#[tokio::test]
async fn a_second_hello_and_an_input_before_the_welcome_are_closed_with_4400() -> Result<()> {
    let mut cluster = one_worker().await?;
    let (mut neighbour, _) = Client::welcomed(&cluster, "mine", "channel-0003").await?;
    let (mut again, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    again.say(hello(CHANNEL, 2)).await?;
    assert_eq!(again.closed().await?, 4400);
    neighbour.say(append(1)).await?;
    neighbour.acked(1).await?;
    let (_, welcome) = Client::greeted(&cluster, "mine", hello(CHANNEL, 2)).await?;
    assert_eq!(welcome["applied"], 0, "only that connection has ended");

    cluster.kill_worker(0).await?;
    cluster.wait_for_worker(0, "down").await?;
    let mut early = Client::connect(&cluster, "?session=mine").await?;
    early.say(hello("channel-0002", 1)).await?;
    early.say(append(1)).await?;
    assert_eq!(early.closed().await?, 4400);
    Ok(())
}

#[tokio::test]
async fn with_keys_only_a_signed_token_opens_a_session_and_each_welcome_renews_it() -> Result<()> {
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), "a".repeat(64))?;
    let options = one_worker_options().signed(&keys.path().to_string_lossy());
    let cluster = Cluster::start(options).await?;
    let mut first = Client::connect(&cluster, "").await?;
    first.say(hello(CHANNEL, 1)).await?;
    let mut token = first.welcome().await?["session"].as_str().unwrap_or_default().to_owned();
    let id = token.split('.').next().unwrap_or_default().to_owned();
    assert_eq!(token.split('.').count(), 3, "{token}");
    first.say(append(1)).await?;
    first.acked(1).await?;
    for channel in ["channel-0002", "channel-0003"] {
        let mut back = Client::connect(&cluster, "").await?;
        back.say(json!(["hello", {"session": token, "channel": channel, "attach": 1}])).await?;
        token = back.welcome().await?["session"].as_str().unwrap_or_default().to_owned();
        assert!(token.starts_with(&format!("{id}.")), "{token}");
        assert_eq!(back.output("assign").await?.1["value"], 1);
    }
    let (claim, mac) = token.rsplit_once('.').unwrap_or_default();
    let other = if mac.starts_with('A') { "B" } else { "A" };
    for forged in [&id, claim, "", "a b", &format!("{claim}.{other}{}", &mac[1..])] {
        assert_eq!(closed_after(&cluster, hello_to(forged)).await?, 4401, "{forged}");
    }
    Ok(())
}
