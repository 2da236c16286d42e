//! What all sessions of one worker process have in common.

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use single_state_proto::id::WorkerIndex;
use single_state_store::{Owner, SharedStore};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::committer::Committer;
use crate::history::History;
use crate::metrics::Metrics;
use crate::ownership::{CONFIRMED_FOR, Ownership};
use crate::resident::Policy;
use crate::running::Running;

/// What becomes of a session whose saved state the app cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnUnreadable {
    /// Browsers are refused, and the state is kept.
    Quarantine,
    /// It starts from nothing.
    Reset,
}

/// How a worker treats its sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) on_unreadable: OnUnreadable,
    /// Each snapshot is read back at once, to tell authors early.
    pub(crate) check_snapshots: bool,
    /// The store ends with the process: nobody else can own its sessions.
    pub(crate) ephemeral: bool,
    /// Sessions in memory; 0 is any.
    pub(crate) max_sessions: usize,
    /// Longest output, in bytes.
    pub(crate) max_output_bytes: usize,
    /// A session that is wanted elsewhere waits so long for a handler that runs.
    pub(crate) handler_grace: Duration,
}

/// One worker process, as its sessions see it.
pub(crate) struct Host {
    pub(crate) index: WorkerIndex,
    pub(crate) store: SharedStore,
    pub(crate) ownership: Rc<Ownership>,
    pub(crate) committer: Rc<Committer>,
    pub(crate) metrics: Rc<Metrics>,
    /// What is done with sessions is written here.
    pub(crate) history: History,
    pub(crate) rules: Rules,
    pub(crate) clock: Clock,
    /// What the event loop runs now.
    pub(crate) running: Arc<Running>,
    /// What the app loaded once for all sessions.
    pub(crate) shared: Arc<dyn Any + Send + Sync>,
    /// As many computations at a time as there are cores; without it they run where they are
    /// called, so that virtual time cannot overtake them.
    pub(crate) cores: Option<Arc<Semaphore>>,
    /// Sessions that have killed two owners are fed one at a time (R10).
    pub(crate) suspects: Arc<Semaphore>,
    /// When the process was last seen to live, and since when it does without a long pause.
    alive: Cell<Instant>,
    resumed: Cell<Instant>,
}

impl Host {
    pub(crate) fn new(
        owner: Owner,
        store: SharedStore,
        shared: Arc<dyn Any + Send + Sync>,
        rules: Rules,
        clock: Clock,
        history: History,
    ) -> Self {
        let metrics = Rc::new(Metrics::new());
        let ownership = Rc::new(Ownership::new(store.clone(), owner));
        let committer =
            Committer::new(store.clone(), ownership.clone(), metrics.clone(), history.clone());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            index: owner.index,
            store,
            ownership,
            committer,
            metrics,
            history,
            rules,
            clock,
            running: Arc::default(),
            shared,
            cores: Some(Arc::new(Semaphore::new(cores))),
            suspects: Arc::new(Semaphore::new(1)),
            alive: Cell::new(Instant::now()),
            resumed: Cell::new(Instant::now()),
        }
    }

    /// The process lives; called often.
    pub(crate) fn beat(&self) {
        let now = Instant::now();
        if now - self.alive.replace(now) > CONFIRMED_FOR {
            self.resumed.set(now);
        }
    }

    /// A moment of the last beat: what costs nothing to ask, and is good enough for idle times.
    pub(crate) fn recently(&self) -> Instant {
        self.alive.get()
    }

    /// Whether the process stood still for so long after this moment that somebody may have taken
    /// its sessions.
    pub(crate) fn has_been_away_since(&self, confirmed: Instant) -> bool {
        confirmed < self.resumed.get() && !self.rules.ephemeral
    }
}
