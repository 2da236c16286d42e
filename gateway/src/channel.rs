//! The gateway's end of one channel: between a browser's socket and a stream of a worker's link.
//!
//! The gateway is the channel's client on behalf of a plain page: it numbers the page's messages,
//! keeps them until they are acknowledged and sends them again to the next owner. Outputs go
//! straight to the socket; what the socket does not take waits here, bounded by the stream's
//! credit, which is returned only when the socket has taken it. Payloads are opaque.
//!
//! ```text
//!              attach()              OPENED
//!   parked ───────────────▶ opening ────────▶ open          closing: set once, from any state;
//!     ▲      link lost, moved, reset, retry      │          the browser's task says it and ends
//!     └──────────────────────────────────────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use single_state_node::link::LinkHandle;
use single_state_proto::channel::ClientHalf;
use single_state_proto::frame::{CloseCode, Open, Opened, Refused, ResetCode};
use single_state_proto::id::{
    Attach, ChannelId, ConnectionId, Epoch, Generation, InputNumber, Revision, SessionId, StreamId,
    WorkerIndex,
};
use single_state_proto::limits::WINDOW;
use single_state_proto::link::Message;
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::throttle::{Rate, Throttle};
use crate::websocket::{Closing, Ended, More, Received, WebSocket};

/// Outputs that the socket has taken are acknowledged at once when so many have gathered, …
const ACK_EVERY: u32 = 64;
/// … or so many bytes of them; fewer with the next tick of the link.
const ACK_EVERY_BYTES: usize = 16 * 1024;

/// One channel; shared by its browser's task and the link's task of one thread.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) session: SessionId,
    /// This socket; also names the channel within this gateway.
    pub(crate) connection: ConnectionId,
    channel: ChannelId,
    /// The worker at whose link the channel is, or waits.
    worker: Cell<Option<WorkerIndex>>,
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

#[derive(Debug)]
struct State {
    inputs: ClientHalf,
    stream: Option<Stream>,
    /// The id was minted for this connection, and no worker was asked for it yet.
    fresh: bool,
    /// A worker had attached this channel before.
    opened_before: bool,
    epoch: Epoch,
    seen: Option<(Epoch, Revision)>,
    /// Absent until the upgrade is done.
    socket: Option<WebSocket>,
    /// Outputs that came before the socket, or that it does not take now.
    outputs: VecDeque<Message>,
    /// Bytes of the output of which the kernel has taken a part.
    writing: Option<usize>,
    closing: Option<Closing>,
    parked_since: Instant,
    messages: Throttle,
    bytes: Throttle,
    /// When the browser was last heard, and whether it was asked since whether it is there.
    heard: Instant,
    asked: bool,
}

#[derive(Debug)]
struct Stream {
    link: Rc<LinkHandle>,
    id: StreamId,
    opened: bool,
    /// Newest output taken, and how many since the last acknowledgement.
    taken: Revision,
    unreported: u32,
    unreported_bytes: usize,
}

/// What a browser's task waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The browser sends more than it may: it is not read before this moment.
    pub(crate) paused: Option<Instant>,
}

/// What became of an attempt to attach, as far as the upgrade has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Waiting,
    Open,
    Closing,
}

impl Channel {
    /// A channel for one socket of a plain page. `fresh`: its session id was minted for it.
    pub(crate) fn plain(
        session: SessionId,
        channel: ChannelId,
        connection: ConnectionId,
        fresh: bool,
        limits: ChannelLimits,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        let now = Instant::now();
        let state = State {
            inputs: ClientHalf::new(),
            stream: None,
            fresh,
            opened_before: false,
            epoch: Epoch(0),
            seen: None,
            socket: None,
            outputs: VecDeque::new(),
            writing: None,
            closing: None,
            parked_since: now,
            messages: Throttle::new(now),
            bytes: Throttle::new(now),
            heard: now,
            asked: false,
        };
        let state = RefCell::new(state);
        let (worker, changed) = (Cell::new(None), Notify::new());
        Rc::new(Self { session, connection, channel, worker, limits, state, changed, metrics })
    }

    /// The worker at whose link the channel is, or waits.
    pub(crate) fn worker(&self) -> Option<WorkerIndex> {
        self.worker.get()
    }

    /// The channel is now at this worker's link.
    pub(crate) fn set_worker(&self, index: WorkerIndex) {
        self.worker.set(Some(index));
    }

    // --- the worker's side ----------------------------------------------------------------------

    /// Asks for a stream over `link`; `None` if it takes no more streams.
    pub(crate) fn open(&self, link: &Rc<LinkHandle>, generation: Generation) -> Option<StreamId> {
        let mut state = self.state.borrow_mut();
        let open = Open {
            session: self.session.clone(),
            channel: self.channel.clone(),
            attach: Attach(1),
            connection: self.connection,
            generation,
            skipped: Vec::new(),
            seen: state.seen,
            min_epoch: state.epoch,
            fresh: state.fresh,
            recovered: state.opened_before,
            window: WINDOW,
            identity: None,
        };
        let id = link.with(|link| link.open(open))?;
        state.fresh = false;
        let link = link.clone();
        let taken = state.seen.map_or(Revision(0), |(_, revision)| revision);
        state.stream =
            Some(Stream { link, id, opened: false, taken, unreported: 0, unreported_bytes: 0 });
        Some(id)
    }

    /// A worker has attached the channel: what it has not applied goes again.
    pub(crate) fn opened(&self, opened: &Opened) {
        let mut state = self.state.borrow_mut();
        state.opened_before = true;
        state.epoch = state.epoch.max(opened.epoch);
        let seen = match state.seen {
            Some((_, revision)) if opened.resumed => revision,
            _ => Revision(0),
        };
        state.seen = Some((opened.epoch, seen));
        if state.inputs.attached(opened.applied).is_err() {
            return self.close_with(
                &mut state,
                4400,
                "the session has applied what was never sent",
            );
        }
        if let Some(stream) = &mut state.stream {
            stream.opened = true;
        }
        self.forward(&mut state);
        self.changed.notify_one();
    }

    /// The worker did not attach it. Returns after how many milliseconds to ask again, if at all.
    pub(crate) fn refused(&self, refused: &Refused) -> Option<u32> {
        let mut state = self.state.borrow_mut();
        state.park();
        let (code, reason) = match refused {
            Refused::Retry { after_ms, .. } => return Some(*after_ms),
            // The worker knows another list of workers than this gateway; one of them learns.
            Refused::Stale(_) | Refused::WrongOwner => return Some(500),
            Refused::Quarantined => (4503, "this session is quarantined; start a new one"),
            Refused::Forbidden => (4403, "this session belongs to another identity"),
            Refused::Superseded => (4409, "a newer connection holds this channel"),
            Refused::TooManyChannels => (4429, "this session is open in too many places"),
        };
        self.close_with(&mut state, code, reason);
        None
    }

    /// The session says something. Returns whether outputs wait to be acknowledged that did not
    /// before.
    pub(crate) fn output(&self, message: Message) -> bool {
        let mut state = self.state.borrow_mut();
        let before = state.unreported();
        state.outputs.push_back(message);
        self.deliver(&mut state);
        before == 0 && state.unreported() > 0
    }

    /// All inputs up to `number` are taken for good.
    pub(crate) fn acked(&self, number: u64) {
        let mut state = self.state.borrow_mut();
        let was_full = state.inputs.is_full();
        if state.inputs.acked(InputNumber(number)).is_err() {
            return self.close_with(
                &mut state,
                4400,
                "the session has applied what was never sent",
            );
        }
        if was_full && !state.inputs.is_full() {
            self.changed.notify_one();
        }
    }

    /// The link has room for inputs again.
    pub(crate) fn writable(&self) {
        self.forward(&mut self.state.borrow_mut());
    }

    /// The stream is gone, but the channel is not: another one is to be opened.
    pub(crate) fn lost(&self) {
        self.state.borrow_mut().park();
    }

    /// The session lost what was not committed, or this channel was too slow for its events.
    /// Returns whether to open another stream.
    pub(crate) fn reset(&self, code: ResetCode) -> bool {
        let mut state = self.state.borrow_mut();
        state.park();
        state.seen = None;
        if code == ResetCode::Overflow {
            self.close_with(&mut state, 4410, "too slow for this session's events; reload");
        }
        state.closing.is_none()
    }

    /// The worker ended the stream.
    pub(crate) fn closed(&self, code: CloseCode) {
        let (code, reason) = match code {
            CloseCode::Superseded => (4409, "a newer connection holds this channel"),
            CloseCode::SessionEnded => (4410, "the session has ended; reload"),
            CloseCode::TooLong => (1009, "this message is longer than the worker takes"),
            CloseCode::Quarantined => (4503, "this session is quarantined; start a new one"),
            CloseCode::ChannelExpired => (4410, "this channel has expired; reload"),
            CloseCode::Protocol | CloseCode::Detached | CloseCode::Ended => {
                (4400, "the worker does not accept this channel's messages")
            }
        };
        let mut state = self.state.borrow_mut();
        state.park();
        self.close_with(&mut state, code, reason);
    }

    /// Since when no worker has the channel; `None` while one has.
    pub(crate) fn parked_since(&self) -> Option<Instant> {
        let state = self.state.borrow();
        state.stream.is_none().then_some(state.parked_since)
    }

    /// Acknowledges the outputs that were taken since the last time.
    pub(crate) fn report_taken(&self) {
        if let Some(stream) = &mut self.state.borrow_mut().stream {
            stream.report_taken();
        }
    }

    // --- the browser's side ---------------------------------------------------------------------

    /// How far attaching is.
    pub(crate) fn standing(&self) -> Standing {
        let state = self.state.borrow();
        match &state.stream {
            _ if state.closing.is_some() => Standing::Closing,
            Some(stream) if stream.opened => Standing::Open,
            _ => Standing::Waiting,
        }
    }

    /// Waits until something has changed that concerns the browser's task.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The upgrade is done; what the session has said meanwhile goes out.
    pub(crate) fn connected(&self, socket: WebSocket) {
        let mut state = self.state.borrow_mut();
        state.socket = Some(socket);
        self.deliver(&mut state);
    }

    /// What the browser's task shall wait for.
    pub(crate) fn interest(&self) -> Interest {
        let state = self.state.borrow();
        let now = Instant::now();
        // None is less than any moment.
        let paused = state.messages.pause(now).max(state.bytes.pause(now));
        let write = state.socket.as_ref().is_some_and(WebSocket::is_blocked);
        Interest { read: !state.inputs.is_full() && paused.is_none(), write, paused }
    }

    /// Asks a quiet browser whether it is there, and gives up one that has been quiet for too long.
    /// What we do not read is not held against it (R17).
    pub(crate) fn check_idle(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        let quiet = now.saturating_duration_since(state.heard);
        if state.inputs.is_full() {
            state.heard = now;
        } else if quiet >= self.limits.idle_timeout && !self.limits.idle_timeout.is_zero() {
            self.close_with(&mut state, 1001, "nothing was heard from the page for too long");
        } else if quiet >= self.limits.ping_after
            && !self.limits.ping_after.is_zero()
            && !std::mem::replace(&mut state.asked, true)
            && let Some(socket) = &mut state.socket
        {
            // Reading tells if the browser is gone.
            let _ = socket.ping();
        }
    }

    /// Reads once and takes the messages that have arrived, until the unacknowledged are too many.
    pub(crate) fn read(&self) -> Result<More, Ended> {
        let mut state = self.state.borrow_mut();
        let State { socket: Some(socket), inputs, messages, bytes, heard, asked, .. } = &mut *state
        else {
            return Ok(More::No);
        };
        if inputs.is_full() {
            return Ok(More::Maybe);
        }
        let now = Instant::now();
        let limits = &self.limits;
        let read = socket.read(|Received { binary, body }| {
            self.metrics.messages_in.inc();
            self.metrics.bytes_in.inc_by(body.len() as u64);
            messages.count(limits.messages_per_second, 1, now);
            bytes.count(limits.bytes_per_second, body.len(), now);
            inputs.push(binary, body);
            !inputs.is_full() && messages.pause(now).is_none() && bytes.pause(now).is_none()
        });
        (*heard, *asked) = (now, false);
        self.forward(&mut state);
        read
    }

    /// Goes on writing what the socket did not take before.
    pub(crate) fn flush(&self) -> Result<(), Ended> {
        let mut state = self.state.borrow_mut();
        if let Some(socket) = &mut state.socket {
            socket.flush()?;
        }
        self.deliver(&mut state);
        if let Some(stream) = &mut state.stream {
            stream.report_taken();
        }
        Ok(())
    }

    /// Asks the browser's task to close the socket with this code, unless it is closing already.
    pub(crate) fn close(&self, code: u16, reason: &'static str) {
        self.close_with(&mut self.state.borrow_mut(), code, reason);
    }

    /// With what the socket is to be closed, if it is.
    pub(crate) fn closing(&self) -> Option<Closing> {
        self.state.borrow().closing
    }

    /// Takes the socket out, to close it or to drop it.
    pub(crate) fn disconnected(&self) -> Option<WebSocket> {
        self.state.borrow_mut().socket.take()
    }

    /// The channel ends: its stream is closed. Returns the stream's id.
    pub(crate) fn end(&self) -> Option<StreamId> {
        let stream = self.state.borrow_mut().stream.take()?;
        stream.link.with(|link| link.close(stream.id, CloseCode::Ended));
        Some(stream.id)
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

    /// Writes outputs to the socket until it is blocked; only then its task has to wait for it.
    fn deliver(&self, state: &mut State) {
        while let Some(socket) = &mut state.socket {
            if socket.is_blocked() {
                return self.changed.notify_one();
            }
            if let Some(length) = state.writing.take() {
                state.taken(length);
                continue;
            }
            let Some(Message { number, binary, body }) = state.outputs.pop_front() else { return };
            let length = body.len();
            self.metrics.messages_out.inc();
            self.metrics.bytes_out.inc_by(length as u64);
            if socket.send(binary, body).is_err() {
                return self.close_with(state, 1001, "the connection cannot be written to");
            }
            state.writing = Some(length);
            state.saw(Revision(number));
        }
    }
}

impl State {
    /// Hands unsent inputs to the stream until it takes no more; `false` when the next one is
    /// longer than the worker takes.
    fn forward(&mut self) -> bool {
        let Some(Stream { link, id, opened: true, .. }) = &self.stream else { return true };
        link.with(|link| {
            while let Some(input) = self.inputs.next_to_send() {
                if input.body.len() > link.max_message() as usize {
                    return false;
                }
                if !link.send(*id, input.number.0, input.binary, &input.body) {
                    return true;
                }
                self.inputs.sent();
            }
            true
        })
    }

    fn unreported(&self) -> u32 {
        self.stream.as_ref().map_or(0, |stream| stream.unreported)
    }

    fn saw(&mut self, revision: Revision) {
        if let Some(seen) = &mut self.seen {
            seen.1 = revision;
        }
        if let Some(stream) = &mut self.stream {
            stream.taken = revision;
        }
    }

    /// The socket has taken an output of so many bytes.
    fn taken(&mut self, length: usize) {
        if let Some(stream) = &mut self.stream {
            stream.link.with(|link| link.consumed(stream.id, length));
            stream.unreported += 1;
            stream.unreported_bytes += length;
            if stream.unreported >= ACK_EVERY || stream.unreported_bytes >= ACK_EVERY_BYTES {
                stream.report_taken();
            }
        }
    }

    fn park(&mut self) {
        self.stream = None;
        self.parked_since = Instant::now();
        // What the next owner sends depends on what the page has seen; these it has not.
        self.outputs.clear();
        self.writing = None;
    }
}

impl Stream {
    fn report_taken(&mut self) {
        if self.unreported > 0 {
            self.unreported = 0;
            self.unreported_bytes = 0;
            self.link.with(|link| link.ack(self.id, self.taken.0));
        }
    }
}
