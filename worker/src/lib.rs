//! Write an interactive app as one type and one function. Each user's session is a coroutine that
//! holds its whole state in memory; browsers talk to it with messages `{"tag": …}` over a websocket
//! that stays open whatever happens to the worker.
//!
//! - [`Session`]: what you implement.
//! - [`Context`]: what a handler can do: [`assign`](Context::assign), [`send`](Context::send),
//!   [`schedule`](Context::schedule), [`compute`](Context::compute), [`spawn`](Context::spawn), …
//! - [`App`]: runs it as a worker process.
//! - [`testing::TestSession`]: runs it in a test, in virtual time and without a cluster.
//!
//! ```text
//!   gateway ══ link.rs ── registry.rs ── resident/  ◀──▶ actor/   ── your Session
//!                         starts and     mailbox, log,    one coroutine, calls
//!                         ends sessions  channels         your code
//!                             │              │
//!                         ownership.rs   committer.rs ◀── snapshot.rs
//!                             └─ claims ─┬─── saves
//!                                      store (SQLite, PostgreSQL, memory)
//! ```
//!
//! One thread runs all sessions of a worker, so app types need be neither `Send` nor `Sync`.

mod actor;
mod app;
mod batch;
mod chores;
mod clock;
mod committer;
mod config;
mod context;
mod drain;
mod history;
mod host;
mod jobs;
mod link;
mod map;
mod message;
mod metrics;
mod operate;
mod output;
mod ownership;
mod registry;
mod resident;
mod running;
mod session;
mod snapshot;
pub mod testing;
#[cfg(test)]
mod tests;
mod timers;
mod watchdog;

pub use anyhow::{Error, Result, anyhow, bail, ensure};
pub use bytes::Bytes;
pub use single_state_proto::frame::Durability;

pub use crate::app::App;
pub use crate::context::{Context, Poster};
pub use crate::session::Session;
pub use crate::snapshot::Saved;
