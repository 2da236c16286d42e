//! The protocol of single-state as pure state machines: no sockets, no runtime, no clock (`now` is an
//! argument), no randomness. Gateway, worker, load generator and tests put their own IO around it.
//!
//! ```text
//!   id          names of things: one parser and one printed form each
//!   placement   session id -> worker index                    topology   who the workers are
//!   key         what gateways and workers prove to each other
//!
//!   gateway                     one TCP connection = one link                       worker
//!   ┌────────────┐  frames: HELLO, PROOF, PING, GOAWAY, TOPOLOGY (link)  ┌────────────┐
//!   │ Link       │ ════════════════════════════════════════════════════ │ Link       │
//!   │  ├ stream 1│ ── OPEN → OPENED, DATA ⇄, ACK ⇄, CREDIT ⇄, CLOSE ──── │  ├ stream 1│
//!   │  └ stream 2│ ── …                                                  │  └ stream 2│
//!   └────────────┘                                                       └────────────┘
//!   channel::ClientHalf  numbers inputs, keeps what is not acknowledged   channel::SessionHalf  applies each once
//! ```
//!
//! Browsers that number their own messages speak the envelopes of [`browser`] with a gateway.
//!
//! Bytes in become frames in [`decoder`], frames change a [`link::Link`], which answers with
//! [`link::Event`]s and with bytes to send. [`limits`] holds every number that bounds them.
//! `proto/README.md` specifies the wire for those who write another client or worker.

pub mod browser;
pub mod channel;
pub mod credit;
pub mod decoder;
pub mod error;
pub mod frame;
pub mod id;
pub mod key;
pub mod limits;
pub mod link;
pub mod placement;
mod stream;
pub mod topology;
