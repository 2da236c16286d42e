//! What a worker counts. Names are part of the contract with dashboards.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use single_state_node::metrics::{Direction, LinkMetrics, Queues, family, registry, render};
use single_state_proto::frame::Refused;
use single_state_proto::link::Queued;

use crate::registry::Census;
use crate::resident::Leave;
use crate::watchdog::Blocks;

/// How a session comes into memory.
const CLAIMS: [&str; 4] = ["fresh", "stored", "steal", "home"];
/// Why a session is refused to browsers until an operator looks: it ended its workers, its state
/// cannot be read, or a new one cannot be made. A panic outside its handlers is a mistake of ours, and
/// only closes it.
const QUARANTINES: [&str; 4] = ["strikes", "unreadable", "default", "panic"];

/// Metrics of one worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Arrivals count from here.
    began: Instant,
    pub(crate) link: LinkMetrics,
    queues: Queues,
    pub(crate) generation: Gauge,
    pub(crate) links: Gauge,
    pub(crate) channels: Gauge,
    pub(crate) resident: Gauge,
    loading: Gauge,
    asleep: Gauge,
    leaving: Gauge,
    pub(crate) handled: Counter,
    pub(crate) errors: Counter,
    pub(crate) panics: Counter,
    queue_seconds: Histogram,
    pub(crate) handle_seconds: Histogram,
    pub(crate) blocks: Blocks,
    dirty: Gauge,
    pub(crate) commits: Counter,
    pub(crate) commit_rows: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) encode_seconds: Histogram,
    pub(crate) gate_seconds: Histogram,
    pub(crate) save_failures: Counter,
    pub(crate) fenced: Counter,
    pub(crate) regressions: Counter,
    oldest_change_seconds: Gauge<f64, AtomicU64>,
    claims: Family<Reason, Counter>,
    passivated: Family<Reason, Counter>,
    moved: Family<Reason, Counter>,
    handoff_seconds: Histogram,
    pub(crate) handlers_dropped: Counter,
    quarantined: Family<Reason, Counter>,
    refused: Family<Reason, Counter>,
}

/// When an input came, in microseconds since the worker's start, modulo 71 minutes: so it fits where
/// a mailbox's entry has room left, and a session that waits for nothing holds no more for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival(u32);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = registry();
        let metrics = Self {
            began: Instant::now(),
            link: LinkMetrics::register(&mut registry, Direction::Out),
            queues: Queues::register(&mut registry),
            generation: Gauge::default(),
            links: Gauge::default(),
            channels: Gauge::default(),
            resident: Gauge::default(),
            loading: Gauge::default(),
            asleep: Gauge::default(),
            leaving: Gauge::default(),
            handled: Counter::default(),
            errors: Counter::default(),
            panics: Counter::default(),
            // 10 µs to 10 s, three buckets a decade.
            queue_seconds: Histogram::new(exponential_buckets(1e-5, 10_f64.cbrt(), 19)),
            handle_seconds: Histogram::new(exponential_buckets(1e-5, 10_f64.cbrt(), 19)),
            blocks: Blocks {
                total: Counter::default(),
                // 100 ms to 100 s.
                seconds: Histogram::new(exponential_buckets(0.1, 10_f64.cbrt(), 10)),
            },
            dirty: Gauge::default(),
            commits: Counter::default(),
            // 1 to 256.
            commit_rows: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            // 100 µs to 10 s.
            commit_seconds: Histogram::new(exponential_buckets(1e-4, 10_f64.cbrt(), 16)),
            // 1 µs to 1 s.
            encode_seconds: Histogram::new(exponential_buckets(1e-6, 10_f64.cbrt(), 19)),
            // 100 µs to 100 s.
            gate_seconds: Histogram::new(exponential_buckets(1e-4, 10_f64.cbrt(), 19)),
            save_failures: Counter::default(),
            fenced: Counter::default(),
            regressions: Counter::default(),
            oldest_change_seconds: Gauge::default(),
            claims: reasons(CLAIMS),
            passivated: reasons(Leave::ALL.map(Leave::name)),
            moved: reasons(Leave::MOVES.map(Leave::name)),
            // 100 µs to 10 s.
            handoff_seconds: Histogram::new(exponential_buckets(1e-4, 10_f64.cbrt(), 16)),
            handlers_dropped: Counter::default(),
            quarantined: reasons(QUARANTINES),
            refused: reasons(Refused::NAMES),
            registry,
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        let r = |r: &mut Registry, name, help, gauge: &Gauge| r.register(name, help, gauge.clone());
        let generation = "Generation of the topology that gateways have told; 0 before";
        r(registry, "generation", generation, &self.generation);
        r(registry, "links", "Gateways with which a link is up", &self.links);
        r(registry, "channels", "Channels with a connection", &self.channels);
        r(registry, "sessions_resident", "Sessions in memory", &self.resident);
        r(registry, "sessions_loading", "Sessions that are claimed and loaded now", &self.loading);
        let help = "Sessions in memory whose app's state is not, until there is work";
        r(registry, "sessions_asleep", help, &self.asleep);
        let help = "Sessions in memory that take no more work and are about to leave";
        r(registry, "sessions_leaving", help, &self.leaving);
        let c = |r: &mut Registry, name, help, c: &Counter| r.register(name, help, c.clone());
        c(registry, "messages_handled", "Messages that sessions handled", &self.handled);
        c(registry, "handler_errors", "Messages that a handler rejected", &self.errors);
        c(registry, "handler_panics", "Messages whose handler panicked", &self.panics);
        let help = "Time from a browser's message at the worker to its handler, in seconds";
        registry.register("queue_seconds", help, self.queue_seconds.clone());
        let help = "Time that handlers took, in seconds, with what they awaited";
        registry.register("handle_seconds", help, self.handle_seconds.clone());
        c(registry, "blocked", "Times that something blocked the event loop", &self.blocks.total);
        let help = "Time for which it was blocked each time, in seconds";
        registry.register("blocked_seconds", help, self.blocks.seconds.clone());
        self.register_store();
        self
    }

    fn register_store(&mut self) {
        let registry = &mut self.registry;
        let h = |r: &mut Registry, name, help, h: &Histogram| r.register(name, help, h.clone());
        let c = |r: &mut Registry, name, help, c: &Counter| r.register(name, help, c.clone());
        let help = "Sessions with changes that wait for their commit";
        registry.register("sessions_dirty", help, self.dirty.clone());
        let help = "For how long the oldest change that is not committed has been waiting";
        registry.register("oldest_change_seconds", help, self.oldest_change_seconds.clone());
        c(registry, "commits", "Transactions that saved sessions", &self.commits);
        h(registry, "commit_rows", "Sessions saved by one transaction", &self.commit_rows);
        h(registry, "commit_seconds", "Time that a save took, in seconds", &self.commit_seconds);
        let help = "Time that it took to make a snapshot, in seconds";
        h(registry, "encode_seconds", help, &self.encode_seconds);
        let help = "Time that what a durable session says waits for its commit, in seconds";
        h(registry, "gate_seconds", help, &self.gate_seconds);
        c(registry, "save_failures", "Saves whose outcome was not known", &self.save_failures);
        let help = "Sessions lost to a later owner, noticed when they were saved or confirmed";
        c(registry, "saves_fenced", help, &self.fenced);
        let help = "Sessions whose commits the store has lost";
        c(registry, "durability_regression", help, &self.regressions);
        let help =
            "Time from when a session was wanted elsewhere until it was given up, in seconds";
        h(registry, "handoff_seconds", help, &self.handoff_seconds);
        let help = "Handlers given up because their session was wanted elsewhere";
        c(registry, "handlers_dropped", help, &self.handlers_dropped);
        let families = [
            ("claims", "Sessions claimed, by reason", &self.claims),
            ("passivated", "Sessions that left memory, by reason", &self.passivated),
            ("moved", "Sessions given up for another worker, by reason", &self.moved),
            ("quarantined", "Sessions refused to browsers, by reason", &self.quarantined),
            ("refused", "Channels that gateways wanted and did not get, by reason", &self.refused),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
    }

    /// An input came over a link at this moment.
    pub(crate) fn arrival(&self, at: Instant) -> Arrival {
        Arrival(self.micros(at))
    }

    /// The handler of an input begins. Both moments are known anyway, when a link was read and when
    /// a handler is called, so that no message has to ask for the time once more.
    pub(crate) fn begins(&self, arrival: Arrival, now: Instant) {
        let waited = self.micros(now).wrapping_sub(arrival.0);
        self.queue_seconds.observe(f64::from(waited) / 1e6);
    }

    fn micros(&self, at: Instant) -> u32 {
        at.saturating_duration_since(self.began).as_micros() as u32
    }

    /// What is counted only when somebody wants to know it.
    pub(crate) fn measured(&self, census: &Census, queued: Queued) {
        self.loading.set(census.loading as i64);
        self.asleep.set(census.asleep as i64);
        self.leaving.set(census.leaving as i64);
        self.dirty.set(census.dirty as i64);
        self.oldest_change_seconds.set(census.oldest_change().as_secs_f64());
        self.queues.set("sessions", queued.unconsumed);
        self.queues.set("gateways", queued.unsent);
    }

    pub(crate) fn claimed(&self, reason: &'static str) {
        debug_assert!(CLAIMS.contains(&reason), "{reason}");
        self.claims.get_or_create(&Reason { reason }).inc();
    }

    /// A session, or the app's state of one, has left memory.
    pub(crate) fn passivated(&self, why: Leave) {
        self.passivated.get_or_create(&Reason { reason: why.name() }).inc();
    }

    /// A session has left memory, for which it took so long.
    pub(crate) fn left(&self, why: Leave, took: Duration) {
        self.passivated(why);
        if why.is_move() {
            self.moved.get_or_create(&Reason { reason: why.name() }).inc();
            self.handoff_seconds.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn refused(&self, refused: &Refused) {
        let reason = refused.name();
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn quarantined(&self, reason: &'static str) {
        debug_assert!(QUARANTINES.contains(&reason), "{reason}");
        self.quarantined.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn render(&self) -> String {
        render(&self.registry)
    }
}

fn reasons<const N: usize>(reasons: [&'static str; N]) -> Family<Reason, Counter> {
    family(reasons.map(|reason| Reason { reason }))
}
