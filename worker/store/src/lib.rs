//! Rows of sessions, each with one owner at a time: the trait [`Store`], what a claim says and what
//! a save comes to, and the three places where rows live. Knows no apps, no links and no snapshots:
//! a session's state is bytes here.
//!
//! ```text
//!            claim: epoch + 1          save: guarded by epoch and version
//!   absent ───────────────────▶ owned ─────────────────────────────▶ owned, version n
//!      ▲                        │   ▲ └─ a later claim: every save of the earlier owner is fenced
//!      │ unused for long        │   │ claim
//!      └────────────────── released ┘
//! ```
//!
//! Invariant: the store, not the routing, decides who owns a session. The owner's index in a row is
//! politeness; the epoch is safety.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
#[cfg(feature = "faults")]
use single_state_faults::{self as faults, Mutant};
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};

mod memory;
mod postgres;
mod sqlite;
mod url;

pub use memory::MemoryStore;
pub use url::{InvalidUrl, open};

/// States up to this length come with their claim; a longer one is read with [`Store::load`], so
/// that a batch of claims is bounded in bytes too.
pub const INLINE_STATE: usize = 1024 * 1024;

/// Most sessions that one call takes.
pub const MAX_BATCH: usize = 256;

/// A session with this many deaths of owners on its account is not given to another one.
pub const MAX_STRIKES: u16 = 3;

/// Number of a session's committed snapshot; rises with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Version(pub u64);

/// How a store is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rows of different clusters do not see each other.
    pub cluster: String,
    /// A call that takes longer has failed, and whether it was done is unknown.
    pub timeout: Duration,
    /// Connections to PostgreSQL, at most.
    pub connections: usize,
    /// File of certificates, in PEM, of authorities that are trusted beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// What protects committed state.
    #[cfg(feature = "faults")]
    pub guards: Guards,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster: "default".to_owned(),
            timeout: Duration::from_secs(5),
            connections: 6,
            ca_file: None,
            #[cfg(feature = "faults")]
            guards: Guards::default(),
        }
    }
}

/// The two tests of a save; each can be left out to see that tests notice. By default as this process
/// was told to.
#[cfg(feature = "faults")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// A save of an earlier owner is refused.
    pub epoch: bool,
    /// A late save of an older snapshot does not overwrite a newer one.
    pub version: bool,
}

#[cfg(feature = "faults")]
impl Default for Guards {
    fn default() -> Self {
        let epoch = !faults::mutant(Mutant::NoEpochTest);
        Self { epoch, version: !faults::mutant(Mutant::NoVersionTest) }
    }
}

/// Who claims and saves: one worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Its position in the topology.
    pub index: WorkerIndex,
    /// Its start.
    pub incarnation: Incarnation,
    /// The newest topology that it knows.
    pub generation: Generation,
    /// Version of its app: rows of a newer one are not its to read.
    pub app_version: u32,
}

/// Asks for one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub session: SessionId,
    /// The new epoch is at least this.
    pub at_least: Epoch,
}

/// What a batch of claims has in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manners {
    /// Workers that are known to be gone: what they own may be taken.
    pub down: Vec<WorkerIndex>,
    /// Takes from live owners and newer topologies too, and the row has the claimer's generation
    /// from then on, even if that is lower (R4). An app version above the claimer's own is still
    /// not taken.
    pub force: bool,
}

/// What a claim came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The session is the claimer's.
    Owned(Row),
    /// It is another owner's, or of a newer app or topology: nothing has changed.
    Held(Holder),
}

/// A session as its new owner finds it. Version 0 is a session that was never saved, whose state is
/// empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The new owner's epoch.
    pub epoch: Epoch,
    /// Of the last snapshot.
    pub version: Version,
    /// App version that wrote it.
    pub app_version: u32,
    /// How it is encoded.
    pub codec: u16,
    /// Deaths of owners since the last commit or release.
    pub strikes: u16,
    /// The owner before did not give it up: it died, or was robbed.
    pub unreleased: bool,
    /// The snapshot; `None` when it is longer than [`INLINE_STATE`].
    pub state: Option<Bytes>,
}

/// Why a session could not be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its owner, if it has one.
    pub owner: Option<WorkerIndex>,
    /// App version of its snapshot.
    pub app_version: u32,
    /// The topology under which it was claimed last.
    pub generation: Generation,
}

/// A snapshot to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// Whose.
    pub session: SessionId,
    /// Of its owner.
    pub epoch: Epoch,
    /// Above that of every snapshot before; the same for each repetition of this save.
    pub version: Version,
    /// How `state` is encoded.
    pub codec: u16,
    /// The snapshot.
    pub state: Bytes,
    /// When the session has something to do by itself; cut to the minute, downwards.
    pub wake_at: Option<SystemTime>,
    /// Large inputs to keep (or, `None`, to forget) beside the snapshot, in the same transaction.
    pub kept: Vec<(String, Option<Bytes>)>,
    /// The session has no row yet: it was not claimed (R3), so its first save makes the row.
    pub first: bool,
}

/// What a save came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// This snapshot, or a later one of the same owner, is committed.
    Done,
    /// A later owner has the session.
    Fenced,
    /// The row is gone, or is of an earlier epoch: the database has gone back in time (R6).
    Regressed,
}

/// Whether an owner still is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The row has its epoch.
    Owned,
    /// The row has a later epoch.
    Fenced,
    /// There is no row, or one of an earlier epoch.
    Absent,
}

/// A session with work that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub session: SessionId,
    /// Since when, cut to the minute.
    pub wake_at: SystemTime,
}

/// A row as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose.
    pub session: SessionId,
    /// Its owner, unless it is released.
    pub owner: Option<WorkerIndex>,
    /// Of the last claim.
    pub epoch: Epoch,
    /// Of the last snapshot; 0: there is none.
    pub version: Version,
    /// App version that wrote it.
    pub app_version: u32,
    /// How it is encoded.
    pub codec: u16,
    /// Deaths of owners since the last commit or release.
    pub strikes: u16,
    /// Length of the snapshot in bytes.
    pub bytes: u64,
    /// When it has work to do.
    pub wake_at: Option<SystemTime>,
    /// Of the last claim, save or release.
    pub updated_at: SystemTime,
}

/// Rows of sessions.
///
/// Sessions do not repeat within one call, and a call has at most [`MAX_BATCH`] of them; answers
/// come in the order of the questions. Each call ends within the settings' timeout and is safe to
/// repeat. Until [`Store::prepare`] has succeeded all others fail as [`StoreError::Away`].
pub trait Store {
    /// Reaches the database and brings its schema up to date; other workers may do so at the same
    /// time.
    fn prepare(&self) -> LocalBoxFuture<'_, Result<(), StoreError>>;

    /// Takes ownership of sessions, with or without rows.
    fn claim<'a>(
        &'a self,
        owner: &'a Owner,
        manners: &'a Manners,
        claims: &'a [Claim],
    ) -> LocalBoxFuture<'a, Result<Vec<Claimed>, StoreError>>;

    /// Reads a session that the caller owns; `None` when `epoch` does not own it any more.
    fn load<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Option<Row>, StoreError>>;

    /// Commits snapshots, all or none of those that are not fenced, and clears their strikes.
    fn save<'a>(
        &'a self,
        owner: &'a Owner,
        saves: &'a [Save],
    ) -> LocalBoxFuture<'a, Result<Vec<Saved>, StoreError>>;

    /// Whether each epoch still owns its session.
    fn confirm<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<Vec<Standing>, StoreError>>;

    /// Counts a strike for each session that its epoch still owns; the next commit clears it.
    fn strike<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<(), StoreError>>;

    /// Gives up sessions that their epochs still own. Strikes are cleared, unless `keep_strikes`.
    fn release<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
        keep_strikes: bool,
    ) -> LocalBoxFuture<'a, Result<(), StoreError>>;

    /// Empties and releases a session that its app has ended. The row stays for a while, with
    /// version 0, so that no earlier owner brings the session back.
    fn delete<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Saved, StoreError>>;

    /// A large input that was kept.
    fn kept<'a>(
        &'a self,
        session: &'a SessionId,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Sessions with work due at `now` whose owner is nobody, `down`, or an earlier start of
    /// `owner`; up to `limit`, in order of their time and id, beginning after `after`.
    fn due<'a>(
        &'a self,
        owner: &'a Owner,
        down: &'a [WorkerIndex],
        now: SystemTime,
        after: Option<&'a Due>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Due>, StoreError>>;

    /// Deletes up to `limit` rows, with what they keep, that have been unused for so long, have no
    /// work to do and no owner (or one that has not been heard of for twice as long). Returns how
    /// many it were.
    fn expire(
        &self,
        unused_for: Duration,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<usize, StoreError>>;

    /// Rows in order of their ids, up to `limit`, beginning after `after`.
    fn list<'a>(
        &'a self,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Listed>, StoreError>>;

    /// A row with its snapshot, whoever owns it, without touching it.
    fn show<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<Option<(Listed, Bytes)>, StoreError>>;

    /// Empties a session, whoever owns it: its owner is fenced, and the next one starts from
    /// nothing. Whether there was a row.
    fn discard<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<bool, StoreError>>;

    /// Lets anybody take a session at once and forgives its strikes; its state stays. Whether there
    /// was a row.
    fn free<'a>(&'a self, session: &'a SessionId) -> LocalBoxFuture<'a, Result<bool, StoreError>>;

    /// How many saves at a time make sense.
    fn parallel_saves(&self) -> usize;
}

/// A store that several parts of one worker share.
pub type SharedStore = Rc<dyn Store>;

/// Why a store did not do what it was asked. Its printed form is one sentence without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, did not answer in time, or could not finish: whether anything was done
    /// is unknown. To be tried again.
    #[error("{0}")]
    Away(String),
    /// It will not do it however often it is asked: no rights, no such database, a schema of a
    /// newer build. For an operator.
    #[error("{0}")]
    Unusable(String),
}

/// An epoch above `min_epoch` that no earlier owner can have had: from the clock, with random bits
/// for owners of one millisecond. Used where no row says what the last one was.
///
/// `min_epoch` comes from another process. One that no clock can have led to would bring the
/// epochs near their end, so it is not followed; a row that has it raises the epoch by itself.
pub fn fresh_epoch(min_epoch: Epoch) -> Epoch {
    /// How far another worker's clock may be ahead: about 34 years.
    const SKEW: u64 = 1 << 50;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX >> 20);
    let mut random = [0; 2];
    // Without entropy two owners of one millisecond are told apart by nothing else.
    let _ = getrandom::fill(&mut random);
    let now = (millis << 10) | u64::from(u16::from_be_bytes(random) & 0x3ff);
    if min_epoch.0 < now + SKEW { Epoch(now.max(min_epoch.0 + 1)) } else { Epoch(now) }
}
