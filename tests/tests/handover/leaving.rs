//! Sessions that leave a worker: recalled, drained, in the middle of a handler.

use std::time::Duration;

use anyhow::{Result, ensure};
use single_state_proto::frame::{CloseCode, GoAway, Open, Refused, ResetCode, Skipped};
use single_state_proto::id::{ConnectionId, SessionId, StreamId};
use single_state_proto::link::Event;
use single_state_store::{Settings, Version};
use single_state_tests::append::wait_until;
use single_state_tests::peer::{Peer, open};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{Worker, attached, refused, session_on, skipped, sqlite, topology};

/// Nothing is committed by itself.
const LAZY: [&str; 2] = ["--commit-interval", "1h"];

fn id(text: &str) -> SessionId {
    text.parse().expect("an id")
}

/// The first channel of the session, always over the same connection.
fn first() -> Open {
    Open { connection: ConnectionId(1), ..open(&id("anna"), "first", 1) }
}

/// A worker with a gateway and a session that has applied one input.
async fn with_session(store: &str, flags: &[&str]) -> Result<(Worker, Peer, StreamId)> {
    let worker = Worker::start(0, store, flags).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let stream = peer.open(first()).await?;
    attached(&mut peer, stream).await?;
    peer.send(stream, 1, r#"{"tag":"append","n":1}"#).await?;
    peer.hears_of("length").await?;
    Ok((worker, peer, stream))
}

/// Who owns a session's row, and its version.
async fn row(store: &str, session: &str) -> Result<(Option<u16>, Version)> {
    let store = single_state_store::open(store, Settings::default())?;
    store.prepare().await?;
    let found = store.show(&id(session)).await?;
    let (listed, _) = found.ok_or_else(|| anyhow::anyhow!("no row of {session}"))?;
    Ok((listed.owner.map(|index| index.0), listed.version))
}

/// Asks for a session until it has moved, as gateways do: one whose commit takes long stays.
async fn recall(peer: &mut Peer, stream: StreamId, mut heard: impl FnMut(&Event)) -> Result<()> {
    for _ in 0..100 {
        peer.say(|link| link.recall(stream)).await?;
        let moved = peer.hears(|event| {
            heard(event);
            (*event == Event::Moved(stream)).then_some(())
        });
        if let Ok(moved) = timeout(Duration::from_millis(500), moved).await {
            return moved;
        }
    }
    anyhow::bail!("it stays")
}

#[tokio::test]
async fn a_recalled_session_is_committed_and_given_up_before_all_its_streams_are_moved()
-> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let (worker, mut peer, stream) = with_session(&store, &LAZY).await?;
    let mut other = Peer::connect(&worker.address, 0).await?;
    let second = other.open(open(&id("anna"), "second", 1)).await?;
    attached(&mut other, second).await?;
    // Twice at once is as good as once.
    peer.say(|link| link.recall(stream)).await?;
    let mut acked = false;
    recall(&mut peer, stream, |event| acked |= *event == Event::Acked(stream, 1)).await?;
    ensure!(acked, "its input is acknowledged before it moves");
    ensure!(row(&store, "anna").await? == (None, Version(1)), "committed once, and released");
    other.hears(|event| (*event == Event::Moved(second)).then_some(())).await?;
    ensure!(worker.metric("moved_total{reason=\"recall\"}").await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn what_ends_with_its_process_is_not_recalled() -> Result<()> {
    let (_worker, mut peer, stream) = with_session("memory:", &[]).await?;
    peer.say(|link| link.recall(stream)).await?;
    peer.send(stream, 2, r#"{"tag":"list"}"#).await?;
    peer.hears_of("[1]").await?;
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_never_committed_otherwise_is_committed_when_it_is_recalled() -> Result<()>
{
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let (_worker, mut peer, stream) = with_session(&store, &["--durability", "memory"]).await?;
    recall(&mut peer, stream, |_| {}).await?;
    ensure!(row(&store, "anna").await? == (None, Version(1)));
    Ok(())
}

#[tokio::test]
async fn a_handler_that_returns_in_time_is_waited_for() -> Result<()> {
    let folder = TempDir::new()?;
    let flags = [&LAZY[..], &["--handler-grace", "60s"]].concat();
    let (_worker, mut peer, stream) = with_session(&sqlite(&folder), &flags).await?;
    peer.send(stream, 2, r#"{"tag":"ping"}"#).await?;
    peer.send(stream, 3, r#"{"tag":"wait","seconds":2}"#).await?;
    // The handler runs when the one before has answered.
    peer.hears_of("pong").await?;
    peer.say(|link| link.recall(stream)).await?;
    peer.hears_of("waited").await?;
    peer.hears(|event| (*event == Event::Acked(stream, 3)).then_some(())).await?;
    recall(&mut peer, stream, |_| {}).await
}

#[tokio::test]
async fn a_handler_that_runs_for_too_long_is_given_up_and_its_session_goes_as_it_was_committed()
-> Result<()> {
    for handler in ["wait", "compute"] {
        let folder = TempDir::new()?;
        let store = sqlite(&folder);
        let (worker, mut peer, stream) =
            with_session(&store, &["--handler-grace", "200ms"]).await?;
        peer.hears(|event| (*event == Event::Acked(stream, 1)).then_some(())).await?;
        peer.send(stream, 2, r#"{"tag":"append","n":2}"#).await?;
        let wait = format!(r#"{{"tag":"{handler}","seconds":20}}"#);
        peer.send(stream, 3, &wait).await?;
        // It runs when the one before has answered.
        peer.hears_of("2}").await?;
        peer.say(|link| link.recall(stream)).await?;
        let reset = Event::Reset(stream, ResetCode::RolledBack);
        peer.hears(|event| (*event == reset).then_some(())).await?;
        ensure!(row(&store, "anna").await?.0.is_none(), "another worker has it at once");
        ensure!(worker.metric("handlers_dropped_total").await? == 1.0);

        let next = Worker::start(1, &store, &[]).await?;
        let mut peer = Peer::connect(&next.address, 1).await?;
        let stream = peer.open(Open { recovered: true, ..first() }).await?;
        let applied = peer.hears(|event| match event {
            Event::Opened(id, opened) if *id == stream => Some(opened.applied),
            _ => None,
        });
        let applied = applied.await?.expect("it knows the channel").0;
        peer.send(stream, applied + 1, r#"{"tag":"list"}"#).await?;
        let list = if applied == 1 { "[1]" } else { "[1,2]" };
        peer.hears_of(list).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_says_so_first_and_then_moves_everything() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let (mut worker, mut peer, stream) = with_session(&store, &LAZY).await?;
    let mut idle = Peer::connect(&worker.address, 0).await?;
    worker.process.signal("TERM")?;
    let going = Event::GoAway(GoAway::Draining);
    ensure!(peer.next().await? == Some(going.clone()), "before anything else");
    peer.hears(|event| (*event == Event::Moved(stream)).then_some(())).await?;
    ensure!(idle.next().await? == Some(going), "all are told");
    ensure!(peer.next().await?.is_none() && idle.next().await?.is_none(), "it hangs up");
    drop((peer, idle));
    let status = worker.process.wait().await?;
    ensure!(status.code() == Some(0), "{status}: {}", worker.process.output());
    ensure!(row(&store, "anna").await? == (None, Version(1)));
    Ok(())
}

#[tokio::test]
async fn nothing_comes_to_a_worker_that_drains() -> Result<()> {
    let folder = TempDir::new()?;
    let flags = ["--handler-grace", "60s", "--drain-timeout", "60s"];
    let (worker, mut peer, busy) = with_session(&sqlite(&folder), &flags).await?;
    peer.send(busy, 2, r#"{"tag":"wait","seconds":60}"#).await?;
    worker.process.signal("TERM")?;
    worker.process.wait_for_message("worker drains").await?;
    // It crosses the GOAWAY, which this gateway has not read yet.
    let late = peer.open(open(&id("berta"), "late", 1)).await?;
    let refusal = refused(&mut peer, late).await?;
    ensure!(matches!(refusal, Refused::Retry { owner: None, .. }), "{refusal:?}");
    ensure!(Peer::connect(&worker.address, 0).await.is_err(), "and it does not listen");
    Ok(())
}

/// `end`: the signal that ends the first of two workers; `view`: how gateways see it then.
async fn work_goes_on_at_another_worker(end: &str, view: Skipped) -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let session = session_on(0, 2, "later");
    let (mut first, second) =
        (Worker::start(0, &store, &[]).await?, Worker::start(1, &store, &[]).await?);
    let mut to_first = Peer::connect(&first.address, 0).await?;
    to_first.say(|link| link.topology(topology(1, 2))).await?;
    let stream = to_first.open(open(&session, "first", 1)).await?;
    attached(&mut to_first, stream).await?;
    to_first.send(stream, 1, r#"{"tag":"later","n":7,"seconds":20}"#).await?;
    to_first.hears(|event| (*event == Event::Acked(stream, 1)).then_some(())).await?;
    to_first.say(|link| link.close(stream, CloseCode::Detached)).await?;
    let mut to_second = Peer::connect(&second.address, 1).await?;
    to_second.say(|link| link.topology(topology(1, 2))).await?;
    first.process.signal(end)?;
    to_second.say(|link| link.skipped(view)).await?;
    let goes_on = async {
        while to_first.next().await.is_ok_and(|event| event.is_some()) {}
        drop(to_first);
        first.process.wait().await?;
        wait_until("it is woken", async || Ok(second.sessions().await? == 1)).await
    };
    // Links live on what both ends say.
    let listening = async { while to_second.next().await.is_ok_and(|event| event.is_some()) {} };
    tokio::select! {
        () = listening => anyhow::bail!("the second worker has ended"),
        woken = goes_on => woken,
    }
}

#[tokio::test]
async fn work_that_nobody_is_attached_to_goes_on_when_its_worker_drains() -> Result<()> {
    work_goes_on_at_another_worker("TERM", skipped(&[], &[0])).await
}

#[tokio::test]
async fn work_that_nobody_is_attached_to_goes_on_when_its_worker_is_down() -> Result<()> {
    work_goes_on_at_another_worker("KILL", skipped(&[0], &[])).await
}
