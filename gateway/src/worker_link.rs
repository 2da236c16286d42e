//! The gateway's link to one worker: dials it for as long as the gateway lives, and knows which
//! channel each stream belongs to and which channels wait for the worker.
//!
//! ```text
//!   down ──dialled, HELLO──▶ up ──link ends──▶ down …      a retry waits: at first not at all, then
//!                                                          longer each time, at random below a bound
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde_json::json;
use single_state_node::link::{LinkEnd, LinkHandle};
use single_state_proto::frame::{Hello, Opened};
use single_state_proto::id::{ConnectionId, Incarnation, StreamId, WorkerIndex};
use single_state_proto::key::LinkKeys;
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL};
use single_state_proto::link::{Event, Side};
use single_state_proto::topology::Topology;
use tokio::net::TcpStream;

use crate::channel::Channel;
use crate::metrics::Metrics;

/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The second dial after a loss waits up to this, the following ones twice as long each …
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// … up to this.
const LAST_RETRY: Duration = Duration::from_secs(1);
/// A link that has lived so long was no failure.
const STABLE: Duration = Duration::from_secs(5);
/// Whatever a worker asks for, a channel is asked for again after between so long …
const FIRST_REOPEN: Duration = Duration::from_millis(20);
/// … and so long.
const LAST_REOPEN: Duration = Duration::from_secs(10);
/// Failed dials after which it is said, once, that a worker cannot be reached.
const UNREACHED: u32 = 5;
/// How often parked channels and unreported acknowledgements are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What all links of a gateway have in common.
#[derive(Debug, Clone)]
pub(crate) struct LinkOptions {
    pub(crate) cluster: String,
    pub(crate) keys: Option<LinkKeys>,
    /// What workers are told: where sessions belong.
    pub(crate) topology: Topology,
    pub(crate) incarnation: Incarnation,
    pub(crate) park_timeout: Duration,
}

/// The link to the worker at one index of the topology.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    index: WorkerIndex,
    address: String,
    options: LinkOptions,
    metrics: Rc<Metrics>,
    up: RefCell<Option<Up>>,
    waiting: RefCell<FxHashMap<ConnectionId, Rc<Channel>>>,
    /// Since when no link is up.
    down_since: Cell<Instant>,
    /// A link has been up since the start of the gateway.
    was_up: Cell<bool>,
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
    pub(crate) fn new(
        index: WorkerIndex,
        address: String,
        options: LinkOptions,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        let (up, waiting, was_up) = Default::default();
        let down_since = Cell::new(Instant::now());
        let ending = Cell::new(false);
        Rc::new(Self { index, address, options, metrics, up, waiting, down_since, was_up, ending })
    }

    /// Whether a link has ever been up.
    pub(crate) fn was_up(&self) -> bool {
        self.was_up.get()
    }

    /// Asks the worker for the channel, now or when it is there.
    pub(crate) fn attach(&self, channel: &Rc<Channel>) {
        channel.set_worker(self.index);
        if let Some(up) = self.up.borrow_mut().as_mut()
            && let Some(id) = channel.open(&up.link, self.options.topology.generation())
        {
            up.streams.insert(id, channel.clone());
            return;
        }
        if self.waiting.borrow_mut().insert(channel.connection, channel.clone()).is_none() {
            self.metrics.parked.inc();
        }
    }

    /// The channel's browser is gone.
    pub(crate) fn detach(&self, channel: &Channel) {
        let stream = channel.end();
        if let (Some(id), Some(up)) = (stream, self.up.borrow_mut().as_mut()) {
            up.streams.remove(&id);
        }
        self.unpark(channel.connection);
    }

    /// Closes the browsers of all channels that are here or wait; from then on links may end.
    pub(crate) fn close_all(&self, code: u16, reason: &'static str) {
        self.ending.set(true);
        let up = self.up.borrow();
        let attached = up.iter().flat_map(|up| up.streams.values());
        for channel in attached.chain(self.waiting.borrow().values()) {
            channel.close(code, reason);
        }
    }

    /// Asks quiet browsers whether they are there.
    pub(crate) fn check_idle(&self, now: Instant) {
        let up = self.up.borrow();
        let attached = up.iter().flat_map(|up| up.streams.values());
        for channel in attached.chain(self.waiting.borrow().values()) {
            channel.check_idle(now);
        }
    }

    /// What `/status` says of the worker.
    pub(crate) fn status(&self) -> serde_json::Value {
        let up = self.up.borrow();
        let round_trip = up.as_ref().and_then(|up| up.link.with(|link| link.round_trip()));
        json!({
            "index": self.index.0,
            "address": self.address,
            "state": if up.is_some() { "up" } else { "down" },
            "streams": up.as_ref().map_or(0, |up| up.streams.len()),
            "waiting": self.waiting.borrow().len(),
            "incarnation": up.as_ref().map(|up| up.worker.incarnation.0),
            "build": up.as_ref().map(|up| up.worker.build.clone()),
            "round_trip_us": round_trip.map(|d| d.as_micros() as u64),
        })
    }

    /// Keeps the link up for ever.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut failures = 0;
        // While a worker is away the same happens again and again; each reason is told once.
        let mut told = None;
        loop {
            let (worker, address) = (self.index.0, &self.address);
            match self.dial().await {
                Ok(stream) => {
                    let up_at = Instant::now();
                    let end = self.connected(stream).await;
                    let reason = Some(end.to_string());
                    if self.lost() {
                        if up_at.elapsed() >= STABLE {
                            failures = 0;
                        }
                        if self.ending.get() {
                            return;
                        }
                        tracing::warn!(worker.index = worker, reason = %end, "link lost");
                    } else if told != reason {
                        tracing::warn!(worker.index = worker, %address, reason = %end, "link refused");
                    }
                    told = reason;
                }
                // While a worker starts this happens a few times.
                Err(error) => {
                    let reason = Some(error.to_string());
                    if failures >= UNREACHED && told != reason {
                        tracing::warn!(worker.index = worker, %address, %error, "worker not reached");
                        told = reason;
                    }
                }
            }
            failures += 1;
            tokio::time::sleep(retry_delay(failures)).await;
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
            generation: self.options.topology.generation(),
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
            () = ticks => unreachable!("ticks go on for ever"),
        }
    }

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
                if let Some(channel) = self.remove(id)
                    && let Some(after_ms) = channel.refused(&refused)
                {
                    self.attach_later(channel, Duration::from_millis(after_ms.into()));
                }
            }
            Event::Moved(id) => {
                if let Some(channel) = self.remove(id) {
                    channel.lost();
                    self.attach(&channel);
                }
            }
            Event::Reset(id, code) => {
                if let Some(channel) = self.remove(id)
                    && channel.reset(code)
                {
                    self.attach_later(channel, Duration::ZERO);
                }
            }
            Event::Closed(id, code) => {
                if let Some(channel) = self.remove(id) {
                    channel.closed(code);
                }
            }
            Event::GoAway(code) => {
                tracing::info!(worker.index = self.index.0, reason = ?code, "worker goes away");
            }
            Event::Open(..) | Event::Recall(_) | Event::Topology(_) | Event::Skipped(_) => {
                unreachable!("the link refuses what only gateways send")
            }
        }
    }

    fn up(&self, link: &Rc<LinkHandle>, worker: Hello) {
        let incarnation = worker.incarnation.0;
        tracing::info!(worker.index = self.index.0, worker.incarnation = incarnation, "link up");
        self.metrics.links_up.inc();
        self.was_up.set(true);
        link.with(|link| link.topology(self.options.topology.clone()));
        *self.up.borrow_mut() = Some(Up {
            link: link.clone(),
            worker,
            streams: FxHashMap::default(),
            unreported: Vec::new(),
        });
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        self.metrics.parked.dec_by(waiting.len() as i64);
        for channel in waiting.into_values() {
            self.attach(&channel);
        }
    }

    /// The link is gone: its channels wait for the next one. Returns whether it had been up.
    fn lost(&self) -> bool {
        let Some(up) = self.up.borrow_mut().take() else { return false };
        self.metrics.links_up.dec();
        self.down_since.set(Instant::now());
        for channel in up.streams.into_values() {
            channel.lost();
            self.attach(&channel);
        }
        true
    }

    fn opened(&self, id: StreamId, opened: &Opened) {
        if let Some(channel) = self.channel(id) {
            let (session, epoch) = (channel.session.as_str(), opened.epoch.0);
            tracing::debug!(session.id = session, worker.index = self.index.0, epoch, "attached");
            channel.opened(opened);
        }
    }

    fn channel(&self, id: StreamId) -> Option<Rc<Channel>> {
        self.up.borrow().as_ref()?.streams.get(&id).cloned()
    }

    fn remove(&self, id: StreamId) -> Option<Rc<Channel>> {
        self.up.borrow_mut().as_mut()?.streams.remove(&id)
    }

    fn unpark(&self, connection: ConnectionId) -> bool {
        let was_waiting = self.waiting.borrow_mut().remove(&connection).is_some();
        if was_waiting {
            self.metrics.parked.dec();
        }
        was_waiting
    }

    /// The channel waits, and is asked for again after a while if it still waits then.
    fn attach_later(self: &Rc<Self>, channel: Rc<Channel>, after: Duration) {
        let after = after.clamp(FIRST_REOPEN, LAST_REOPEN);
        let this = self.clone();
        if self.waiting.borrow_mut().insert(channel.connection, channel.clone()).is_none() {
            self.metrics.parked.inc();
        }
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            if this.unpark(channel.connection) {
                this.attach(&channel);
            }
        });
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

    /// Closes the channels that have waited too long while no link was up.
    pub(crate) async fn expire_parked(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            if self.up.borrow().is_some() {
                continue;
            }
            let now = Instant::now();
            for channel in self.waiting.borrow().values() {
                // What it waited while a link was up does not count (R17).
                let since = channel.parked_since().map(|since| since.max(self.down_since.get()));
                if since.is_some_and(|since| now - since >= self.options.park_timeout) {
                    channel.close(1013, "no worker can be reached; try again later");
                }
            }
        }
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
