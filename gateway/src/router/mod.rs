//! Which worker a session goes to. Owns the topology, the link to each worker of it and the channels
//! that have no worker now. Routing is a hint: the store decides who owns a session.
//!
//! ```text
//!                    placement names a worker whose link is up
//!   waiting.rs ─────────────────────────────────────────────────▶ a stream of that link
//!       ▲   link lost, MOVED, RESET, RETRY: placement is asked again       │
//!       └───────────────────────────────────────────────────────────────────┘
//!   standing.rs  which workers placement passes over
//!   homing.rs    sessions that are not where placement wants them are called home, a few at a time
//!   measured.rs  what waits, and what is not where it belongs: for operators
//!   recent.rs    what has happened to workers of late
//!   thefts.rs    sessions that a worker has taken from an owner that had not given them up
//! ```

mod homing;
mod measured;
mod recent;
mod restless;
mod standing;
mod thefts;
mod waiting;

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use single_state_proto::frame::{Refused, Skipped};
use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;
use tokio::sync::Notify;

use self::homing::Homing;
pub(crate) use self::measured::Measured;
use self::recent::Recent;
use self::restless::{Process, Restless};
pub(crate) use self::standing::{Health, Standing};
use self::thefts::Thefts;
use self::waiting::Waiting;
use crate::channel::Channel;
use crate::loads::Listed;
use crate::metrics::Metrics;
use crate::worker_link::{LinkOptions, WorkerLink};

/// How often quiet browsers are looked at.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Workers that are not there when a gateway starts are waited for this long: all may start at once.
const START_GRACE: Duration = Duration::from_secs(1);

/// The workers, and which of them has which session.
#[derive(Debug)]
pub(crate) struct Router {
    this: Weak<Self>,
    key: PlacementKey,
    options: LinkOptions,
    metrics: Rc<Metrics>,
    topology: RefCell<Option<Topology>>,
    /// By index.
    workers: RefCell<Vec<Rc<WorkerLink>>>,
    /// Not in the topology any more, but with streams.
    retired: RefCell<Vec<Rc<WorkerLink>>>,
    /// What placement passes over now.
    skipped: RefCell<Skipped>,
    waiting: Waiting,
    homing: Homing,
    restless: RefCell<Restless>,
    thefts: Thefts,
    recent: Recent,
    /// A link has been up since the start.
    was_up: Cell<bool>,
    /// Something has changed for channels that wait.
    news: Notify,
}

impl Router {
    pub(crate) fn new(key: PlacementKey, options: LinkOptions, metrics: Rc<Metrics>) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            key,
            options,
            topology: RefCell::default(),
            workers: RefCell::default(),
            retired: RefCell::default(),
            skipped: RefCell::default(),
            waiting: Waiting::new(metrics.clone()),
            homing: Homing::default(),
            restless: RefCell::default(),
            thefts: Thefts::default(),
            recent: Recent::default(),
            was_up: Cell::new(false),
            news: Notify::new(),
            metrics,
        })
    }

    /// Starts what goes on for as long as the gateway lives. Needs a `LocalSet`.
    pub(crate) fn start(self: &Rc<Self>) {
        tokio::task::spawn_local(self.clone().serve_waiting());
        tokio::task::spawn_local(self.clone().expire_waiting());
        tokio::task::spawn_local(self.clone().look_for_readers());
        tokio::task::spawn_local(self.clone().bring_home());
        tokio::task::spawn_local(self.clone().follow_thefts());
        tokio::task::spawn_local(self.clone().check_idle());
    }

    // --- who the workers are --------------------------------------------------------------------

    /// Takes a topology if it is newer than what is known; `source` is who says so. Needs a
    /// `LocalSet`.
    pub(crate) fn adopt(&self, topology: Topology, source: &str) {
        let generation = topology.generation().0;
        let order = self.topology.borrow().as_ref().map(|known| {
            let order = generation.cmp(&known.generation().0);
            (order, known.generation().0, *known == topology)
        });
        match order {
            None | Some((Ordering::Greater, ..)) => {}
            Some((Ordering::Equal, _, true)) => return,
            Some((Ordering::Equal, ..)) => {
                tracing::error!(
                    generation,
                    source,
                    "another list of workers has the generation of the one in use: give each \
                     change a higher generation; the one in use stays"
                );
                return;
            }
            Some((Ordering::Less, known, _)) => {
                tracing::warn!(
                    generation,
                    known,
                    source,
                    "an older list of workers is ignored: the cluster knows a newer one"
                );
                return;
            }
        }
        let workers = topology.workers().len();
        tracing::info!(generation, workers, source, "topology");
        self.recent.note(format!("list of {workers} workers, generation {generation}"), None);
        self.metrics.generation.set(generation as i64);
        self.replace_workers(&topology, order.is_none());
        *self.topology.borrow_mut() = Some(topology);
        self.homing.forget();
        self.restless.borrow_mut().forget_calls();
        self.links().iter().for_each(|worker| worker.tell_topology());
        self.standing_changed();
    }

    /// Keeps the links whose index and address stay, also of workers that had been retired.
    fn replace_workers(&self, topology: &Topology, at_start: bool) {
        let mut older = self.links();
        let mut workers = Vec::with_capacity(topology.workers().len());
        for (index, address) in (0..).map(WorkerIndex).zip(topology.workers()) {
            let same = older.iter().position(|worker| worker.is(index, address));
            let worker = same.map_or_else(
                || {
                    let grace = if at_start { START_GRACE } else { Duration::ZERO };
                    let options = self.options.clone();
                    let metrics = self.metrics.clone();
                    let router = self.this.clone();
                    WorkerLink::start(index, address.clone(), grace, options, metrics, router)
                },
                |at| older.swap_remove(at),
            );
            worker.retire(false);
            workers.push(worker);
        }
        *self.retired.borrow_mut() = older;
        *self.workers.borrow_mut() = workers;
        // Telling them may end some of them, which looks at the lists.
        let retired = self.retired.borrow().clone();
        retired.iter().for_each(|worker| worker.retire(true));
    }

    /// A retired worker has no streams any more, and its link has ended.
    pub(crate) fn gone(&self, worker: &Rc<WorkerLink>) {
        self.retired.borrow_mut().retain(|other| !Rc::ptr_eq(other, worker));
    }

    /// A worker takes sessions now, or does not any more.
    pub(crate) fn standing_changed(&self) {
        let mut skipped = Skipped::default();
        for worker in self.workers.borrow().iter() {
            match worker.health().standing() {
                Standing::Down { .. } => skipped.down.push(worker.index),
                Standing::Draining => skipped.passed_over.push(worker.index),
                Standing::Up => self.was_up.set(true),
                Standing::Unknown | Standing::Lost => {}
            }
        }
        let before = self.skipped.replace(skipped.clone());
        if before != skipped {
            self.links().iter().for_each(|worker| worker.tell_skipped(&skipped));
        }
        self.news.notify_one();
        self.homing.look();
    }

    /// All links, with those of retired workers.
    fn links(&self) -> Vec<Rc<WorkerLink>> {
        self.workers.borrow().iter().chain(self.retired.borrow().iter()).cloned().collect()
    }

    /// The newest topology; `None` until the first is known.
    pub(crate) fn topology(&self) -> Option<Topology> {
        self.topology.borrow().clone()
    }

    pub(crate) fn skipped(&self) -> Skipped {
        self.skipped.borrow().clone()
    }

    /// Whether a link has been up since the start.
    pub(crate) fn was_up(&self) -> bool {
        self.was_up.get()
    }

    /// What `/status` says of each worker: those of the topology, then those that are not in it any
    /// more. `load`: what the worker at this address says of itself.
    pub(crate) fn status(
        &self,
        load: impl Fn(&str) -> Option<serde_json::Value>,
    ) -> Vec<serde_json::Value> {
        self.links().iter().map(|worker| worker.status(&load)).collect()
    }

    /// The workers of the topology.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        let topology = self.topology.borrow();
        let addresses = topology.iter().flat_map(|topology| topology.workers());
        addresses.map(ToString::to_string).enumerate().collect()
    }

    /// Something has happened to a worker that operators want to know.
    pub(crate) fn note(&self, what: &str, worker: WorkerIndex) {
        self.recent.note(what.to_owned(), Some(worker));
    }

    /// What has happened to workers of late, newest first.
    pub(crate) fn recent(&self) -> Vec<serde_json::Value> {
        self.recent.tell()
    }

    /// Sessions that were asked to come home and have not arrived.
    pub(crate) fn moving(&self) -> usize {
        self.homing.moving(Instant::now())
    }

    // --- where a session goes -------------------------------------------------------------------

    /// Where placement sends a session now, or once a worker is there; `None` without any in the
    /// topology.
    pub(crate) fn owner(&self, session: &SessionId) -> Option<WorkerIndex> {
        let topology = self.topology.borrow();
        let topology = topology.as_ref()?;
        let skipped = self.skipped.borrow();
        let now = topology.owner(&self.key, session, |index| skipped.contains(index));
        now.or_else(|| topology.owner(&self.key, session, |_| false))
    }

    /// Where placement wants a session while all workers are there, but for those that cannot read
    /// it.
    fn home(&self, session: &SessionId) -> Option<Rc<WorkerLink>> {
        let topology = self.topology.borrow();
        let unable = self.that_live(self.restless.borrow().unable(session));
        let home = topology.as_ref()?.owner(&self.key, session, |index| unable.contains(&index))?;
        self.workers.borrow().get(usize::from(home.0)).cloned()
    }

    fn is_home(&self, worker: &Rc<WorkerLink>, session: &SessionId) -> bool {
        self.home(session).is_some_and(|home| Rc::ptr_eq(&home, worker))
    }

    /// Those of these processes that were not started again since, as far as is known.
    fn that_live(&self, processes: impl Iterator<Item = Process>) -> Vec<WorkerIndex> {
        let workers = self.workers.borrow();
        let lives = |process: &Process| {
            let worker = workers.get(usize::from(process.index.0));
            let now = worker.and_then(|worker| worker.incarnation());
            now.is_none_or(|now| now == process.incarnation)
        };
        processes.filter(lives).map(|process| process.index).collect()
    }

    /// The workers that are not asked for a session now, since they cannot read it.
    fn avoided(&self, session: &SessionId) -> Vec<WorkerIndex> {
        self.that_live(self.restless.borrow().avoided(session, Instant::now()))
    }

    /// The worker to ask for a channel's session, and whom placement passed over; `None` while it has
    /// to wait. `first`: who is said to have it.
    fn route(
        &self,
        channel: &Channel,
        first: Option<WorkerIndex>,
    ) -> Option<(Rc<WorkerLink>, Skipped)> {
        let (session, in_memory) = (&channel.session, channel.is_in_memory());
        let avoided = self.avoided(session);
        let mut skipped = self.skipped();
        let workers = self.workers.borrow();
        let first = first.and_then(|index| workers.get(usize::from(index.0)).cloned());
        let known = first.or_else(|| self.homing.hint(session));
        let worker = match known.filter(|worker| worker.health().is_up()) {
            Some(worker) => worker,
            None => {
                let topology = self.topology.borrow();
                let passed_over = |index: WorkerIndex| {
                    let worker = workers.get(usize::from(index.0));
                    let is_away = worker.is_none_or(|w| w.health().is_skipped(in_memory));
                    is_away || avoided.contains(&index)
                };
                let index = topology.as_ref()?.owner(&self.key, session, passed_over)?;
                workers.get(usize::from(index.0)).filter(|worker| worker.health().is_up())?.clone()
            }
        };
        skipped.passed_over.extend(avoided);
        Some((worker, skipped))
    }

    /// Asks a worker for the channel's session, now or when there is one.
    pub(crate) fn attach(&self, channel: &Rc<Channel>) {
        self.attach_at(channel, None);
    }

    fn attach_at(&self, channel: &Rc<Channel>, first: Option<WorkerIndex>) {
        let route = self.route(channel, first);
        if route.is_some_and(|(worker, skipped)| worker.open(channel, skipped)) {
            self.waiting.remove(channel);
        } else if self.avoided(&channel.session).is_empty() {
            self.waiting.park(channel);
        } else {
            self.waiting.for_a_reader(channel);
        }
    }

    /// The channel's browser is gone. Does nothing the second time.
    pub(crate) fn detach(&self, channel: &Channel) {
        if let Some(id) = channel.end()
            && let Some(worker) = channel.worker()
        {
            self.settled(channel);
            worker.forget(id);
        }
        self.waiting.remove(channel);
        self.homing.forget_hint(&channel.session);
    }

    // --- what workers say of channels -----------------------------------------------------------

    /// A worker has the channel.
    pub(crate) fn attached(&self, worker: &Rc<WorkerLink>, session: &SessionId) {
        if self.is_home(worker, session) {
            self.homing.forget_hint(session);
        } else {
            self.homing.hint_at(session, worker);
            self.homing.look();
        }
    }

    /// A worker has given the session up, or lost it: the channel is to go where it belongs now.
    pub(crate) fn reopen(&self, channel: &Rc<Channel>) {
        self.settled(channel);
        self.homing.forget_hint(&channel.session);
        self.attach(channel);
    }

    /// A worker does not attach the channel.
    pub(crate) fn refused(&self, worker: &WorkerLink, channel: &Rc<Channel>, refused: Refused) {
        self.metrics.open_refused(&refused);
        self.homing.forget_hint(&channel.session);
        if !channel.refused(&refused) {
            return;
        }
        match refused {
            Refused::Retry { after_ms, owner } => {
                let owner = owner.filter(|owner| *owner != worker.index);
                if let Some(owner) = owner {
                    self.hurry(owner, &channel.session);
                }
                let after = Duration::from_millis(after_ms.into());
                self.attach_later(channel, after, owner);
            }
            Refused::Stale(topology) => {
                self.adopt(topology, "a worker");
                self.attach_later(channel, Duration::ZERO, None);
            }
            Refused::TooNew => {
                if let Some(incarnation) = worker.incarnation() {
                    let process = Process { index: worker.index, incarnation };
                    let mut restless = self.restless.borrow_mut();
                    restless.is_too_new_for(&channel.session, process, Instant::now());
                }
                // There are only so many workers: none is asked twice in this round.
                self.attach(channel);
            }
            _ => self.attach_later(channel, Duration::ZERO, None),
        }
    }

    /// Somebody waits for a session of a worker that is going away: it goes first (R15).
    fn hurry(&self, owner: WorkerIndex, session: &SessionId) {
        let worker = self.workers.borrow().get(usize::from(owner.0)).cloned();
        if let Some(worker) = worker.filter(|w| w.health().standing() == Standing::Draining) {
            worker.recall_session(session);
        }
    }

    /// The channel waits, and is asked for again after a while, at `first` if that is up then.
    fn attach_later(&self, channel: &Rc<Channel>, after: Duration, first: Option<WorkerIndex>) {
        let after = channel.next_try(after);
        if after.is_zero() {
            return self.attach_at(channel, first);
        }
        self.waiting.retry(channel);
        let (this, channel) = (self.this.clone(), channel.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            if let Some(this) = this.upgrade()
                && this.waiting.contains(&channel)
            {
                this.attach_at(&channel, first);
            }
        });
    }

    // --- all browsers ---------------------------------------------------------------------------

    /// Looks after all browsers for ever: quiet ones are asked whether they are there.
    async fn check_idle(self: Rc<Self>) {
        loop {
            tokio::time::sleep(IDLE_TICK).await;
            let now = Instant::now();
            self.for_each(|channel| channel.check_idle(now));
            self.restless.borrow_mut().forget_old(now);
        }
    }

    /// Closes all browsers; from then on links may end.
    pub(crate) fn close_all(&self, code: u16, reason: &'static str) {
        self.links().iter().for_each(|worker| worker.is_ending());
        self.for_each(|channel| channel.close(code, reason));
    }

    fn for_each(&self, mut action: impl FnMut(&Channel)) {
        for worker in self.links() {
            worker.channels().iter().for_each(|channel| action(channel));
        }
        self.waiting.channels().iter().for_each(|channel| action(channel));
    }
}
