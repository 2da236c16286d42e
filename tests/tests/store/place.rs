//! Where a test's rows are, and workers that use them: each has a handle of its own, as each worker
//! process has.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};
use single_state_store::{
    Claim, Claimed, Listed, Manners, Owner, Row, Save, Saved, Settings, SharedStore, Standing,
    Store, Version, open,
};
use single_state_tests::postgres::TempPostgres;

/// One database, for one test.
pub(crate) struct Place {
    url: String,
    cluster: String,
    /// Rows in memory have no other way to them than their store.
    memory: RefCell<BTreeMap<String, SharedStore>>,
    folder: Option<tempfile::TempDir>,
    /// It ends with the last test that has it.
    #[expect(dead_code, reason = "held, not used")]
    server: Option<Arc<TempPostgres>>,
}

impl Place {
    pub(crate) async fn memory() -> Result<Self> {
        Ok(Self::new("memory:".to_owned()))
    }

    pub(crate) async fn sqlite() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite:{}", folder.path().join("sessions.db").display());
        Ok(Self { folder: Some(folder), ..Self::new(url) })
    }

    pub(crate) async fn postgres() -> Result<Self> {
        let server = TempPostgres::shared().await?;
        Ok(Self { server: Some(server.clone()), ..Self::new(server.url()) })
    }

    fn new(url: String) -> Self {
        // Tests that share one server do not see each other's rows.
        let cluster = format!("test-{}-{}", std::process::id(), next_number());
        Self { url, cluster, memory: RefCell::default(), folder: None, server: None }
    }

    pub(crate) fn folder(&self) -> Result<&std::path::Path> {
        Ok(self.folder.as_ref().context("these rows have no folder")?.path())
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { cluster: self.cluster.clone(), ..Settings::default() }
    }

    /// A handle that was not prepared.
    pub(crate) fn open(&self, settings: Settings) -> Result<SharedStore> {
        if self.url != "memory:" {
            return Ok(open(&self.url, settings)?);
        }
        let mut stores = self.memory.borrow_mut();
        if let Some(store) = stores.get(&settings.cluster) {
            return Ok(store.clone());
        }
        let store = open(&self.url, settings.clone())?;
        stores.insert(settings.cluster, store.clone());
        Ok(store)
    }

    pub(crate) async fn store(&self) -> Result<SharedStore> {
        let store = self.open(self.settings())?;
        store.prepare().await?;
        Ok(store)
    }

    /// A worker of the first topology and of version 1 of the app, in its first start.
    pub(crate) async fn worker(&self, index: u16) -> Result<Worker> {
        Ok(Worker { store: self.store().await?, owner: owner(index) })
    }
}

/// What only racing owners need.
#[cfg(feature = "faults")]
impl Place {
    /// The same rows, for another thread.
    pub(crate) fn again(url: &str, settings: &Settings) -> Self {
        Self { cluster: settings.cluster.clone(), ..Self::new(url.to_owned()) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A worker whose saves leave out what `guards` says.
    pub(crate) async fn unguarded(
        &self,
        index: u16,
        guards: single_state_store::Guards,
    ) -> Result<Worker> {
        let store = self.open(Settings { guards, ..self.settings() })?;
        store.prepare().await?;
        Ok(Worker { store, owner: owner(index) })
    }
}

fn next_number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

pub(crate) fn owner(index: u16) -> Owner {
    Owner {
        index: WorkerIndex(index),
        incarnation: Incarnation(1),
        generation: Generation(1),
        app_version: 1,
    }
}

/// Runs a test as a worker runs: on one event loop.
pub(crate) fn block_on<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

pub(crate) fn id(text: &str) -> SessionId {
    text.parse().expect("tests name sessions well")
}

pub(crate) fn claim(session: &SessionId, at_least: u64) -> Claim {
    Claim { session: session.clone(), at_least: Epoch(at_least) }
}

/// A snapshot of a session whose row was claimed.
pub(crate) fn save(
    session: &SessionId,
    epoch: Epoch,
    version: u64,
    state: impl Into<Bytes>,
) -> Save {
    Save {
        session: session.clone(),
        epoch,
        version: Version(version),
        codec: 7,
        state: state.into(),
        wake_at: None,
        kept: Vec::new(),
        first: false,
    }
}

pub(crate) const POLITE: Manners = Manners { down: Vec::new(), force: false };
pub(crate) const FORCE: Manners = Manners { down: Vec::new(), force: true };

/// One worker process, as its store sees it.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) store: SharedStore,
    pub(crate) owner: Owner,
}

impl std::ops::Deref for Worker {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        self.store.as_ref()
    }
}

impl Worker {
    pub(crate) async fn claim_one(&self, manners: &Manners, claim: Claim) -> Result<Claimed> {
        let mut claimed = self.store.claim(&self.owner, manners, &[claim]).await?;
        assert_eq!(claimed.len(), 1);
        claimed.pop().context("one answer")
    }

    /// Claims politely.
    pub(crate) async fn ask(&self, session: &SessionId) -> Result<Claimed> {
        self.claim_one(&POLITE, claim(session, 100)).await
    }

    /// Claims, whoever has it.
    pub(crate) async fn take(&self, session: &SessionId) -> Result<Row> {
        match self.claim_one(&FORCE, claim(session, 100)).await? {
            Claimed::Owned(row) => Ok(row),
            Claimed::Held(holder) => bail!("{session} is held: {holder:?}"),
        }
    }

    pub(crate) async fn save_one(&self, save: Save) -> Result<Saved> {
        let saved = self.store.save(&self.owner, &[save]).await?;
        assert_eq!(saved.len(), 1);
        Ok(saved[0])
    }

    /// Takes a session and saves its version 1.
    pub(crate) async fn begin(&self, session: &SessionId, state: &'static str) -> Result<Epoch> {
        let epoch = self.take(session).await?.epoch;
        assert_eq!(self.save_one(save(session, epoch, 1, state)).await?, Saved::Done);
        Ok(epoch)
    }

    pub(crate) async fn standing(&self, session: &SessionId, epoch: Epoch) -> Result<Standing> {
        Ok(self.store.confirm(&[(session.clone(), epoch)]).await?[0])
    }

    pub(crate) async fn give_up(&self, session: &SessionId, epoch: Epoch) -> Result<()> {
        Ok(self.store.release(&[(session.clone(), epoch)], false).await?)
    }

    pub(crate) async fn look(&self, session: &SessionId) -> Result<(Listed, Bytes)> {
        self.store.show(session).await?.with_context(|| format!("{session} has no row"))
    }

    pub(crate) async fn state(&self, session: &SessionId) -> Result<Bytes> {
        Ok(self.look(session).await?.1)
    }
}
