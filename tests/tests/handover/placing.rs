//! Which sessions a worker takes, by what gateways tell it of the cluster.

use anyhow::{Result, ensure};
use single_state_proto::frame::{CloseCode, GoAway, Refused};
use single_state_proto::link::Event;
use single_state_tests::append::wait_until;
use single_state_tests::peer::{Peer, open};
use tempfile::TempDir;

use crate::{Worker, attached, refused, session_on, skipped, sqlite, topology};

#[tokio::test]
async fn a_session_is_taken_only_where_placement_gives_it_and_attached_to_wherever_it_lives()
-> Result<()> {
    let worker = Worker::start(0, "memory:", &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let theirs = session_on(1, 2, "theirs");
    peer.say(|link| link.topology(topology(7, 2))).await?;

    let stream = peer.open(open(&theirs, "wrong", 7)).await?;
    ensure!(refused(&mut peer, stream).await? == Refused::WrongOwner);
    for (name, skipped) in [("down", skipped(&[1], &[])), ("passed-over", skipped(&[], &[1]))] {
        let session = session_on(1, 2, name);
        let mut chosen = open(&session, name, 7);
        chosen.skipped = skipped;
        let stream = peer.open(chosen).await?;
        attached(&mut peer, stream).await?;
        // It lives here now.
        let stream = peer.open(open(&session, "another", 7)).await?;
        attached(&mut peer, stream).await?;
    }
    ensure!(worker.metric("refused_total{reason=\"wrong_owner\"}").await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_knows_no_topology_takes_what_it_is_asked_for() -> Result<()> {
    let worker = Worker::start(0, "memory:", &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let stream = peer.open(open(&session_on(1, 2, "any"), "first", 7)).await?;
    attached(&mut peer, stream).await
}

#[tokio::test]
async fn a_gateway_with_an_older_topology_is_told_the_newer_one() -> Result<()> {
    let worker = Worker::start(0, "memory:", &[]).await?;
    let (mut new, mut old) =
        (Peer::connect(&worker.address, 0).await?, Peer::connect(&worker.address, 0).await?);
    let session = session_on(0, 2, "a");
    new.say(|link| link.topology(topology(7, 2))).await?;
    let stream = new.open(open(&session, "new", 7)).await?;
    attached(&mut new, stream).await?;
    old.say(|link| link.topology(topology(6, 1))).await?;
    let stream = old.open(open(&session, "old", 6)).await?;
    ensure!(refused(&mut old, stream).await? == Refused::Stale(topology(7, 2)));
    let stream = old.open(open(&session, "old", 7)).await?;
    attached(&mut old, stream).await
}

#[tokio::test]
async fn a_gateway_with_another_list_of_one_generation_is_refused_and_the_others_serve_on()
-> Result<()> {
    let worker = Worker::start(0, "memory:", &[]).await?;
    let (mut one, mut other) =
        (Peer::connect(&worker.address, 0).await?, Peer::connect(&worker.address, 0).await?);
    one.say(|link| link.topology(topology(7, 2))).await?;
    let stream = one.open(open(&session_on(0, 2, "a"), "first", 7)).await?;
    attached(&mut one, stream).await?;
    other.say(|link| link.topology(topology(7, 3))).await?;
    ensure!(other.next().await? == Some(Event::GoAway(GoAway::OtherTopology)));
    ensure!(other.next().await?.is_none(), "and the worker hangs up");
    let told = worker.process.wait_for_line(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["level"] == "ERROR" && line["generation"] == 7).then_some(())
    });
    told.await?;
    one.send(stream, 1, r#"{"tag":"ping"}"#).await?;
    one.hears_of("pong").await?;
    Ok(())
}

#[tokio::test]
async fn sessions_without_tabs_that_belong_elsewhere_after_a_reshard_are_given_up() -> Result<()> {
    let folder = TempDir::new()?;
    let worker = Worker::start(0, &sqlite(&folder), &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    peer.say(|link| link.topology(topology(1, 1))).await?;
    let sessions = [("left", 1), ("used", 1), ("stays", 0)];
    for (name, index) in sessions {
        let stream = peer.open(open(&session_on(index, 2, name), name, 1)).await?;
        attached(&mut peer, stream).await?;
        peer.send(stream, 1, r#"{"tag":"append","n":1}"#).await?;
        peer.hears_of("length").await?;
        if name != "used" {
            peer.say(|link| link.close(stream, CloseCode::Detached)).await?;
        }
    }
    ensure!(worker.sessions().await? == 3);
    peer.say(|link| link.topology(topology(2, 2))).await?;
    wait_until("one is given up", async || {
        Ok(worker.metric("moved_total{reason=\"reshard\"}").await? == 1.0)
    })
    .await?;
    ensure!(worker.sessions().await? == 2, "the one with a tab is its gateway's to recall");
    Ok(())
}
