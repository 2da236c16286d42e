//! A worker that ends with many sessions. `SINGLE_STATE_TEST_SESSIONS=20000` says how many; how long
//! it takes is printed, and never judged.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Result, ensure};
use single_state_proto::link::Event;
use single_state_store::{Settings, open as open_store};
use single_state_tests::peer::{Peer, open};
use single_state_tests::postgres::TempPostgres;
use tempfile::TempDir;

use crate::{Worker, sqlite};

/// Sessions that are opened before any is waited for.
const AT_ONCE: usize = 200;

async fn all_sessions_of_a_drained_worker_are_committed_and_moved(store: &str) -> Result<()> {
    let sessions = std::env::var("SINGLE_STATE_TEST_SESSIONS");
    let sessions: usize = sessions.map_or(Ok(500), |number| number.parse())?;
    let flags = ["--commit-interval", "1h", "--drain-timeout", "10m"];
    let mut worker = Worker::start(0, store, &flags).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    for first in (0..sessions).step_by(AT_ONCE) {
        open_some(&mut peer, first..sessions.min(first + AT_ONCE)).await?;
    }
    let began = Instant::now();
    worker.process.signal("TERM")?;
    let mut moved = 0;
    while let Some(event) = peer.next().await? {
        moved += usize::from(matches!(event, Event::Moved(_)));
    }
    let took = began.elapsed();
    drop(peer);
    ensure!(worker.process.wait().await?.success() && moved == sessions, "{moved} of {sessions}");
    let each = sessions as f64 / took.as_secs_f64();
    eprintln!("{sessions} changed sessions moved in {took:.1?}: {each:.0} in a second");

    let store = open_store(store, Settings::default())?;
    store.prepare().await?;
    let (mut listed, mut after) = (0, None);
    loop {
        let page = store.list(after.as_ref(), 256).await?;
        ensure!(page.iter().all(|row| row.owner.is_none() && row.version.0 == 1));
        listed += page.len();
        match page.into_iter().next_back() {
            Some(last) => after = Some(last.session),
            None => break,
        }
    }
    ensure!(listed == sessions, "{listed} rows of {sessions} sessions");
    Ok(())
}

/// Each with a change that is not committed.
async fn open_some(peer: &mut Peer, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut waiting = HashSet::new();
    for number in numbers {
        let mut open = open(&format!("session-{number}").parse()?, "first", 1);
        open.fresh = true;
        waiting.insert(peer.open(open).await?);
    }
    while !waiting.is_empty() {
        let event = peer.hears(|event| match event {
            Event::Opened(stream, _) => Some((*stream, true)),
            Event::Message(stream, _) => Some((*stream, false)),
            _ => None,
        });
        match event.await? {
            (stream, true) => peer.send(stream, 1, r#"{"tag":"append","n":1}"#).await?,
            (stream, false) => drop(waiting.remove(&stream)),
        }
    }
    Ok(())
}

#[tokio::test]
async fn all_sessions_of_a_drained_worker_are_committed_to_sqlite_and_moved() -> Result<()> {
    let folder = TempDir::new()?;
    all_sessions_of_a_drained_worker_are_committed_and_moved(&sqlite(&folder)).await
}

#[tokio::test]
async fn all_sessions_of_a_drained_worker_are_committed_to_postgresql_and_moved() -> Result<()> {
    let server = TempPostgres::start().await?;
    all_sessions_of_a_drained_worker_are_committed_and_moved(&server.url()).await
}
