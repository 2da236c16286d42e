//! The flags of how browsers come, and of how they are sent away.

use clap::Args;
use single_state_node::config::Mistakes;

use crate::admission::AdmissionLimits;
use crate::arrivals::ArrivalLimits;
use crate::drain::DrainOptions;
use crate::throttle::Rate;

#[derive(Debug, Args)]
pub(super) struct ArrivalArgs {
    /// Browsers at a time; more are refused. 0: any.
    #[arg(long, env = "SINGLE_STATE_MAX_CONNECTIONS", default_value = "0", value_name = "N")]
    max_connections: String,
    /// Browsers of one address at a time. 0: any.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_CONNECTIONS_PER_ADDRESS",
        default_value = "0",
        value_name = "N"
    )]
    max_connections_per_address: String,
    /// Connections let in per second, a second's worth of them at once; more wait. 0: any.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_HANDSHAKES_PER_SECOND",
        default_value = "2000",
        value_name = "N"
    )]
    max_handshakes_per_second: String,
    /// How long they may wait; who cannot be let in by then is answered 503. 0: any time.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_HANDSHAKE_WAIT",
        default_value = "5s",
        value_name = "DURATION"
    )]
    max_handshake_wait: String,
}

impl ArrivalArgs {
    pub(super) fn check_admission(&self, mistakes: &mut Mistakes) -> Option<AdmissionLimits> {
        let connections = mistakes.parse("--max-connections", &self.max_connections);
        let by_address =
            mistakes.parse("--max-connections-per-address", &self.max_connections_per_address);
        Some(AdmissionLimits { connections: connections?, connections_per_address: by_address? })
    }

    pub(super) fn check_arrivals(&self, mistakes: &mut Mistakes) -> Option<ArrivalLimits> {
        let rate = mistakes.parse("--max-handshakes-per-second", &self.max_handshakes_per_second);
        let wait = mistakes.duration("--max-handshake-wait", &self.max_handshake_wait);
        Some(ArrivalLimits { rate: Rate(rate?), wait: wait? })
    }
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// How long the gateway may take to send its browsers away before it ends. 0: at once.
    #[arg(
        long,
        env = "SINGLE_STATE_DRAIN_TIMEOUT",
        default_value = "120s",
        value_name = "DURATION"
    )]
    drain_timeout: String,
    /// Browsers sent away per second, or more where --drain-timeout demands it. 0: all at once.
    #[arg(long, env = "SINGLE_STATE_DRAIN_RATE", default_value = "200", value_name = "N")]
    drain_rate: String,
}

impl DrainArgs {
    pub(super) fn check(&self, mistakes: &mut Mistakes) -> Option<DrainOptions> {
        let timeout = mistakes.duration("--drain-timeout", &self.drain_timeout);
        let rate = mistakes.parse("--drain-rate", &self.drain_rate);
        Some(DrainOptions { timeout: timeout?, rate: Rate(rate?) })
    }
}
