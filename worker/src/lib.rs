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
//! # An app
//!
//! A type that serde can save, an enum of the messages that pages may send, and one function:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use serde_json::json;
//! use single_state_worker::testing::TestSession;
//! use single_state_worker::{Context, Result, Session, ensure};
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Mean { values: Vec<f64> }
//!
//! #[derive(Serialize, Deserialize)]
//! #[serde(tag = "tag", rename_all = "snake_case")]
//! enum Message { Add { value: f64 }, Clear }
//!
//! impl Session for Mean {
//!     type Message = Message;
//!
//!     async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
//!         match message {
//!             Message::Add { value } => {
//!                 ensure!(value >= 0.0, "a length is not negative"); // shown in the page
//!                 self.values.push(value);
//!             }
//!             Message::Clear => self.values.clear(),
//!         }
//!         let mean = self.values.iter().sum::<f64>() / self.values.len().max(1) as f64;
//!         ctx.assign("mean", &mean) // every tab has it, now and later
//!     }
//! }
//!
//! # fn process() -> std::process::ExitCode {
//! // fn main() -> std::process::ExitCode {
//! single_state_worker::App::default().run::<Mean>()
//! # }
//! # // In a test, without a cluster:
//! # let session = TestSession::<Mean>::new();
//! # session.send(json!({"tag": "add", "value": 2.0}));
//! # session.send(json!({"tag": "add", "value": -1.0}));
//! # assert_eq!(session.outputs().pop().unwrap()["error"], "a length is not negative");
//! # session.send(json!({"tag": "add", "value": 4.0}));
//! # session.crash();
//! # assert_eq!(session.mirror()["mean"], 3.0);
//! ```
//!
//! `gateway new my-app` writes such a crate, with a page and a test. To run it, with workers that are
//! built and restarted when a source file changes, while pages stay connected:
//!
//! ```text
//! gateway dev --web web --build 'cargo build' -- target/debug/my-app
//! ```
//!
//! Without `--web` the gateway serves a page that shows any app and sends it anything; it is also at
//! `/client/generic/`. Three apps to read are in `worker/examples/`: a counter, text that is streamed
//! and can be cancelled, and a classifier of uploaded files.
//!
//! # What a handler can do
//!
//! | to | it calls |
//! |---|---|
//! | set what every tab shows, now and when it connects later | [`Context::assign`], for progress bars [`Context::progress`] |
//! | tell the tabs that are there | [`Context::send`], [`Context::send_binary`] |
//! | do long work in steps that users can interrupt | [`Context::schedule`], [`Context::unschedule`] |
//! | keep a CPU busy | [`Context::compute`] |
//! | wait for a slow service beside the session | [`Context::spawn`] with [`Context::poster`], [`Context::cancel`] |
//! | use what was loaded once for all | [`App::new`], [`Context::shared`] |
//! | keep an upload without saving it again and again | [`Context::keep`], [`Context::kept`], [`Context::forget`] |
//! | call the outside once, also when it is called again after a crash | [`Context::idempotency_key`] |
//! | end the session | [`Context::end`] |
//!
//! Hooks: [`Session::started`] runs when the session comes into memory, [`Session::attached`] for
//! each tab, [`Session::binary`] for binary messages, and [`Session::assign`] for
//! `{"tag":"assign","key":…,"value":…}` of a tab: it accepts any key unless you write your own.
//!
//! Tags that begin with `_` are the session's own. An `Err` ([`bail!`], [`ensure!`], `?`) becomes
//! `{"tag":"error",…}` for all tabs and the session goes on; a panic too, after going back to its last
//! save. While a handler awaits, its session hears nothing else: split what users shall interrupt into
//! scheduled steps.
//!
//! A new field of the state needs `#[serde(default)]`; for other changes raise [`Session::VERSION`]
//! and read the old form in [`Session::migrate`]. What cannot be read is quarantined with its bytes
//! kept.
//!
//! # What is promised
//!
//! What a page has sent is handled exactly once and in order, whichever of page, gateway and worker
//! breaks, as far as the state is concerned that survives. Calls that a handler makes to the outside
//! may be repeated: give them [`Context::idempotency_key`]. When changes are saved is a matter of
//! [`Durability`].
//!
//! | limit | default | flag |
//! |---|---|---|
//! | a message from a page | 1 MiB, one websocket frame of it 256 KiB | `gateway --max-message-bytes`, `--max-frame-bytes` |
//! | what a handler assigns or sends at once | 16 MiB | `worker --max-output-bytes` |
//! | keys that pages assign, and their values | 1,024 and 4 MiB | |
//! | a saved state | 16 MiB; `gateway dev` warns from 1 MiB on | |
//! | what is kept beside it, under each name | 64 MiB | |
//! | a handler that awaits nothing | 10 s, then its worker is ended; a warning after 1 s (0.1 s in `dev`) | `worker --block-limit`, `--block-warning` |
//! | tabs and other channels of a session | 64 | |
//!
//! # Inside
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
mod panics;
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
