//! Metrics that both binaries export, all with names that begin `single_state_`.

use std::borrow::Cow;
use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A registry whose metrics are all named `single_state_…`.
pub fn registry() -> Registry {
    Registry::with_prefix("single_state")
}

/// The registry as Prometheus reads it.
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, registry);
    text
}

/// A family that begins with these members at 0: one that appears with its first event is no
/// increase to whoever reads it, so no alert would see that event.
pub fn family<L, const N: usize>(members: [L; N]) -> Family<L, Counter>
where
    L: Clone + Eq + Hash,
{
    let family = Family::<L, Counter>::default();
    for member in members {
        // It exists from here on.
        drop(family.get_or_create(&member));
    }
    family
}

/// What goes over links.
#[derive(Debug, Clone, Default)]
pub struct LinkMetrics {
    /// Bytes read from peers.
    pub received: Counter,
    /// Bytes written to peers.
    pub sent: Counter,
    /// Calls that wrote them; bytes per write tell how well the link batches.
    pub writes: Counter,
    /// Times that a stream with something to send had to wait until the peer granted more.
    pub stalls: Counter,
}

/// Whither a process sends messages over its links.
#[derive(Debug, Clone, Copy)]
pub enum Direction {
    /// A gateway does: from browsers to sessions.
    In,
    /// A worker does: from sessions to browsers.
    Out,
}

impl LinkMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry, sends: Direction) -> Self {
        let metrics = Self::default();
        registry.register("link_received_bytes", "Bytes read from links", metrics.received.clone());
        registry.register("link_sent_bytes", "Bytes written to links", metrics.sent.clone());
        registry.register("link_writes", "Calls that wrote to links", metrics.writes.clone());
        let direction = match sends {
            Direction::In => "in",
            Direction::Out => "out",
        };
        let label = (Cow::Borrowed("direction"), Cow::Borrowed(direction));
        let help = "Times that a channel had something to send and no credit for it";
        let directed = registry.sub_registry_with_label(label);
        directed.register("credit_stalls", help, metrics.stalls.clone());
        metrics
    }
}

/// Bytes that wait in a process, by what for. Set when they are read: to keep count of each byte
/// would cost each message something.
#[derive(Debug, Clone, Default)]
pub struct Queues(Family<WaitsFor, Gauge>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitsFor {
    waits_for: &'static str,
}

impl Queues {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let queues = Self::default();
        registry.register("queued_bytes", "Bytes that wait, by what for", queues.0.clone());
        queues
    }

    /// So many bytes wait for this.
    pub fn set(&self, waits_for: &'static str, bytes: u64) {
        self.0.get_or_create(&WaitsFor { waits_for }).set(bytes as i64);
    }
}
