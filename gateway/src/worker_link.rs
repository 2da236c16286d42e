//! The gateway's link to one worker: dials it for as long as the topology names it, and knows which
//! channel each stream belongs to. What becomes of channels that it loses is the router's business.
//!
//! ```text
//!   down ──dialled, HELLO──▶ up ──link ends──▶ down …      a retry waits: at first not at all, then
//!                                                          longer each time, at random below a bound
//! ```

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde_json::json;
use single_state_node::link::{LinkEnd, LinkHandle};
use single_state_proto::error::LinkError;
use single_state_proto::frame::{GoAway, Hello, Opened, Skipped};
use single_state_proto::id::{Generation, Incarnation, SessionId, StreamId, WorkerIndex};
use single_state_proto::key::LinkKeys;
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL};
use single_state_proto::link::{Event, Side};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::channel::{Channel, Parting};
use crate::metrics::Metrics;
use crate::router::{Health, Router, Standing};

/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The second dial after a loss waits up to this, the following ones twice as long each …
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// … up to this.
const LAST_RETRY: Duration = Duration::from_secs(1);
/// A link that has lived so long was no failure.
const STABLE: Duration = Duration::from_secs(5);
/// A worker whose link has just ended is waited for so long.
const BACK_WITHIN: Duration = Duration::from_millis(500);
/// Failed dials after which it is said, once, that a worker cannot be reached.
const UNREACHED: u32 = 5;
/// How often acknowledgements that were not reported are looked at.
const TICK: Duration = Duration::from_millis(250);

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
        let (up, retired, over, ending) = Default::default();
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

    /// What `/status` says of the worker.
    pub(crate) fn status(&self) -> serde_json::Value {
        let up = self.up.borrow();
        let round_trip = up.as_ref().and_then(|up| up.link.with(|link| link.round_trip()));
        let state = match self.health().standing() {
            Standing::Up => "up",
            Standing::Draining => "draining",
            Standing::Unknown | Standing::Lost => "dialling",
            Standing::Down { .. } => "down",
        };
        json!({
            "index": self.index.0,
            "address": self.address,
            "state": state,
            "retired": self.retired.get(),
            "streams": up.as_ref().map_or(0, |up| up.streams.len()),
            "incarnation": up.as_ref().map(|up| up.worker.incarnation.0),
            "build": up.as_ref().map(|up| up.worker.build.clone()),
            "round_trip_us": round_trip.map(|d| d.as_micros() as u64),
        })
    }

    fn topology(&self) -> Option<single_state_proto::topology::Topology> {
        self.router.upgrade()?.topology()
    }

    fn generation(&self) -> Generation {
        self.topology().map_or(Generation(0), |topology| topology.generation())
    }

    // --- the connection -------------------------------------------------------------------------

    /// Keeps the link up for as long as it is wanted.
    async fn run(self: Rc<Self>) {
        let mut failures = 0;
        // While a worker is away the same happens again and again; each reason is told once.
        let mut told = None;
        while !self.is_over() {
            let (worker, address) = (self.index.0, &self.address);
            match self.dial().await {
                Ok(stream) => {
                    let up_at = Instant::now();
                    let end = self.connected(stream).await;
                    let reason = Some(end.to_string());
                    if self.lost(&end) {
                        if up_at.elapsed() >= STABLE {
                            failures = 0;
                        }
                        if self.ending.get() {
                            return;
                        }
                        if self.health().standing() != (Standing::Down { refused: true }) {
                            tracing::warn!(worker.index = worker, reason = %end, "link lost");
                        }
                    } else {
                        if told != reason {
                            refuse(worker, address, &end);
                        }
                        self.unreached(false);
                    }
                    told = reason;
                }
                // While a worker starts this happens a few times.
                Err(error) => {
                    self.unreached(error.kind() == std::io::ErrorKind::ConnectionRefused);
                    let reason = Some(error.to_string());
                    if failures >= UNREACHED && told != reason {
                        tracing::warn!(worker.index = worker, %address, %error, "worker not reached");
                        told = reason;
                    }
                }
            }
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(retry_delay(failures)) => {}
                () = self.is_retired() => {}
            }
        }
        if let Some(router) = self.router.upgrade() {
            router.gone(&self);
        }
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        let stream =
            tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn connected(self: &Rc<Self>, stream: TcpStream) -> LinkEnd {
        let hello = Hello {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            max_message: MAX_MESSAGE,
            generation: self.generation(),
            index: self.index,
            incarnation: self.options.incarnation,
            cluster: self.options.cluster.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: None,
        };
        let link = match LinkHandle::new(Side::Gateway, hello, self.options.keys.as_ref()) {
            Ok(link) => link,
            Err(end) => return end,
        };
        let ticks = async {
            loop {
                tokio::time::sleep(TICK).await;
                self.report_taken();
            }
        };
        tokio::select! {
            end = link.drive(stream, &self.metrics.link, |event| self.handle(&link, event)) => end,
            () = self.is_retired() => LinkEnd::Closed,
            () = ticks => unreachable!("ticks go on for ever"),
        }
    }

    /// Whether nobody needs the link any more.
    fn is_over(&self) -> bool {
        let streams = self.up.borrow().as_ref().map_or(0, |up| up.streams.len());
        self.retired.get() && streams == 0
    }

    /// Waits until nobody needs the link any more.
    async fn is_retired(&self) {
        while !self.is_over() {
            self.over.notified().await;
        }
    }

    fn up(self: &Rc<Self>, link: &Rc<LinkHandle>, worker: Hello) {
        let incarnation = worker.incarnation.0;
        tracing::info!(worker.index = self.index.0, worker.incarnation = incarnation, "link up");
        self.metrics.links_up.inc();
        let (streams, unreported) = Default::default();
        *self.up.borrow_mut() = Some(Up { link: link.clone(), worker, streams, unreported });
        self.tell_topology();
        if let Some(router) = self.router.upgrade() {
            self.tell_skipped(&router.skipped());
        }
        self.change(|health, now| health.up(now));
    }

    /// The link is gone: its channels are to go elsewhere, or to wait. Returns whether it had been up.
    fn lost(self: &Rc<Self>, end: &LinkEnd) -> bool {
        let Some(up) = self.up.borrow_mut().take() else { return false };
        self.metrics.links_up.dec();
        let silent = matches!(end, LinkEnd::Failed(LinkError::Silent(_)));
        self.change(|health, now| health.lost(now, silent));
        self.expect_back();
        if let Some(router) = self.router.upgrade() {
            for channel in up.streams.into_values() {
                channel.lost(Parting::Failover);
                router.reopen(&channel);
            }
        }
        true
    }

    /// A worker that was lost and is not back soon is down.
    fn expect_back(self: &Rc<Self>) {
        if self.health().standing() != Standing::Lost {
            return;
        }
        let this = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(BACK_WITHIN).await;
            if let Some(this) = this.upgrade().filter(|t| t.health().standing() == Standing::Lost) {
                this.unreached(false);
            }
        });
    }

    fn unreached(&self, refused: bool) {
        let starts = self.health().standing() == Standing::Unknown;
        if !starts || Instant::now() >= self.expected_by {
            self.change(|health, now| health.unreached(now, refused));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Health, Instant)) {
        let mut health = self.health.get();
        let before = health.standing();
        change(&mut health, Instant::now());
        self.health.set(health);
        if health.standing() != before
            && let Some(router) = self.router.upgrade()
        {
            router.standing_changed();
        }
    }

    // --- what the worker says -------------------------------------------------------------------

    fn handle(self: &Rc<Self>, link: &Rc<LinkHandle>, event: Event) {
        match event {
            Event::Connected(worker) => self.up(link, worker),
            Event::Opened(id, opened) => self.opened(id, &opened),
            Event::Message(id, message) => {
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
            Event::GoAway(code) => {
                tracing::info!(worker.index = self.index.0, reason = ?code, "worker goes away");
                self.change(|health, now| health.drains(now));
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

/// Says that a worker, or this gateway, did not take the link.
fn refuse(worker: u16, address: &str, end: &LinkEnd) {
    if matches!(end, LinkEnd::Refused(GoAway::OtherTopology)) {
        tracing::error!(
            worker.index = worker,
            "this gateway has another list of workers than the cluster, with the same generation: \
             give each change a higher generation"
        );
    } else {
        tracing::warn!(worker.index = worker, address, reason = %end, "link refused");
    }
}

/// Full jitter, except that the first dial after a loss does not wait at all.
fn retry_delay(failures: u32) -> Duration {
    if failures <= 1 {
        return Duration::ZERO;
    }
    let bound = LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(failures - 2).min(1 << 10));
    let mut random = [0; 2];
    // Without entropy it waits the whole bound.
    let share = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 1.0,
    };
    bound.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_dial_after_a_loss_is_at_once_and_later_ones_wait_up_to_a_second() {
        assert_eq!(retry_delay(1), Duration::ZERO);
        for failures in 2..200 {
            assert!(retry_delay(failures) <= LAST_RETRY);
        }
    }
}
