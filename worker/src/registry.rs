//! The sessions of a worker: the only place that starts or ends one. Knows no sockets and no app
//! types.
//!
//! ```text
//!   OPEN, work due ──▶ absent ──claim──▶ loading ──row──▶ resident ──ended, idle, robbed──▶ absent
//!                                          OPENs wait      │  ▲ OPENs attach
//!                                                          └──┘ a handler panicked: claimed again
//! ```

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rustc_hash::FxHashMap;
use single_state_proto::frame::{CloseCode, Open, Refused, ResetCode};
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;
use single_state_store::{
    Claim, Claimed, Holder, MAX_STRIKES, Row, Standing, StoreError, fresh_epoch,
};
use tokio::time::Instant;

use crate::actor::{self, Coroutine, End, Loaded};
use crate::chores::Map;
use crate::host::{Host, OnUnreadable};
use crate::ownership::CONFIRMED_FOR;
use crate::resident::{Poison, Resident, Tab};
use crate::session::Session;
use crate::snapshot::{self, Saved, Unreadable};

/// When a gateway asks again for a session for which there is no room.
const FULL_RETRY_MS: u32 = 1000;
/// How a gateway whose session could not be claimed asks again.
const CLAIM_RETRY_MS: u32 = 500;
/// … and one whose session leaves this memory just now.
const LEAVING_RETRY_MS: u32 = 50;
/// … and one whose session only a newer worker can read.
const NEWER_RETRY_MS: u32 = 2000;

/// A session that another owner has not released is taken from it after so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Until then it is asked for at first after so long, then after twice as long each time.
const FIRST_POLL: Duration = Duration::from_millis(20);

/// A session that could not be committed within this time does not leave memory.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// While the store is away, what must be done is tried again so often.
const STORE_RETRY: Duration = Duration::from_secs(1);

type Start = fn(Rc<Resident>, Rc<Host>, Option<Loaded>) -> Result<Coroutine, Unreadable>;

/// All sessions of one worker.
pub(crate) struct Registry {
    pub(crate) host: Rc<Host>,
    /// Where sessions belong.
    pub(crate) map: Map,
    sessions: RefCell<FxHashMap<SessionId, Entry>>,
    /// The worker ends: sessions leave and none comes.
    draining: Cell<bool>,
    /// Makes a session's coroutine: the one thing that knows the app's type.
    start: Start,
}

enum Entry {
    Loading(Loading),
    Resident(Rc<Resident>),
}

/// A session that is being claimed.
#[derive(Default)]
struct Loading {
    waiting: Vec<(Box<Open>, Rc<dyn Tab>)>,
    /// What panicked, and is why it is loaded again.
    poison: Option<Poison>,
    /// It stays even if nobody waits for it: it has work to do.
    wanted: bool,
}

impl Registry {
    /// A worker's registry for the app `S`.
    pub(crate) fn new<S: Session>(host: Rc<Host>, key: PlacementKey) -> Rc<Self> {
        let (sessions, draining) = Default::default();
        Rc::new(Self { host, map: Map::new(key), sessions, draining, start: actor::start::<S> })
    }

    /// A gateway has told where sessions belong.
    pub(crate) fn learn(&self, topology: Topology) {
        self.host.ownership.set_generation(topology.generation());
        self.map.learn(topology);
    }

    // --- attaching ------------------------------------------------------------------------------

    /// Attaches a channel to its session, which is loaded first if it is not in memory.
    pub(crate) fn open(self: &Rc<Self>, open: Box<Open>, tab: Rc<dyn Tab>) {
        if self.draining.get() {
            return tab.refused(Refused::Retry { after_ms: CLAIM_RETRY_MS, owner: None });
        }
        let mut sessions = self.sessions.borrow_mut();
        let most = self.host.rules.max_sessions;
        let full = most > 0 && sessions.len() >= most;
        match sessions.get_mut(&open.session) {
            Some(Entry::Resident(resident)) => {
                let resident = resident.clone();
                drop(sessions);
                if self.is_surely_ours(&resident, open.min_epoch) {
                    resident.attach(&open, tab);
                } else {
                    tokio::task::spawn_local(self.clone().confirm(resident, open, tab));
                }
            }
            Some(Entry::Loading(loading)) => loading.waiting.push((open, tab)),
            None if full => {
                drop(sessions);
                tab.refused(Refused::Retry { after_ms: FULL_RETRY_MS, owner: None });
            }
            None => {
                let (session, min_epoch) = (open.session.clone(), open.min_epoch);
                let (fresh, down) = (open.fresh, open.skipped.clone());
                let loading = Loading { waiting: vec![(open, tab)], ..Loading::default() };
                sessions.insert(session.clone(), Entry::Loading(loading));
                drop(sessions);
                if fresh {
                    // Nobody else can know the id: there is nothing to claim yet.
                    self.host.metrics.claimed("fresh");
                    self.begin(&session, fresh_epoch(min_epoch));
                } else {
                    tokio::task::spawn_local(self.clone().load(session, min_epoch, down));
                }
            }
        }
    }

    /// Loads a session that has work to do, unless it is here.
    pub(crate) fn wake(self: &Rc<Self>, session: SessionId) {
        let mut sessions = self.sessions.borrow_mut();
        let most = self.host.rules.max_sessions;
        let full = most > 0 && sessions.len() >= most;
        if self.draining.get() || full || sessions.contains_key(&session) {
            return;
        }
        let loading = Loading { wanted: true, ..Loading::default() };
        sessions.insert(session.clone(), Entry::Loading(loading));
        drop(sessions);
        tokio::task::spawn_local(self.clone().load(session, Epoch(0), Vec::new()));
    }

    /// Whether nobody can have taken the session since this was last known (R5).
    fn is_surely_ours(&self, resident: &Resident, min_epoch: Epoch) -> bool {
        self.host.rules.ephemeral
            || (min_epoch <= resident.epoch && resident.confirmed().elapsed() < CONFIRMED_FOR)
    }

    async fn confirm(self: Rc<Self>, resident: Rc<Resident>, open: Box<Open>, tab: Rc<dyn Tab>) {
        let standing = self.host.ownership.confirm(&resident.id, resident.epoch).await;
        if !tab.is_wanted() {
            return;
        }
        match standing {
            Ok(Standing::Fenced) => {
                self.host.metrics.fenced.inc();
                resident.fence();
                tab.refused(Refused::Retry { after_ms: LEAVING_RETRY_MS, owner: None });
            }
            Ok(_) if open.min_epoch > resident.epoch => {
                // Its gateway has seen a later owner that has left no trace: whoever serves it next
                // must have a higher epoch than that one.
                self.retire(&resident);
                tab.refused(Refused::Retry { after_ms: LEAVING_RETRY_MS, owner: None });
            }
            Ok(_) => {
                resident.confirm();
                resident.attach(&open, tab);
            }
            Err(error) => {
                tracing::debug!(session.id = resident.id.as_str(), %error, "confirm a session");
                tab.refused(Refused::Retry { after_ms: CLAIM_RETRY_MS, owner: None });
            }
        }
    }

    // --- loading --------------------------------------------------------------------------------

    /// Claims a session: politely at first, by force when its owner does not give it up.
    async fn load(self: Rc<Self>, session: SessionId, min_epoch: Epoch, down: Vec<WorkerIndex>) {
        let began = Instant::now();
        let mut pause = FIRST_POLL;
        loop {
            let claim = Claim { session: session.clone(), at_least: fresh_epoch(min_epoch) };
            let force = began.elapsed() >= PATIENCE;
            match self.host.ownership.claim(claim, down.clone(), force).await {
                Ok(Claimed::Owned(row)) => {
                    let reason = if row.unreleased { "steal" } else { "stored" };
                    self.host.metrics.claimed(reason);
                    return self.claimed(&session, row).await;
                }
                Ok(Claimed::Held(holder)) if self.is_newer(&session, &holder) => {
                    return self.refuse_waiting(&session, NEWER_RETRY_MS);
                }
                Ok(Claimed::Held(_)) if force => {
                    return self.refuse_waiting(&session, CLAIM_RETRY_MS);
                }
                Ok(Claimed::Held(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PATIENCE.saturating_sub(began.elapsed()));
                }
                Err(error) => {
                    self.log_away(&session, &error);
                    return self.refuse_waiting(&session, CLAIM_RETRY_MS);
                }
            }
        }
    }

    /// A newer version of the app has saved it: an upgraded worker will have it.
    fn is_newer(&self, session: &SessionId, holder: &Holder) -> bool {
        let ours = self.host.ownership.owner().app_version;
        let is_newer = holder.app_version > ours;
        if is_newer {
            tracing::warn!(
                session.id = session.as_str(),
                saved = holder.app_version,
                ours,
                "a newer version of the app has saved this session; this worker leaves it alone"
            );
        }
        is_newer
    }

    /// While the store is away this happens again and again: it is told where saves fail.
    fn log_away(&self, session: &SessionId, error: &StoreError) {
        tracing::debug!(session.id = session.as_str(), %error, "claim a session");
    }

    async fn claimed(self: &Rc<Self>, session: &SessionId, row: Row) {
        let state = match row.state.clone() {
            Some(state) => state,
            // Too long to come with the claim.
            None => match self.host.store.load(session, row.epoch).await {
                Ok(Some(row)) => row.state.unwrap_or_default(),
                Ok(None) => return self.refuse_waiting(session, LEAVING_RETRY_MS),
                Err(error) => {
                    self.log_away(session, &error);
                    return self.refuse_waiting(session, CLAIM_RETRY_MS);
                }
            },
        };
        if row.strikes >= MAX_STRIKES {
            tracing::error!(
                session.id = session.as_str(),
                strikes = row.strikes,
                "quarantined: the session has ended its worker each time; `sessions release` \
                 forgives it, `sessions discard` empties it"
            );
            return self.quarantine(session, &row, "strikes").await;
        }
        if row.version.0 == 0 {
            let resident = self.empty(session, row.epoch, Some(&row));
            return self.enter(session, &resident, None);
        }
        match self.restore(session, &row, &state) {
            Ok(()) => {}
            Err(error) if self.host.rules.on_unreadable == OnUnreadable::Reset => {
                tracing::error!(session.id = session.as_str(), %error, "reset: it starts anew");
                self.reset(session, &row, &error);
            }
            Err(error) => {
                tracing::error!(
                    session.id = session.as_str(),
                    %error,
                    "quarantined: its saved state is kept as it is (--on-unreadable)"
                );
                self.quarantine(session, &row, "unreadable").await;
            }
        }
    }

    fn restore(
        self: &Rc<Self>,
        session: &SessionId,
        row: &Row,
        state: &Bytes,
    ) -> Result<(), Unreadable> {
        let (kept, app) = snapshot::decode(row.codec, state)?;
        let app = Saved::new(state.slice_ref(app));
        let Host { clock, rules, .. } = *self.host;
        let (resident, timers) =
            Resident::restore(session.clone(), row, &kept, rules.policy, clock);
        let loaded = Loaded { app, app_version: row.app_version, timers };
        self.prepare(session, &resident);
        let coroutine = (self.start)(resident.clone(), self.host.clone(), Some(loaded))?;
        self.settle(session, resident, coroutine);
        Ok(())
    }

    /// What cannot be read is replaced by nothing.
    fn reset(self: &Rc<Self>, session: &SessionId, row: &Row, error: &Unreadable) {
        let resident = self.empty(session, row.epoch, Some(row));
        self.enter(session, &resident, None);
        // To those who are attached by now.
        resident.tell_reset(&error.to_string());
    }

    /// A session of which nobody knows anything yet.
    fn begin(self: &Rc<Self>, session: &SessionId, epoch: Epoch) {
        let resident = self.empty(session, epoch, None);
        self.enter(session, &resident, None);
    }

    fn empty(&self, session: &SessionId, epoch: Epoch, row: Option<&Row>) -> Rc<Resident> {
        let policy = self.host.rules.policy;
        Resident::new(session.clone(), epoch, policy, row.map(|row| row.version))
    }

    fn enter(
        self: &Rc<Self>,
        session: &SessionId,
        resident: &Rc<Resident>,
        loaded: Option<Loaded>,
    ) {
        self.prepare(session, resident);
        let start = || (self.start)(resident.clone(), self.host.clone(), loaded);
        match catch_unwind(AssertUnwindSafe(start)) {
            Ok(Ok(coroutine)) => self.settle(session, resident.clone(), coroutine),
            // `Default` of the app: there is nothing without it.
            Ok(Err(_)) | Err(_) => {
                tracing::error!(session.id = session.as_str(), "a new session cannot be made");
                self.host.metrics.quarantined("default");
                for (_, tab) in self.take_waiting(session) {
                    tab.refused(Refused::Quarantined);
                }
            }
        }
    }

    /// What is known of the session from before it was loaded again.
    fn prepare(&self, session: &SessionId, resident: &Resident) {
        if let Some(Entry::Loading(loading)) = self.sessions.borrow_mut().get_mut(session)
            && let Some(poison) = loading.poison.take()
        {
            resident.set_poison(poison);
        }
    }

    /// The session is in memory: it lives, and those who waited attach.
    fn settle(self: &Rc<Self>, session: &SessionId, resident: Rc<Resident>, coroutine: Coroutine) {
        let Some(Entry::Loading(Loading { waiting, wanted, .. })) =
            self.sessions.borrow_mut().remove(session)
        else {
            return;
        };
        let waiting: Vec<_> = waiting.into_iter().filter(|(_, tab)| tab.is_wanted()).collect();
        if waiting.is_empty() && !wanted {
            // Whoever asked for it has left: it ends at its first turn.
            resident.stop();
        }
        let entry = Entry::Resident(resident.clone());
        self.sessions.borrow_mut().insert(session.clone(), entry);
        self.host.metrics.resident.inc();
        tokio::task::spawn_local(self.clone().live(resident.clone(), coroutine));
        for (open, tab) in waiting {
            resident.attach(&open, tab);
        }
    }

    async fn quarantine(&self, session: &SessionId, row: &Row, reason: &'static str) {
        self.host.metrics.quarantined(reason);
        let released = [(session.clone(), row.epoch)];
        if let Err(error) = self.host.store.release(&released, true).await {
            tracing::debug!(session.id = session.as_str(), %error, "release a session");
        }
        for (_, tab) in self.take_waiting(session) {
            tab.refused(Refused::Quarantined);
        }
    }

    fn refuse_waiting(&self, session: &SessionId, after_ms: u32) {
        for (_, tab) in self.take_waiting(session) {
            tab.refused(Refused::Retry { after_ms, owner: None });
        }
    }

    /// Those who waited for a session that is not coming.
    fn take_waiting(&self, session: &SessionId) -> Vec<(Box<Open>, Rc<dyn Tab>)> {
        match self.sessions.borrow_mut().remove(session) {
            Some(Entry::Loading(loading)) => loading.waiting,
            _ => Vec::new(),
        }
    }

    // --- living ---------------------------------------------------------------------------------

    async fn live(self: Rc<Self>, resident: Rc<Resident>, coroutine: Coroutine) {
        let id = resident.id.clone();
        let end = tokio::select! {
            // What a later owner has is dropped in the middle of whatever it does.
            biased;
            () = resident.fenced() => Ok(End::Fenced),
            end = AssertUnwindSafe(coroutine).catch_unwind() => end,
        };
        self.host.committer.forget(&resident);
        let again = match end {
            Ok(End::Stopped) => {
                self.release(&resident).await;
                resident.moved();
                None
            }
            Ok(End::Deleted) => {
                self.delete(&resident).await;
                None
            }
            Ok(End::Fenced) => {
                resident.reset_channels(ResetCode::Fenced);
                None
            }
            Ok(End::Panicked(poison)) => Some(poison),
            Ok(End::Unreadable(error)) => {
                tracing::error!(session.id = id.as_str(), %error, "its state cannot be read back");
                self.host.metrics.quarantined("unreadable");
                resident.close_channels(CloseCode::Quarantined);
                self.release(&resident).await;
                None
            }
            Err(_) => {
                // Handlers are contained, so this is a mistake of ours.
                tracing::error!(session.id = id.as_str(), "session panicked outside its handlers");
                resident.close_channels(CloseCode::Quarantined);
                None
            }
        };
        self.sessions.borrow_mut().remove(&id);
        self.host.metrics.resident.dec();
        if let Some(poison) = again {
            self.roll_back(&resident, poison);
        }
    }

    /// Memory is given up; the session is loaded as it was last committed, and its clients send
    /// again what came after.
    fn roll_back(self: &Rc<Self>, resident: &Resident, poison: Poison) {
        let session = resident.id.clone();
        let loading = Loading { poison: Some(poison), wanted: true, ..Loading::default() };
        self.sessions.borrow_mut().insert(session.clone(), Entry::Loading(loading));
        resident.reset_channels(ResetCode::RolledBack);
        if resident.has_row() {
            tokio::task::spawn_local(self.clone().load(session, resident.epoch, Vec::new()));
        } else {
            self.begin(&session, fresh_epoch(resident.epoch));
        }
    }

    async fn release(&self, resident: &Resident) {
        if !resident.has_row() {
            return;
        }
        let released = [(resident.id.clone(), resident.epoch)];
        if let Err(error) = self.host.store.release(&released, false).await {
            // It is politeness: whoever wants the session takes it after a while.
            tracing::debug!(session.id = resident.id.as_str(), %error, "release a session");
        }
    }

    /// The app has ended the session: when it is deleted, its clients hear of it.
    async fn delete(&self, resident: &Resident) {
        while resident.has_row() {
            match self.host.store.delete(&resident.id, resident.epoch).await {
                Ok(single_state_store::Saved::Fenced) => {
                    return resident.reset_channels(ResetCode::Fenced);
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(session.id = resident.id.as_str(), %error, "delete a session");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
        resident.say_last_words();
        resident.close_channels(CloseCode::SessionEnded);
    }

    // --- leaving --------------------------------------------------------------------------------

    /// The session leaves memory as soon as everything is committed. One that cannot be committed
    /// soon goes on, and may be asked again (R18).
    pub(crate) fn passivate(self: &Rc<Self>, resident: &Rc<Resident>, reason: &'static str) {
        self.host.metrics.passivated(reason);
        self.retire(resident);
        if !self.draining.get() {
            let resident = Rc::downgrade(resident);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(GIVEN_UP_AFTER).await;
                if let Some(resident) = resident.upgrade() {
                    resident.stay();
                }
            });
        }
    }

    fn retire(&self, resident: &Rc<Resident>) {
        if let Some(due) = resident.retire() {
            self.host.committer.schedule(resident, due);
        }
    }

    /// The app's state leaves memory, as soon as everything is committed and until there is work.
    pub(crate) fn sleep(&self, resident: &Rc<Resident>) {
        if let Some(due) = resident.want_sleep() {
            self.host.committer.schedule(resident, due);
        }
    }

    /// No session comes any more.
    pub(crate) fn begin_to_drain(&self) {
        self.draining.set(true);
    }

    /// Sessions in memory.
    pub(crate) fn residents(&self) -> Vec<Rc<Resident>> {
        let sessions = self.sessions.borrow();
        let residents = sessions.values().filter_map(|entry| match entry {
            Entry::Resident(resident) => Some(resident.clone()),
            Entry::Loading(_) => None,
        });
        residents.collect()
    }

    /// Number of sessions in memory, with those that are being loaded.
    pub(crate) fn resident(&self) -> usize {
        self.sessions.borrow().len()
    }
}
