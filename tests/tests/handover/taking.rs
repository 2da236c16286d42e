//! Sessions that another worker has, as their rows say.

use anyhow::{Result, ensure};
use bytes::Bytes;
use single_state_proto::frame::{Refused, ResetCode};
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};
use single_state_proto::link::Event;
use single_state_store::{
    Claim, Claimed, Manners, Owner, Save, Settings, SharedStore, Standing, Version,
};
use single_state_tests::peer::{Peer, open};
use tempfile::TempDir;

use crate::{Worker, answer, attached, refused, skipped, sqlite};

const OWNER: Owner = Owner {
    index: WorkerIndex(1),
    incarnation: Incarnation(1),
    generation: Generation(0),
    app_version: 1,
};

/// Another worker, of which only the rows are known.
struct Other {
    store: SharedStore,
    owner: Owner,
    session: SessionId,
    epoch: Epoch,
}

impl Other {
    /// It owns a session.
    async fn with_session(store: &str) -> Result<Self> {
        Self::claim(store, OWNER, &"contested".parse()?, Manners::default()).await
    }

    /// It takes a session from whoever has it.
    async fn robs(store: &str, session: &SessionId) -> Result<Self> {
        let force = Manners { force: true, ..Manners::default() };
        Self::claim(store, OWNER, session, force).await
    }

    async fn claim(
        store: &str,
        owner: Owner,
        session: &SessionId,
        manners: Manners,
    ) -> Result<Self> {
        let store = single_state_store::open(store, Settings::default())?;
        store.prepare().await?;
        let session = session.clone();
        let claim = Claim { session: session.clone(), at_least: Epoch(100) };
        let claimed = store.claim(&owner, &manners, &[claim]).await?;
        let [Claimed::Owned(row)] = &claimed[..] else { anyhow::bail!("{claimed:?}") };
        let epoch = row.epoch;
        Ok(Self { store, owner, session, epoch })
    }

    async fn release(&self) -> Result<()> {
        Ok(self.store.release(&[(self.session.clone(), self.epoch)], false).await?)
    }

    async fn is_robbed(&self) -> Result<bool> {
        let standings = self.store.confirm(&[(self.session.clone(), self.epoch)]).await?;
        Ok(standings == [Standing::Fenced])
    }
}

#[tokio::test]
async fn the_owner_is_to_be_tried_first_and_is_robbed_only_when_it_does_not_serve() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let other = Other::with_session(&store).await?;
    let worker = Worker::start(0, &store, &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;

    // Others are served by the owner, and do not come back: that is no reason to rob it.
    for n in 0..8 {
        let stream = peer.open(open(&other.session, &format!("served-{n}"), 1)).await?;
        match refused(&mut peer, stream).await? {
            Refused::Retry { after_ms, owner } => {
                ensure!(owner == Some(WorkerIndex(1)) && after_ms < 50, "{owner:?} {after_ms}");
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            refused => anyhow::bail!("{refused:?}"),
        }
        ensure!(!other.is_robbed().await?);
    }
    let comes_again = open(&other.session, "comes-again", 1);
    let began = std::time::Instant::now();
    loop {
        let stream = peer.open(comes_again.clone()).await?;
        match answer(&mut peer, stream).await? {
            Ok(()) => break,
            Err(Refused::Retry { after_ms, .. }) => {
                ensure!(began.elapsed().as_secs() < 60, "it is never given up");
                tokio::time::sleep(std::time::Duration::from_millis(after_ms.into())).await;
            }
            Err(refused) => anyhow::bail!("{refused:?}"),
        }
    }
    ensure!(began.elapsed().as_secs() >= 1, "{:?} are no patience", began.elapsed());
    ensure!(other.is_robbed().await?);
    Ok(())
}

#[tokio::test]
async fn a_session_of_a_worker_that_is_going_away_is_waited_for() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let other = Other::with_session(&store).await?;
    let worker = Worker::start(0, &store, &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let mut wanted = open(&other.session, "first", 1);
    wanted.skipped = skipped(&[], &[1]);
    let stream = peer.open(wanted).await?;
    // One that is asked later is answered first: the other one waits.
    let elsewhere = peer.open(open(&"elsewhere".parse()?, "second", 1)).await?;
    attached(&mut peer, elsewhere).await?;
    other.release().await?;
    attached(&mut peer, stream).await?;
    ensure!(worker.metric("claims_total{reason=\"steal\"}").await? == 0.0, "it was given up");
    Ok(())
}

#[tokio::test]
async fn a_session_of_a_worker_that_is_down_is_taken_at_once() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let other = Other::with_session(&store).await?;
    let worker = Worker::start(0, &store, &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let mut wanted = open(&other.session, "first", 1);
    wanted.skipped = skipped(&[1], &[]);
    let stream = peer.open(wanted).await?;
    attached(&mut peer, stream).await?;
    ensure!(other.is_robbed().await?);
    Ok(())
}

#[tokio::test]
async fn a_session_that_was_taken_from_a_worker_is_not_taken_back_at_once() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let worker = Worker::start(0, &store, &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let session: SessionId = "contested".parse()?;
    let mut wanted = open(&session, "first", 1);
    let stream = peer.open(wanted.clone()).await?;
    attached(&mut peer, stream).await?;
    peer.send(stream, 1, r#"{"tag":"append","n":1}"#).await?;
    peer.hears(|event| (*event == Event::Acked(stream, 1)).then_some(())).await?;

    let other = Other::robs(&store, &session).await?;
    peer.send(stream, 2, r#"{"tag":"append","n":2}"#).await?;
    let fenced = Event::Reset(stream, ResetCode::Fenced);
    peer.hears(|event| (*event == fenced).then_some(())).await?;
    // A gateway that calls the other one down could have it back at once, and so could the other's
    // gateways.
    wanted.skipped = skipped(&[1], &[]);
    let mut refusals = 0;
    loop {
        let stream = peer.open(wanted.clone()).await?;
        match answer(&mut peer, stream).await? {
            Ok(()) => break,
            Err(Refused::Retry { after_ms, owner }) => {
                ensure!(owner == Some(WorkerIndex(1)) && !other.is_robbed().await?);
                refusals += 1;
                ensure!(refusals < 200, "it is never given back");
                tokio::time::sleep(std::time::Duration::from_millis(after_ms.into())).await;
            }
            Err(refused) => anyhow::bail!("{refused:?}"),
        }
    }
    ensure!(refusals > 0 && other.is_robbed().await?);
    Ok(())
}

#[tokio::test]
async fn a_row_that_only_a_newer_topology_holds_is_taken_after_a_while() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let owner = Owner { generation: Generation(1 << 50), ..OWNER };
    let other = Other::claim(&store, owner, &"contested".parse()?, Manners::default()).await?;
    other.release().await?;
    let worker = Worker::start(0, &store, &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    let stream = peer.open(open(&other.session, "first", 1)).await?;
    attached(&mut peer, stream).await
}

#[tokio::test]
async fn a_session_that_a_newer_app_has_saved_is_refused_as_such_and_told_once() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let mut other = Other::with_session(&store).await?;
    other.owner.app_version = 2;
    let save = Save {
        session: other.session.clone(),
        epoch: other.epoch,
        version: Version(1),
        codec: 1,
        state: Bytes::from_static(b"of tomorrow"),
        wake_at: None,
        kept: Vec::new(),
        first: false,
    };
    other.store.save(&other.owner, &[save]).await?;
    other.release().await?;
    let worker = Worker::start(0, &store, &[]).await?;
    let mut peer = Peer::connect(&worker.address, 0).await?;
    for n in 0..3 {
        let stream = peer.open(open(&other.session, &format!("tab-{n}"), 1)).await?;
        ensure!(refused(&mut peer, stream).await? == Refused::TooNew);
    }
    let told = worker.process.output();
    ensure!(told.matches("a newer version of the app").count() == 1, "{told}");
    Ok(())
}
