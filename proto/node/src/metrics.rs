//! Metrics that both binaries export, all with names that begin `single_state_`.

use std::hash::Hash;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
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
}

impl LinkMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("link_received_bytes", "Bytes read from links", metrics.received.clone());
        registry.register("link_sent_bytes", "Bytes written to links", metrics.sent.clone());
        registry.register("link_writes", "Calls that wrote to links", metrics.writes.clone());
        metrics
    }
}
