//! A channel that outlives its socket: what a client finds when it comes back, and what it must not
//! find twice.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::Cluster;

use crate::client::{CHANNEL, Client, append, hello, hello_again, one_worker, one_worker_options};
use crate::sqlite;

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed_and_nothing_twice() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut first, welcome) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    let epoch = welcome["epoch"].clone();
    first.say(append(1)).await?;
    let (seen, _) = first.output("assign").await?;
    first.acked(1).await?;
    drop(first);

    let mut other = Browser::connect(&cluster.url("?session=mine")).await?;
    other.wait_for("length", &json!(1)).await?;
    other.ask(json!({"tag": "list"})).await?;
    other.ask(json!({"tag": "append", "n": 2})).await?;

    let again = hello_again(CHANNEL, 2, &epoch, seen);
    let (mut back, welcome) = Client::greeted(&cluster, "mine", again).await?;
    assert_eq!((&welcome["resumed"], &welcome["applied"]), (&json!(true), &json!(1)));
    let missed = [back.next().await?, back.next().await?];
    assert_eq!(missed[0], json!([seen + 1, {"tag": "list", "items": [1]}]), "also the event");
    assert_eq!(missed[1][1]["value"], 2);
    back.say(append(1)).await?;
    assert_eq!(back.next().await?, json!(["ack", 1]), "it was applied before");
    assert_eq!(back.list(2).await?, json!([1, 2]));
    Ok(())
}

#[tokio::test]
async fn inputs_that_were_on_their_way_when_the_socket_broke_are_applied_once() -> Result<()> {
    const EACH: u64 = 20;
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(one_worker_options().store(&sqlite(&folder))).await?;
    let mut next = 1;
    for attach in 1..=10 {
        let (mut client, welcome) =
            Client::greeted(&cluster, "mine", hello(CHANNEL, attach)).await?;
        let applied = welcome["applied"].as_u64().context("the channel is known")?;
        assert!(applied < next, "{welcome}");
        for n in applied + 1..next + EACH {
            client.say(append(n)).await?;
        }
        next += EACH;
        // It hears of none of them.
        drop(client);
    }
    let (mut client, welcome) = Client::greeted(&cluster, "mine", hello(CHANNEL, 11)).await?;
    let applied = welcome["applied"].as_u64().context("the channel is known")?;
    for n in applied + 1..next {
        client.say(append(n)).await?;
    }
    assert_eq!(client.list(next).await?, json!((1..next).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test]
async fn a_client_that_has_lost_its_mirror_gets_the_full_picture_without_a_reset() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut first, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    first.say(append(1)).await?;
    first.acked(1).await?;
    drop(first);
    let (mut back, welcome) = Client::greeted(&cluster, "mine", hello(CHANNEL, 2)).await?;
    assert_eq!((&welcome["resumed"], &welcome["applied"]), (&json!(false), &json!(1)));
    assert_eq!(back.next().await?[1], json!({"tag": "assign", "key": "length", "value": 1}));
    Ok(())
}

#[tokio::test]
async fn who_claims_to_have_seen_what_never_was_is_told_to_discard_it() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut first, welcome) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    first.say(append(1)).await?;
    first.acked(1).await?;
    let epoch = welcome["epoch"].as_u64().context("an epoch")?;
    for (i, (epoch, revision)) in
        [(epoch, 99), (epoch + 1, 0), (epoch - 1, 0), (0, 0), (u64::MAX, u64::MAX)]
            .iter()
            .enumerate()
    {
        let again = hello_again(&format!("channel-liar-{i}"), 1, &json!(epoch), *revision);
        let (mut liar, welcome) = Client::greeted(&cluster, "mine", again).await?;
        assert_eq!(welcome["resumed"], false, "{epoch}, {revision}");
        assert_eq!(liar.next().await?, json!(["reset", {"reason": "rolled_back"}]));
        assert_eq!(liar.output("assign").await?.1["value"], 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_takes_no_events_is_reset_but_not_closed_and_one_that_does_is_not()
-> Result<()> {
    let cluster = one_worker().await?;
    let (mut lazy, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    let (mut eager, welcome) = Client::welcomed(&cluster, "mine", "channel-0002").await?;
    let epoch = welcome["epoch"].clone();
    lazy.say(append(1)).await?;
    for n in 1..=3 {
        eager.say(json!([n, {"tag": "burst", "events": 600, "bytes": 10}])).await?;
        let last = eager.next_where(|message| message[1]["n"] == 599).await?;
        eager.say(json!(["ack", epoch, last[0]])).await?;
    }
    // The last one in its order says that all acknowledgements have arrived.
    eager.say(append(4)).await?;
    let (_, length) = eager.output("assign").await?;
    assert_eq!(length["value"], 2, "it was never reset");

    let welcome = lazy.next_where(|message| message[0] == "welcome").await?;
    assert_eq!(welcome[1]["resumed"], false);
    assert_eq!(lazy.next().await?, json!(["reset", {"reason": "overflow"}]));
    lazy.next_where(|message| message[1]["key"] == "length" && message[1]["value"] == 2).await?;
    assert_eq!(lazy.list(2).await?, json!([1, 4]), "its socket is as it was");
    Ok(())
}

#[tokio::test]
async fn a_channel_that_made_room_for_others_has_expired() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut keeper, _) = Client::welcomed(&cluster, "mine", "channel-keeper").await?;
    let (mut first, welcome) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    first.say(append(1)).await?;
    first.acked(1).await?;
    drop(first);
    for i in 2..65 {
        // The last one waits until another one has been away for long enough.
        let (mut client, _) =
            Client::welcomed(&cluster, "mine", &format!("channel-many-{i}")).await?;
        client.say(append(1)).await?;
        client.acked(1).await?;
    }
    let again = hello_again(CHANNEL, 2, &welcome["epoch"], 1);
    let mut back = Client::connect(&cluster, "?session=mine").await?;
    back.say(again).await?;
    assert_eq!(back.next().await?, json!(["reset", {"reason": "channel_expired"}]));
    assert_eq!(back.closed().await?, 4410);
    keeper.say(append(1)).await?;
    keeper.acked(1).await
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_little_and_gets_the_newest_when_it_does() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut slow, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    let mut busy = Browser::connect(&cluster.url("?session=mine")).await?;
    let padding = "x".repeat(100_000);
    let assign = |n: u64| json!({"tag": "assign", "key": "k", "value": [n, padding]});
    for n in 1..=200 {
        slow.say(append(n)).await?;
        busy.send(assign(n)).await?;
        busy.receive_where(|message| message["value"][0] == n).await?;
    }
    let is_newest = |message: &Value| message[1]["value"][0] == 200;
    let (mut received, mut revision) = (0, 0);
    loop {
        let message = slow.next().await?;
        if let Some(next) = message[0].as_u64() {
            assert!(next > revision, "{next} after {revision}");
            revision = next;
            received += 1;
        }
        if is_newest(&message) {
            break;
        }
    }
    assert!(received < 400, "old values are skipped, {received} came");
    slow.say(append(201)).await?;
    slow.acked(201).await
}
