//! What a worker counts. Names are part of the contract with dashboards.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use single_state_node::metrics::{LinkMetrics, registry, render};

use crate::watchdog::Blocks;

/// Metrics of one worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) link: LinkMetrics,
    pub(crate) links: Gauge,
    pub(crate) channels: Gauge,
    pub(crate) resident: Gauge,
    pub(crate) handled: Counter,
    pub(crate) errors: Counter,
    pub(crate) panics: Counter,
    pub(crate) handle_seconds: Histogram,
    pub(crate) blocks: Blocks,
    claims: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = registry();
        let metrics = Self {
            link: LinkMetrics::register(&mut registry),
            links: Gauge::default(),
            channels: Gauge::default(),
            resident: Gauge::default(),
            handled: Counter::default(),
            errors: Counter::default(),
            panics: Counter::default(),
            // 10 µs to 10 s, three buckets a decade.
            handle_seconds: Histogram::new(exponential_buckets(1e-5, 10_f64.cbrt(), 19)),
            blocks: Blocks {
                total: Counter::default(),
                // 100 ms to 100 s.
                seconds: Histogram::new(exponential_buckets(0.1, 10_f64.cbrt(), 10)),
            },
            claims: Family::default(),
            registry,
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        let r = |r: &mut Registry, name, help, gauge: &Gauge| r.register(name, help, gauge.clone());
        r(registry, "links", "Gateways with which a link is up", &self.links);
        r(registry, "channels", "Channels with a connection", &self.channels);
        r(registry, "sessions_resident", "Sessions in memory", &self.resident);
        let c = |r: &mut Registry, name, help, c: &Counter| r.register(name, help, c.clone());
        c(registry, "messages_handled", "Messages that sessions handled", &self.handled);
        c(registry, "handler_errors", "Messages that a handler rejected", &self.errors);
        c(registry, "handler_panics", "Messages whose handler panicked", &self.panics);
        let help = "Time that handlers took, in seconds, with what they awaited";
        registry.register("handle_seconds", help, self.handle_seconds.clone());
        c(registry, "blocked", "Times that something blocked the event loop", &self.blocks.total);
        let help = "Time for which it was blocked each time, in seconds";
        registry.register("blocked_seconds", help, self.blocks.seconds.clone());
        registry.register("claims", "Sessions claimed, by reason", self.claims.clone());
        self
    }

    pub(crate) fn claimed(&self, reason: &'static str) {
        self.claims.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn render(&self) -> String {
        render(&self.registry)
    }
}
