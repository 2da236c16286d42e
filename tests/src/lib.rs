//! Clusters of real processes, and what drives them: the harness of the scenarios in `tests/tests`.
//!
//! Nothing here sleeps for a while and hopes: everything waits for a condition, up to a deadline.

pub mod append;
pub mod browser;
pub mod checker;
pub mod chromium;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod dev;
pub mod dial;
pub mod disk;
pub mod faults;
pub mod fleet;
pub mod history;
pub mod manifests;
pub mod network;
pub mod page;
pub mod peer;
pub mod place;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod siphash;
pub mod trial;
mod upgrade;
pub mod visitors;

use std::time::Duration;

/// How long anything may take that is about to happen. Far longer than it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
