//! Metrics that both binaries export, all with names that begin `single_state_`.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
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
