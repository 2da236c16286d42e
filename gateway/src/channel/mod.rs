//! The gateway's end of one channel: between a browser's socket and a stream of a worker's link.
//!
//! The gateway is the channel's client on behalf of a plain page: it numbers the page's messages,
//! keeps them until they are acknowledged and sends them again to the next owner. For a client that
//! numbers them itself it does the same, so that its socket outlives workers, too. Outputs go
//! straight to the socket; what the socket does not take waits here, bounded by the stream's
//! credit, which is returned only when the socket has taken it. Payloads are opaque.
//!
//! ```text
//!              attach()              OPENED
//!   parked ───────────────▶ opening ────────▶ open          closing: set once, from any state;
//!     ▲      link lost, moved, reset, retry      │          the browser's task says it and ends
//!     └──────────────────────────────────────────┘
//! ```
//!
//! `owner.rs` is what its worker does to it, `page.rs` what its browser's task does, `numbered.rs`
//! what only clients of single-state.v1 need.

mod numbered;
mod owner;
mod page;
mod state;
mod stream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use single_state_proto::browser::Hello;
use single_state_proto::id::{ChannelId, ConnectionId, SessionId};
use tokio::sync::Notify;

use self::numbered::Numbered;
pub(crate) use self::numbered::{Terms, farewell};
pub(crate) use self::page::{Interest, Standing};
use self::state::{Delivered, State};
pub(crate) use self::state::{Mirror, Parting};
use crate::metrics::Metrics;
use crate::throttle::Rate;
use crate::websocket::{Closing, WebSocket};
use crate::worker_link::WorkerLink;

/// A channel that is refused again and again is asked for after 1, 4, 9 and then 16 times so long:
/// a worker takes who stays away for a second for served elsewhere.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// A worker that wants it to wait longer is asked at least this often.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// One channel; shared by its browser's task and the link's task of one thread.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) session: SessionId,
    /// This socket; also names the channel within this gateway.
    pub(crate) connection: ConnectionId,
    channel: ChannelId,
    /// The worker that was asked for it last.
    worker: RefCell<Option<Rc<WorkerLink>>>,
    /// How often it was asked for in vain since it was last attached.
    tries: Cell<u32>,
    limits: ChannelLimits,
    state: RefCell<State>,
    /// The browser's task has to look at the channel again.
    changed: Notify,
    metrics: Rc<Metrics>,
}

/// What one browser may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelLimits {
    pub(crate) messages_per_second: Rate,
    pub(crate) bytes_per_second: Rate,
    /// A browser that is quiet for so long is asked whether it is there.
    pub(crate) ping_after: Duration,
    /// One that is quiet for so long is given up.
    pub(crate) idle_timeout: Duration,
}

/// What a socket is for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) session: SessionId,
    /// The id was minted for this connection.
    pub(crate) fresh: bool,
    pub(crate) connection: ConnectionId,
}

impl Channel {
    /// A channel for one socket of a plain page, which has no name for it.
    pub(crate) fn plain(
        target: Target,
        channel: ChannelId,
        limits: ChannelLimits,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        let state = State::new(target.fresh);
        Self::new(target, channel, state, limits, metrics)
    }

    /// The channel that a client takes up with its hello.
    pub(crate) fn numbered(
        mut target: Target,
        hello: Hello,
        terms: Rc<Terms>,
        socket: WebSocket,
        limits: ChannelLimits,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        let Hello { channel, attach, seen, .. } = hello;
        // A client that was here before knows the session, wherever its id comes from.
        target.fresh &= attach.0 == 1 && seen.is_none();
        let mut state = State::new(target.fresh);
        state.seen = seen;
        state.socket = Some(socket);
        state.numbered = Some(Box::new(Numbered::new(attach, terms)));
        Self::new(target, channel, state, limits, metrics)
    }

    fn new(
        target: Target,
        channel: ChannelId,
        state: State,
        limits: ChannelLimits,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        let Target { session, connection, .. } = target;
        let (worker, tries, changed) = Default::default();
        let state = RefCell::new(state);
        Rc::new(Self {
            session,
            connection,
            channel,
            worker,
            tries,
            limits,
            state,
            changed,
            metrics,
        })
    }

    /// The worker that was asked for it last.
    pub(crate) fn worker(&self) -> Option<Rc<WorkerLink>> {
        self.worker.borrow().clone()
    }

    /// This worker was asked for it.
    pub(crate) fn set_worker(&self, worker: &Rc<WorkerLink>) {
        *self.worker.borrow_mut() = Some(worker.clone());
    }

    /// How long to wait before it is asked for again, when a worker wants it to wait for at least so
    /// long: at first no longer, then longer each time.
    pub(crate) fn next_try(&self, at_least: Duration) -> Duration {
        let tries = self.tries.get();
        self.tries.set(tries.saturating_add(1));
        at_least.max(FIRST_RETRY * tries.min(4).pow(2)).min(LAST_RETRY)
    }

    /// Asks the browser's task to close the socket with this code, unless it is closing already.
    pub(crate) fn close(&self, code: u16, reason: &'static str) {
        self.close_with(&mut self.state.borrow_mut(), code, reason);
    }

    fn close_with(&self, state: &mut State, code: u16, reason: &'static str) {
        if state.closing.is_none() {
            self.metrics.closed(code);
            state.closing = Some(Closing { code, reason });
            self.changed.notify_one();
        }
    }

    fn forward(&self, state: &mut State) {
        if !state.forward() {
            self.close_with(state, 1009, "this message is longer than the worker takes");
        }
    }

    /// Writes to the socket what is there for it; only when it is blocked its task has to wait for it.
    fn deliver(&self, state: &mut State) {
        match state.deliver(&self.metrics) {
            Delivered::All => {}
            Delivered::Blocked => self.changed.notify_one(),
            Delivered::Broken => {
                self.close_with(state, 1001, "the connection cannot be written to");
            }
        }
    }
}
