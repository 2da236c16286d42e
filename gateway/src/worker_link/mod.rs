//! The gateway's link to one worker: dials it for as long as the topology names it, and knows which
//! channel each stream belongs to. What becomes of channels that it loses is the router's business.
//! `connection.rs` is the connection under it.

mod connection;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;
use single_state_faults::{self as faults, Mutant};
use single_state_node::link::LinkHandle;
use single_state_proto::frame::{Hello, Opened, Skipped};
use single_state_proto::id::{Generation, Incarnation, SessionId, StreamId, WorkerIndex};
use single_state_proto::key::LinkKeys;
use single_state_proto::link::{Event, Queued};
use single_state_proto::topology::Topology;
use tokio::sync::Notify;

use crate::channel::{Channel, Parting};
use crate::metrics::Metrics;
use crate::router::{Health, Router, Standing};

/// What all links of a gateway have in common.
#[derive(Debug, Clone)]
pub(crate) struct LinkOptions {
    pub(crate) cluster: String,
    pub(crate) keys: Option<LinkKeys>,
    pub(crate) incarnation: Incarnation,
    pub(crate) park_timeout: Duration,
}

/// The link to the worker at one index and address.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    pub(crate) index: WorkerIndex,
    address: String,
    options: LinkOptions,
    metrics: Rc<Metrics>,
    router: Weak<Router>,
    up: RefCell<Option<Up>>,
    health: Cell<Health>,
    /// That it is not there is no news before this moment.
    expected_by: Instant,
    /// The topology does not name it any more: the link ends with its last stream.
    retired: Cell<bool>,
    over: Notify,
    /// The gateway ends: that links do too is no news.
    ending: Cell<bool>,
    /// What it has said to browsers since the gateway began.
    messages_out: Cell<u64>,
}

#[derive(Debug)]
struct Up {
    link: Rc<LinkHandle>,
    worker: Hello,
    streams: FxHashMap<StreamId, Rc<Channel>>,
    /// Streams whose outputs were taken but not acknowledged.
    unreported: Vec<StreamId>,
}

impl WorkerLink {
    /// A link that is dialled from now on; that nobody is there is taken for an answer only after
    /// `grace`. Needs a `LocalSet`.
    pub(crate) fn start(
        index: WorkerIndex,
        address: String,
        grace: Duration,
        options: LinkOptions,
        metrics: Rc<Metrics>,
        router: Weak<Router>,
    ) -> Rc<Self> {
        let (up, retired, over, ending, messages_out) = Default::default();
        let now = Instant::now();
        let (health, expected_by) = (Cell::new(Health::new(now)), now + grace);
        let this = Self {
            index,
            address,
            options,
            metrics,
            router,
            up,
            health,
            expected_by,
            retired,
            over,
            ending,
            messages_out,
        };
        let this = Rc::new(this);
        tokio::task::spawn_local(this.clone().run());
        this
    }

    pub(crate) fn is(&self, index: WorkerIndex, address: &str) -> bool {
        self.index == index && self.address == address
    }

    pub(crate) fn health(&self) -> Health {
        self.health.get()
    }

    /// Its process; `None` while no link is up.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.up.borrow().as_ref().map(|up| up.worker.incarnation)
    }

    /// The topology names it, or does not any more.
    pub(crate) fn retire(&self, retired: bool) {
        self.retired.set(retired);
        self.over.notify_one();
    }

    /// The gateway ends.
    pub(crate) fn is_ending(&self) {
        self.ending.set(true);
    }

    // --- what the router wants ------------------------------------------------------------------

    /// Asks the worker for the channel; `false` when it takes none now.
    pub(crate) fn open(self: &Rc<Self>, channel: &Rc<Channel>, skipped: Skipped) -> bool {
        let generation = self.generation();
        let mut up = self.up.borrow_mut();
        let Some(up) = up.as_mut() else { return false };
        let Some(id) = channel.open(&up.link, generation, skipped) else { return false };
        channel.set_worker(self);
        up.streams.insert(id, channel.clone());
        true
    }

    /// Takes a channel away from the worker, whose session another one has.
    pub(crate) fn leave(&self, channel: &Channel) {
        if let Some(id) = channel.leave() {
            self.remove(id);
        }
    }

    /// The channel of this stream is gone.
    pub(crate) fn forget(&self, id: StreamId) {
        self.remove(id);
    }

    /// Asks the worker to hand over the channel's session; `false` when it does not have it.
    pub(crate) fn recall(&self, channel: &Channel) -> bool {
        let up = self.up.borrow();
        let Some(up) = up.as_ref() else { return false };
        let Some(id) = channel.open_stream() else { return false };
        let is_here = up.streams.get(&id).is_some_and(|here| std::ptr::eq(&**here, channel));
        if is_here {
            up.link.with(|link| link.recall(id));
        }
        is_here
    }

    /// Asks the worker to hand over a session, if a channel of it is here.
    pub(crate) fn recall_session(&self, session: &SessionId) {
        let channels = self.channels();
        if let Some(channel) = channels.iter().find(|channel| channel.session == *session) {
            self.recall(channel);
        }
    }

    pub(crate) fn tell_topology(&self) {
        if let (Some(up), Some(topology)) = (self.up.borrow().as_ref(), self.topology()) {
            up.link.with(|link| link.topology(topology));
        }
    }

    pub(crate) fn tell_skipped(&self, skipped: &Skipped) {
        if let Some(up) = self.up.borrow().as_ref() {
            up.link.with(|link| link.skipped(skipped.clone()));
        }
    }

    /// The channels with a stream here.
    pub(crate) fn channels(&self) -> Vec<Rc<Channel>> {
        self.up.borrow().iter().flat_map(|up| up.streams.values().cloned()).collect()
    }

    /// How long the last PING took to come back, if the link is up.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.up.borrow().as_ref().and_then(|up| up.link.with(|link| link.round_trip()))
    }

    /// What waits at this end of the link.
    pub(crate) fn queued(&self) -> Queued {
        self.up.borrow().as_ref().map_or(Queued::default(), |up| up.link.queued())
    }

    /// Its standing in a word.
    fn state(&self) -> &'static str {
        match self.health().standing() {
            Standing::Up => "up",
            Standing::Draining => "draining",
            Standing::Unknown | Standing::Lost => "dialling",
            Standing::Down { .. } => "down",
        }
    }

    /// What `/status` says of the worker.
    pub(crate) fn status(
        &self,
        load: &impl Fn(&str) -> Option<serde_json::Value>,
    ) -> serde_json::Value {
        let round_trip = self.round_trip();
        let up = self.up.borrow();
        // Several tabs may have one session.
        let streams = up.iter().flat_map(|up| up.streams.values());
        let sessions: FxHashSet<_> = streams.map(|channel| &channel.session).collect();
        json!({
            "index": self.index.0,
            "address": self.address,
            "state": self.state(),
            "retired": self.retired.get(),
            "sessions": sessions.len(),
            "messages_out": self.messages_out.get(),
            "streams": up.as_ref().map_or(0, |up| up.streams.len()),
            "incarnation": up.as_ref().map(|up| up.worker.incarnation.0),
            "build": up.as_ref().map(|up| up.worker.build.clone()),
            "load": load(&self.address),
            "round_trip_us": round_trip.map(|d| d.as_micros() as u64),
        })
    }

    fn topology(&self) -> Option<Topology> {
        self.router.upgrade()?.topology()
    }

    fn generation(&self) -> Generation {
        self.topology().map_or(Generation(0), |topology| topology.generation())
    }

    // --- what the worker says -------------------------------------------------------------------

    fn handle(self: &Rc<Self>, link: &Rc<LinkHandle>, event: Event) {
        match event {
            Event::Connected(worker) => self.up(link, worker),
            Event::Opened(id, opened) => self.opened(id, &opened),
            Event::Message(id, message) => {
                self.messages_out.set(self.messages_out.get() + 1);
                if let Some(channel) = self.channel(id)
                    && channel.output(message)
                    && let Some(up) = self.up.borrow_mut().as_mut()
                {
                    up.unreported.push(id);
                }
            }
            Event::Acked(id, number) => {
                if let Some(channel) = self.channel(id) {
                    channel.acked(number);
                }
            }
            Event::Writable(id) => {
                if let Some(channel) = self.channel(id) {
                    channel.writable();
                }
            }
            Event::Refused(id, refused) => {
                if let (Some(channel), Some(router)) = (self.remove(id), self.router.upgrade()) {
                    router.refused(self, &channel, refused);
                }
            }
            Event::Moved(id) => self.reopen(id, |channel| {
                channel.lost(Parting::Handoff);
                true
            }),
            Event::Reset(id, code) => self.reopen(id, |channel| channel.reset(code)),
            Event::Closed(id, code) => self.reopen(id, |channel| {
                channel.closed(code);
                false
            }),
            Event::Taken(taken) => {
                if let Some(router) = self.router.upgrade() {
                    router.taken(self, taken);
                }
            }
            Event::GoAway(code) => {
                tracing::info!(worker.index = self.index.0, reason = ?code, "worker goes away");
                if !faults::mutant(Mutant::DrainingNotSkipped) {
                    self.change(|health, now| health.drains(now));
                }
            }
            Event::Open(..) | Event::Recall(_) | Event::Topology(_) | Event::Skipped(_) => {
                unreachable!("the link refuses what only gateways send")
            }
        }
    }

    /// A stream is gone; its channel is asked for again, unless `part` says that it is over.
    fn reopen(&self, id: StreamId, part: impl FnOnce(&Channel) -> bool) {
        let (Some(channel), Some(router)) = (self.remove(id), self.router.upgrade()) else {
            return;
        };
        if part(&channel) {
            router.reopen(&channel);
        } else {
            router.detach(&channel);
        }
    }

    fn opened(self: &Rc<Self>, id: StreamId, opened: &Opened) {
        if let (Some(channel), Some(router)) = (self.channel(id), self.router.upgrade()) {
            let (session, epoch) = (channel.session.as_str(), opened.epoch.0);
            tracing::debug!(session.id = session, worker.index = self.index.0, epoch, "attached");
            channel.opened(opened);
            router.attached(self, &channel.session);
        }
    }

    fn channel(&self, id: StreamId) -> Option<Rc<Channel>> {
        self.up.borrow().as_ref()?.streams.get(&id).cloned()
    }

    fn remove(&self, id: StreamId) -> Option<Rc<Channel>> {
        let channel = self.up.borrow_mut().as_mut()?.streams.remove(&id);
        if self.retired.get() {
            self.over.notify_one();
        }
        channel
    }

    fn report_taken(&self) {
        if let Some(up) = self.up.borrow_mut().as_mut() {
            for id in up.unreported.drain(..) {
                if let Some(channel) = up.streams.get(&id) {
                    channel.report_taken();
                }
            }
        }
    }
}
