//! The flags that say where sessions are kept: of a worker, and of the commands for operators.

use std::path::PathBuf;
use std::time::Duration;

use single_state_node::config::Mistakes;
use single_state_store::{Settings, SharedStore};

/// Where sessions are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// Where sessions are kept: sqlite:PATH for workers of one machine, postgres://… for many,
    /// memory: until the process ends.
    #[arg(
        long,
        env = "SINGLE_STATE_STORE",
        default_value = "sqlite:.single-state/sessions.sqlite",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) store: String,
    /// How long the store may take to answer.
    #[arg(long, env = "SINGLE_STATE_STORE_TIMEOUT", default_value = "5s", value_name = "DURATION")]
    store_timeout: String,
    /// Connections to PostgreSQL, at most.
    #[arg(long, env = "SINGLE_STATE_STORE_CONNECTIONS", default_value = "6", value_name = "N")]
    store_connections: String,
    /// Certificates, in PEM, that PostgreSQL's may be signed by, beside the machine's own.
    #[arg(long, env = "SINGLE_STATE_STORE_CA_FILE", value_name = "FILE")]
    store_ca_file: Option<PathBuf>,
    /// Name of the cluster; gateways and workers must have the same.
    #[arg(long, env = "SINGLE_STATE_CLUSTER", default_value = "default", value_name = "NAME")]
    pub(crate) cluster: String,
}

/// Fewest connections to PostgreSQL: one saves, one claims, one is for the rest.
const MIN_CONNECTIONS: usize = 3;

impl StoreArgs {
    /// The store, if its URL and settings are right; it is not reached for yet.
    pub(crate) fn check(&self, mistakes: &mut Mistakes) -> Option<SharedStore> {
        if self.cluster.is_empty() || self.cluster.len() > 64 {
            mistakes.add("--cluster: give a name of 1 to 64 bytes");
        }
        let timeout = mistakes.duration("--store-timeout", &self.store_timeout);
        if timeout.is_some_and(|timeout| timeout < Duration::from_millis(100)) {
            mistakes.add(format!("--store-timeout {}: give at least 100ms", self.store_timeout));
        }
        let connections = mistakes.parse("--store-connections", &self.store_connections);
        if connections.is_some_and(|connections: usize| connections < MIN_CONNECTIONS) {
            let given = &self.store_connections;
            mistakes.add(format!("--store-connections {given}: give at least {MIN_CONNECTIONS}"));
        }
        let (cluster, ca_file) = (self.cluster.clone(), self.store_ca_file.clone());
        let timeout_or_none = timeout.unwrap_or_default();
        let mut settings =
            Settings { cluster, timeout: timeout_or_none, ca_file, ..Settings::default() };
        settings.connections = connections.unwrap_or_default();
        match single_state_store::open(&self.store, settings) {
            Ok(store) if timeout.is_some() && connections.is_some() => Some(store),
            Ok(_) => None,
            Err(error) => {
                mistakes.add(format!("--store: {error}"));
                None
            }
        }
    }

    /// The store ends with the process.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.store == "memory:"
    }
}
