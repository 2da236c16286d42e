//! What the gateway and the worker process have in common as well-behaved processes, beside the
//! protocol: flags whose mistakes are all told at once, logs, signals, the admin listener and the
//! socket under a link. Knows neither browsers nor apps.

pub mod admin;
pub mod config;
pub mod exit;
pub mod keys;
pub mod link;
pub mod log;
pub mod metrics;
pub mod shutdown;
pub mod turn;
