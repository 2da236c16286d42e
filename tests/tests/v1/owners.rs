//! Workers that die under a client whose socket stays open.

use anyhow::Result;
use serde_json::{Value, json};
use single_state_tests::cluster::{Cluster, Options};

use crate::client::{CHANNEL, Client, append, hello_again, one_worker_options};
use crate::sqlite;

fn options(folder: &tempfile::TempDir, durability: &str) -> Options {
    one_worker_options().store(&sqlite(folder)).worker_flag("--durability", durability)
}

#[tokio::test]
async fn an_input_that_waits_for_a_dead_worker_is_applied_once_when_sessions_are_relaxed()
-> Result<()> {
    is_applied_once("relaxed").await
}

#[tokio::test]
async fn an_input_that_waits_for_a_dead_worker_is_applied_once_when_sessions_are_durable()
-> Result<()> {
    is_applied_once("durable").await
}

async fn is_applied_once(durability: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(options(&folder, durability)).await?;
    let (mut client, welcome) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    assert_eq!(welcome["durability"], durability);
    client.say(append(1)).await?;
    client.acked(1).await?;
    cluster.kill_worker(0).await?;
    cluster.wait_for_worker(0, "down").await?;
    client.say(append(2)).await?;
    client.say(append(2)).await?;
    cluster.restart_worker(0).await?;

    let again = client.next_where(|message| message[0] == "welcome").await?;
    let again = &again[1];
    assert_eq!((&again["resumed"], &again["applied"]), (&json!(true), &json!(1)), "{again}");
    assert!(again["epoch"].as_u64() > welcome["epoch"].as_u64());
    assert_eq!(client.next_where(|message| message[0].is_u64()).await?[1]["value"], 2);
    client.acked(2).await?;
    assert_eq!(client.list(3).await?, json!([1, 2]));
    drop(client);

    let again = hello_again(CHANNEL, 2, &again["epoch"], 2);
    let (_, back) = Client::greeted(&cluster, "mine", again).await?;
    assert!(back["applied"].as_u64() >= Some(2), "{back}");
    Ok(())
}

#[tokio::test]
async fn what_was_seen_and_not_committed_is_reset_and_shown_anew() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = options(&folder, "relaxed").worker_flag("--commit-interval", "1h");
    let mut cluster = Cluster::start(options).await?;
    let (mut client, welcome) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    client.say(append(1)).await?;
    let (seen, _) = client.output("assign").await?;
    let (mut other, _) = Client::welcomed(&cluster, "mine", "channel-0002").await?;
    other.output("assign").await?;
    drop(other);
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;

    let again = client.welcome().await?;
    assert_eq!((&again["resumed"], &again["applied"]), (&json!(false), &Value::Null), "{again}");
    assert_eq!(client.next().await?, json!(["reset", {"reason": "rolled_back"}]));
    assert_eq!(client.output("assign").await?.1["value"], 1, "the gateway has sent it again");
    assert_eq!(client.list(2).await?, json!([1]));

    let again = hello_again("channel-0002", 2, &welcome["epoch"], seen);
    let (mut back, again) = Client::greeted(&cluster, "mine", again).await?;
    assert_eq!((&again["resumed"], &again["applied"]), (&json!(false), &Value::Null), "{again}");
    assert_eq!(back.next().await?, json!(["reset", {"reason": "rolled_back"}]));
    assert_eq!(back.output("assign").await?.1["value"], 1);
    Ok(())
}

#[tokio::test]
async fn a_client_whose_handler_panics_goes_on_and_sees_nothing_twice_when_sessions_are_durable()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(options(&folder, "durable")).await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    client.say(append(1)).await?;
    client.acked(1).await?;
    client.say(json!([2, {"tag": "panic"}])).await?;
    let mut told = Vec::new();
    while told.last().is_none_or(|message: &Value| message[1]["tag"] != "error") {
        told.push(client.next().await?);
    }
    assert!(told.iter().all(|message| message[0] != "reset"), "{told:?}");
    assert!(told.iter().all(|message| message[1]["key"] != "length"), "{told:?}");
    client.acked(2).await?;
    assert_eq!(client.list(3).await?, json!([1]));
    Ok(())
}

#[tokio::test]
async fn a_client_of_a_session_that_only_memory_had_goes_on_with_its_next_number() -> Result<()> {
    let mut cluster = Cluster::start(one_worker_options()).await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    client.say(append(1)).await?;
    client.acked(1).await?;
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;
    let again = client.next_where(|message| message[0] == "welcome").await?;
    assert_eq!((&again[1]["resumed"], &again[1]["applied"]), (&json!(false), &Value::Null));
    assert_eq!(client.next().await?, json!(["reset", {"reason": "rolled_back"}]));
    client.say(append(2)).await?;
    client.acked(2).await?;
    assert_eq!(client.list(3).await?, json!([2]));
    Ok(())
}

#[tokio::test]
async fn a_frozen_worker_that_wakes_serves_the_same_socket_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(options(&folder, "relaxed")).await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    client.say(append(1)).await?;
    client.acked(1).await?;
    cluster.workers[0].process.signal("STOP")?;
    cluster.wait_for_worker(0, "down").await?;
    client.say(append(2)).await?;
    cluster.workers[0].process.signal("CONT")?;
    let again = client.next_where(|message| message[0] == "welcome").await?;
    assert_eq!(again[1]["resumed"], true);
    client.acked(2).await?;
    assert_eq!(client.list(3).await?, json!([1, 2]));
    Ok(())
}
