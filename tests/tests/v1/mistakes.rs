//! Mistakes that other systems have made in numbering what they send, each as a test. The whole list
//! of them, with the tests that stand elsewhere, is in `tests/README.md`.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use single_state_tests::cluster::Cluster;

use crate::client::{CHANNEL, Client, append, hello, hello_again, one_worker, one_worker_options};
use crate::sqlite;

/// Six outputs for two inputs.
async fn two_inputs_and_six_outputs(cluster: &Cluster) -> Result<Value> {
    let (mut client, welcome) = Client::welcomed(cluster, "mine", CHANNEL).await?;
    client.say(json!([1, {"tag": "burst", "events": 5, "bytes": 1}])).await?;
    client.say(append(2)).await?;
    assert_eq!(client.output("assign").await?.0, 6);
    client.acked(2).await?;
    Ok(welcome["epoch"].clone())
}

#[tokio::test]
async fn a_resume_begins_to_count_neither_inputs_nor_outputs_anew() -> Result<()> {
    let cluster = one_worker().await?;
    let epoch = two_inputs_and_six_outputs(&cluster).await?;
    let (mut back, _) =
        Client::greeted(&cluster, "mine", hello_again(CHANNEL, 2, &epoch, 4)).await?;
    let missed = [back.next().await?, back.next().await?];
    assert_eq!([&missed[0][0], &missed[1][0]], [5, 6]);
    for n in [1, 2] {
        back.say(append(n)).await?;
        back.acked(n).await?;
    }
    back.say(append(3)).await?;
    assert_eq!(back.output("assign").await?.0, 7);
    back.acked(3).await?;
    drop(back);

    // What a resume has brought is not brought again by the next one.
    let (mut back, _) =
        Client::greeted(&cluster, "mine", hello_again(CHANNEL, 3, &epoch, 7)).await?;
    back.say(json!([4, {"tag": "list"}])).await?;
    let next = back.next_where(|message| message[0].is_u64()).await?;
    assert_eq!(next, json!([8, {"tag": "list", "items": [2, 3]}]));
    Ok(())
}

#[tokio::test]
async fn a_resume_names_the_inputs_that_were_applied_and_not_the_outputs_that_were_sent()
-> Result<()> {
    let cluster = one_worker().await?;
    let epoch = two_inputs_and_six_outputs(&cluster).await?;
    for (attach, seen) in [(2, 0), (3, 2), (4, 6)] {
        let again = hello_again(CHANNEL, attach, &epoch, seen);
        let (mut back, welcome) = Client::greeted(&cluster, "mine", again).await?;
        assert_eq!((&welcome["resumed"], &welcome["applied"]), (&json!(true), &json!(2)));
        for revision in seen + 1..=6 {
            assert_eq!(back.next().await?[0], revision, "{seen} were seen");
        }
    }
    Ok(())
}

#[tokio::test]
async fn after_a_reset_what_is_not_acknowledged_keeps_its_numbers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = one_worker_options().store(&sqlite(&folder));
    let options =
        options.worker_flag("--durability", "relaxed").worker_flag("--commit-interval", "1h");
    let mut cluster = Cluster::start(options).await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    for n in [1, 2] {
        client.say(append(n)).await?;
        client.output("assign").await?;
    }
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;
    let reset = client.next_where(|message| message[0] == "reset").await?;
    assert_eq!(reset[1]["reason"], "rolled_back");
    // The gateway has sent both again. So does the client over its next connection.
    client.next_where(|message| message[1]["value"] == 2).await?;
    drop(client);
    let (mut back, _) = Client::greeted(&cluster, "mine", hello(CHANNEL, 2)).await?;
    for n in [1, 2, 3] {
        back.say(append(n)).await?;
    }
    assert_eq!(back.list(4).await?, json!([1, 2, 3]));
    Ok(())
}

#[tokio::test]
async fn connections_that_race_for_a_channel_lose_and_double_nothing_and_the_newest_has_it()
-> Result<()> {
    const ROUNDS: u64 = 6;
    const RACERS: u64 = 6;
    const INPUTS: u64 = 40;
    let cluster = one_worker().await?;
    let (mut first, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    first.say(append(1)).await?;
    first.acked(1).await?;
    for round in 1..=ROUNDS {
        let newest = 1 + round * RACERS;
        let mut attaches: Vec<_> = (newest - RACERS + 1..=newest).collect();
        if round % 2 == 0 {
            // Now the newest is the first to ask.
            attaches.reverse();
        }
        let race = |attach| race(&cluster, attach, round * INPUTS);
        let ends = try_join_all(attaches.iter().map(|attach| race(*attach))).await?;
        let had_it = attaches.iter().zip(ends).find(|(attach, _)| **attach == newest);
        assert!(had_it.is_some_and(|(_, has_it)| has_it), "the newest lost it in round {round}");
    }
    assert_eq!(first.closed().await?, 4409);
    let (last, again) = (ROUNDS * INPUTS, hello(CHANNEL, 2 + ROUNDS * RACERS));
    let (mut back, welcome) = Client::greeted(&cluster, "mine", again).await?;
    assert_eq!(welcome["applied"], last);
    assert_eq!(back.list(last + 1).await?, json!((1..=last).collect::<Vec<_>>()));
    Ok(())
}

/// Takes the channel up with this attach and sends what is not applied; whether it has the channel
/// until all is acknowledged, or else was closed with 4409.
async fn race(cluster: &Cluster, attach: u64, last: u64) -> Result<bool> {
    let mut client = Client::connect(cluster, "?session=mine").await?;
    let talk = async {
        client.say(hello(CHANNEL, attach)).await?;
        let welcome = client.welcome().await?;
        let applied = welcome["applied"].as_u64().context("the channel is known")?;
        for n in applied + 1..=last {
            client.say(append(n)).await?;
            tokio::task::yield_now().await;
        }
        if applied < last { client.acked(last).await } else { Ok(()) }
    };
    match talk.await {
        Ok(()) => Ok(true),
        Err(error) if format!("{error:#}").contains("4409") => Ok(false),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn numbers_go_on_beyond_32_bits() -> Result<()> {
    const TURN: u64 = 1 << 32;
    let cluster = one_worker().await?;
    let (mut client, _) = Client::greeted(&cluster, "mine", hello(CHANNEL, 2)).await?;
    for n in [TURN - 1, TURN, TURN + 1] {
        client.say(append(n)).await?;
        client.acked(n).await?;
    }
    client.say(append(1)).await?;
    let ack = client.next_where(|message| message[0] == "ack").await?;
    ensure!(ack[1] == 1 || ack[1] == TURN + 1, "a small number is an old one: {ack}");
    drop(client);
    let (mut back, welcome) = Client::greeted(&cluster, "mine", hello(CHANNEL, TURN)).await?;
    assert_eq!(welcome["applied"], TURN + 1);
    assert_eq!(back.list(TURN + 2).await?, json!([TURN - 1, TURN, TURN + 1]));
    Ok(())
}
