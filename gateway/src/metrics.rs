//! What the gateway counts. Names are part of the contract with dashboards.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use single_state_node::metrics::{Direction, LinkMetrics, Queues, family, registry, render};
use single_state_proto::browser::ResetReason;
use single_state_proto::frame::Refused;

use crate::channel::{Mirror, Parting};
use crate::router::Measured;

/// Close codes and statuses that are counted from the start; others come with their first event.
const CLOSED: [u16; 13] =
    [1001, 1002, 1007, 1009, 1012, 1013, 4400, 4401, 4403, 4409, 4410, 4429, 4503];
const REFUSED: [u16; 6] = [400, 401, 403, 426, 429, 503];
const RESUMES: [&str; 3] = ["new", "resumed", "reset"];
const RESETS: [&str; 3] = ["rolled_back", "overflow", "channel_expired"];
const MOVES: [&str; 3] = ["handoff", "failover", "reset"];

/// Metrics of one gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) link: LinkMetrics,
    queues: Queues,
    misplaced: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) parked: Gauge,
    pub(crate) generation: Gauge,
    pub(crate) links_up: Gauge,
    link_round_trip_seconds: Gauge<f64, AtomicU64>,
    pub(crate) draining: Gauge,
    pub(crate) handshakes_waiting: Gauge,
    pub(crate) handshakes_shed: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) messages_out: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    closed: Family<Code, Counter>,
    refused: Family<Code, Counter>,
    resumes: Family<Outcome, Counter>,
    resets: Family<Reason, Counter>,
    open_refusals: Family<Reason, Counter>,
    handoff_seconds: Histogram,
    failover_seconds: Histogram,
    moves: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = registry();
        let metrics = Self {
            link: LinkMetrics::register(&mut registry, Direction::In),
            queues: Queues::register(&mut registry),
            misplaced: Gauge::default(),
            connections: Gauge::default(),
            parked: Gauge::default(),
            generation: Gauge::default(),
            links_up: Gauge::default(),
            link_round_trip_seconds: Gauge::default(),
            draining: Gauge::default(),
            handshakes_waiting: Gauge::default(),
            handshakes_shed: Counter::default(),
            messages_in: Counter::default(),
            messages_out: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            closed: family(CLOSED.map(|code| Code { code })),
            refused: family(REFUSED.map(|code| Code { code })),
            resumes: family(RESUMES.map(|outcome| Outcome { outcome })),
            resets: reasons(RESETS),
            open_refusals: reasons(Refused::NAMES),
            // 100 µs to 100 s.
            handoff_seconds: Histogram::new(exponential_buckets(1e-4, 10_f64.cbrt(), 19)),
            failover_seconds: Histogram::new(exponential_buckets(1e-4, 10_f64.cbrt(), 19)),
            moves: reasons(MOVES),
            registry,
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        let r = |r: &mut Registry, name, help, gauge: &Gauge| r.register(name, help, gauge.clone());
        r(registry, "connections", "Browser sockets that are open", &self.connections);
        r(registry, "parked", "Channels that wait for a worker", &self.parked);
        let help =
            "Sessions of open sockets that are not at the worker that placement wants them at";
        r(registry, "sessions_misplaced", help, &self.misplaced);
        r(registry, "generation", "Generation of the topology", &self.generation);
        r(registry, "links_up", "Workers with which a link is up", &self.links_up);
        let round_trip = "Last round trip of the slowest link, in seconds";
        registry.register(
            "link_round_trip_seconds",
            round_trip,
            self.link_round_trip_seconds.clone(),
        );
        r(registry, "draining", "1 while the gateway sends its browsers away", &self.draining);
        let waiting = "Connections that wait to be let in";
        r(registry, "handshakes_waiting", waiting, &self.handshakes_waiting);
        let c = |r: &mut Registry, name, help, c: &Counter| r.register(name, help, c.clone());
        let shed = "Connections turned away because too many came at once";
        c(registry, "handshakes_shed", shed, &self.handshakes_shed);
        c(registry, "messages_in", "Messages from browsers", &self.messages_in);
        c(registry, "messages_out", "Messages to browsers", &self.messages_out);
        c(registry, "bytes_in", "Bytes of messages from browsers", &self.bytes_in);
        c(registry, "bytes_out", "Bytes of messages to browsers", &self.bytes_out);
        let closed = "Browser sockets that the gateway closed, by websocket close code";
        registry.register("closed", closed, self.closed.clone());
        let refused = "Upgrades that the gateway refused, by HTTP status";
        registry.register("refused", refused, self.refused.clone());
        let resumes = "Welcomes of single-state.v1, by what became of the client's mirror";
        registry.register("resumes", resumes, self.resumes.clone());
        let resets = "Mirrors that clients of single-state.v1 had to discard, by reason";
        registry.register("resets", resets, self.resets.clone());
        self.register_moves();
        self
    }

    fn register_moves(&mut self) {
        let registry = &mut self.registry;
        let refusals = "Channels that a worker did not attach, by reason";
        registry.register("open_refusals", refusals, self.open_refusals.clone());
        let handoff = "Time from a worker's MOVED to the next one's OPENED, in seconds";
        registry.register("handoff_seconds", handoff, self.handoff_seconds.clone());
        let failover = "Time from the end of a link to the next OPENED of its channels, in seconds";
        registry.register("failover_seconds", failover, self.failover_seconds.clone());
        let moves = "Channels that came to another owner or to a new epoch of one, by reason";
        registry.register("moves", moves, self.moves.clone());
    }

    /// What is counted only when somebody wants to know it.
    pub(crate) fn measured(&self, measured: &Measured) {
        self.link_round_trip_seconds.set(measured.round_trip.as_secs_f64());
        self.misplaced.set(measured.misplaced as i64);
        self.queues.set("browsers", measured.for_browsers);
        self.queues.set("workers", measured.for_workers);
        self.queues.set("acknowledgements", measured.for_acknowledgements);
    }

    /// A channel has a worker again, so long after it was parted from one.
    pub(crate) fn arrived(&self, parting: Parting, after: Duration) {
        let reason = match parting {
            Parting::Handoff => {
                self.handoff_seconds.observe(after.as_secs_f64());
                "handoff"
            }
            Parting::Failover => {
                self.failover_seconds.observe(after.as_secs_f64());
                "failover"
            }
            Parting::Reset => "reset",
        };
        self.moves.get_or_create(&Reason { reason }).inc();
    }

    /// How many channels came to another owner so far, by reason.
    pub(crate) fn moves(&self) -> serde_json::Value {
        let count = |reason| self.moves.get_or_create(&Reason { reason }).get();
        serde_json::json!({
            "handoff": count("handoff"), "failover": count("failover"), "reset": count("reset"),
        })
    }

    /// A worker did not attach a channel.
    pub(crate) fn open_refused(&self, refused: &Refused) {
        let reason = refused.name();
        self.open_refusals.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn closed(&self, code: u16) {
        self.closed.get_or_create(&Code { code }).inc();
    }

    pub(crate) fn refused(&self, code: u16) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    /// A client was welcomed, and perhaps told to discard its mirror.
    pub(crate) fn welcomed(&self, mirror: Mirror, reset: Option<ResetReason>) {
        let outcome = match mirror {
            Mirror::Begins => "new",
            Mirror::GoesOn => "resumed",
            Mirror::Discarded => "reset",
        };
        self.resumes.get_or_create(&Outcome { outcome }).inc();
        if let Some(reason) = reset {
            self.reset(reason);
        }
    }

    /// A client must discard its mirror.
    pub(crate) fn reset(&self, reason: ResetReason) {
        let reason = match reason {
            ResetReason::RolledBack => "rolled_back",
            ResetReason::Overflow => "overflow",
            ResetReason::ChannelExpired => "channel_expired",
        };
        self.resets.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn render(&self) -> String {
        render(&self.registry)
    }
}

fn reasons<const N: usize>(reasons: [&'static str; N]) -> Family<Reason, Counter> {
    family(reasons.map(|reason| Reason { reason }))
}
