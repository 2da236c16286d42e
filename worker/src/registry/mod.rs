//! The sessions of a worker: the only place that starts or ends one. Knows no sockets and no app
//! types.
//!
//! ```text
//!   OPEN, work due ──▶ absent ──claim──▶ loading ──row──▶ resident ──ended, idle, robbed──▶ absent
//!                                          OPENs wait      │  ▲ OPENs attach
//!                                                          └──┘ a handler panicked: claimed again
//! ```

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use rustc_hash::FxHashMap;
use single_state_faults::{self as faults, Mutant};
use single_state_proto::frame::{Open, Refused, Skipped, Taken};
use single_state_proto::id::{Epoch, SessionId};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;
use single_state_store::{Standing, fresh_epoch};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::census::Census;
use self::contest::Contest;
use self::live::Life;
use crate::actor::{self, Loaded};
use crate::history::Deed;
use crate::host::Host;
use crate::map::{Learned, Map};
use crate::ownership::CONFIRMED_FOR;
use crate::resident::{Leave, Poison, Resident, Tab};
use crate::session::Session;
use crate::snapshot::Unreadable;

mod census;
mod contest;
mod leave;
mod live;
mod load;

/// A gateway whose OPEN has crossed a GOAWAY asks again, elsewhere, after so long.
const DRAINING_RETRY_MS: u32 = 20;
/// When a gateway asks again for a session for which there is no room.
const FULL_RETRY_MS: u32 = 1000;
/// How a gateway whose session could not be claimed asks again.
const CLAIM_RETRY_MS: u32 = 500;
/// … and one whose session leaves this memory just now.
const LEAVING_RETRY_MS: u32 = 50;

type Start = fn(&Rc<Registry>, Rc<Resident>, Option<Loaded>) -> Result<Life, Unreadable>;

/// All sessions of one worker.
pub(crate) struct Registry {
    pub(crate) host: Rc<Host>,
    /// Where sessions belong.
    pub(crate) map: Map,
    sessions: RefCell<FxHashMap<SessionId, Entry>>,
    /// The worker ends: sessions leave and none comes.
    draining: Cell<bool>,
    /// A session has left memory, or stays after all.
    left: Notify,
    /// Sessions that others have.
    contest: RefCell<Contest>,
    /// Told of each session that was taken from an owner that had not given it up.
    on_taken: OnceCell<Box<dyn Fn(Taken)>>,
    /// Makes a session's life: the one thing that knows the app's type.
    start: Start,
}

enum Entry {
    /// Boxed: it is far larger than the other, and does not last.
    Loading(Box<Loading>),
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

fn start<S: Session>(
    registry: &Rc<Registry>,
    resident: Rc<Resident>,
    loaded: Option<Loaded>,
) -> Result<Life, Unreadable> {
    let coroutine = actor::start::<S>(resident.clone(), registry.host.clone(), loaded)?;
    Ok(registry.clone().live(resident, coroutine))
}

impl Registry {
    /// A worker's registry for the app `S`.
    pub(crate) fn new<S: Session>(host: Rc<Host>, key: PlacementKey) -> Rc<Self> {
        let map = Map::new(key, host.index);
        let (sessions, draining, left, contest, on_taken) = Default::default();
        let start = start::<S>;
        Rc::new(Self { host, map, sessions, draining, left, contest, on_taken, start })
    }

    /// Who is told of each session that was taken from an owner that had not given it up. Said once.
    pub(crate) fn on_taken(&self, tell: impl Fn(Taken) + 'static) {
        let _ = self.on_taken.set(Box::new(tell));
    }

    /// A gateway has told where sessions belong.
    pub(crate) fn learn(&self, topology: Topology) -> Learned {
        let learned = self.map.learn(topology);
        let generation = self.map.generation();
        self.host.ownership.set_generation(generation);
        self.host.metrics.generation.set(generation.0 as i64);
        learned
    }

    // --- attaching ------------------------------------------------------------------------------

    /// Attaches a channel to its session, which is loaded first if it is not in memory.
    pub(crate) fn open(self: &Rc<Self>, open: Box<Open>, tab: Rc<dyn Tab>) {
        if self.draining.get() {
            return tab.refused(Refused::Retry { after_ms: DRAINING_RETRY_MS, owner: None });
        }
        if let Some(newer) = self.map.newer_than(open.generation) {
            return tab.refused(Refused::Stale(newer));
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
            // Who has it is asked for it wherever placement points; nobody begins to have it unless
            // placement points here (I10).
            None if !self.map.is_placed_here(&open.session, open.generation, &open.skipped)
                && !faults::mutant(Mutant::AnyPlacement) =>
            {
                drop(sessions);
                tab.refused(Refused::WrongOwner);
            }
            None if full => {
                drop(sessions);
                tab.refused(Refused::Retry { after_ms: FULL_RETRY_MS, owner: None });
            }
            None => {
                let (session, min_epoch) = (open.session.clone(), open.min_epoch);
                let (fresh, skipped) = (open.fresh, open.skipped.clone());
                let loading = Loading { waiting: vec![(open, tab)], ..Loading::default() };
                sessions.insert(session.clone(), Entry::Loading(Box::new(loading)));
                drop(sessions);
                if fresh {
                    // Nobody else can know the id: there is nothing to claim yet.
                    self.host.metrics.claimed("fresh");
                    self.begin(&session, fresh_epoch(min_epoch));
                } else {
                    tokio::task::spawn_local(self.clone().load(session, min_epoch, skipped));
                }
            }
        }
    }

    /// Loads a session that has work to do, unless it is here.
    pub(crate) fn wake(self: &Rc<Self>, session: SessionId, skipped: Skipped) {
        let mut sessions = self.sessions.borrow_mut();
        let most = self.host.rules.max_sessions;
        let full = most > 0 && sessions.len() >= most;
        if self.draining.get() || full || sessions.contains_key(&session) {
            return;
        }
        let loading = Loading { wanted: true, ..Loading::default() };
        sessions.insert(session.clone(), Entry::Loading(Box::new(loading)));
        drop(sessions);
        tokio::task::spawn_local(self.clone().load(session, Epoch(0), skipped));
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
                self.host.history.record(&resident.id, resident.epoch, || Deed::Fenced);
                resident.fence();
                tab.refused(Refused::Retry { after_ms: LEAVING_RETRY_MS, owner: None });
            }
            Ok(_) if open.min_epoch > resident.epoch => {
                // Its gateway has seen a later owner that has left no trace: whoever serves it next
                // must have a higher epoch than that one.
                self.passivate(&resident, Leave::Outrun);
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

    // --- leaving --------------------------------------------------------------------------------

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

    /// Ends as a crash would, within a process that goes on: for tests of apps.
    pub(crate) fn crash(&self) {
        self.draining.set(true);
        let sessions: Vec<_> = self.sessions.borrow_mut().drain().collect();
        for (_, entry) in sessions {
            match entry {
                Entry::Loading(loading) => {
                    for (_, tab) in loading.waiting {
                        tab.refused(Refused::Retry { after_ms: 0, owner: None });
                    }
                }
                Entry::Resident(resident) => resident.fence(),
            }
        }
    }

    /// Forgets what is not worth remembering any more.
    pub(crate) fn tidy(&self) {
        self.contest.borrow_mut().tidy(Instant::now());
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
