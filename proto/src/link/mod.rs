//! One link between a gateway and a worker: many streams over one ordered connection.
//!
//! ```text
//!              HELLO                PROOF          GOAWAY, sent or received
//!   Connecting ──────▶ Proving ─────────────▶ Active ─────────▶ Draining ──▶ dropped by its owner
//!        └──────────────────────────────────────▲
//!              HELLO, and links have no keys
//! ```
//!
//! Owns the streams, credit, PING and the order in which frames leave. Knows no sockets, no clock
//! and no sessions: frames go in with [`Link::handle_frame`], [`Event`]s and bytes come out with
//! [`Link::poll_event`] and [`Link::poll_transmit`]. Calls that name a stream which is gone do
//! nothing: a stream may end on the other side at any moment.

mod hello;
mod incoming;
mod pulse;
mod queued;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use self::pulse::Pulse;
pub use self::queued::Queued;
use crate::error::LinkError;
use crate::frame::{
    CloseCode, Frame, GoAway, Hello, Open, Opened, Refused, ResetCode, Skipped, Start, Taken,
    encode_data,
};
use crate::id::StreamId;
use crate::key::LinkKeys;
use crate::limits::{DEAD_AFTER, LINK_HIGH_WATER, REASSEMBLY_BUDGET};
pub use crate::stream::Message;
use crate::stream::{Phase, Stream};
use crate::topology::Topology;

/// Which end of the link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Dials, and opens streams.
    Gateway,
    /// Accepts both.
    Worker,
}

/// What the peer did. The owner of the link reacts; the link's own state is up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer said HELLO and is who it should be, by its proof too where links have keys.
    Connected(Hello),
    /// To a worker: attach this channel; answer with [`Link::accept`] or [`Link::refuse`].
    Open(StreamId, Box<Open>),
    /// To a gateway: the channel is attached.
    Opened(StreamId, Opened),
    /// To a gateway: it is not; the stream is gone.
    Refused(StreamId, Refused),
    /// A whole message. Whoever takes it calls [`Link::consumed`] once it is out of the way.
    Message(StreamId, Message),
    /// All messages up to this number are taken.
    Acked(StreamId, u64),
    /// There is room again for [`Link::send`], which had turned a message away.
    Writable(StreamId),
    /// To a worker: commit and release the stream's session.
    Recall(StreamId),
    /// To a gateway: done; the stream is gone.
    Moved(StreamId),
    /// The stream is gone, its session lost what was not committed.
    Reset(StreamId, ResetCode),
    /// The stream ended.
    Closed(StreamId, CloseCode),
    /// To a worker: the newest topology the gateway knows.
    Topology(Topology),
    /// To a worker: the workers that the gateway passes over now, in place of what it said before.
    Skipped(Skipped),
    /// To a gateway: the worker has taken a session from an owner that had not given it up.
    Taken(Taken),
    /// The peer takes no new streams.
    GoAway(GoAway),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Proving,
    Active,
    Draining,
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    side: Side,
    state: State,
    /// GOAWAY was sent or heard, perhaps before the link was up.
    leaving: bool,
    ours: Hello,
    keys: Option<LinkKeys>,
    /// The peer's HELLO until its proof comes.
    unproven: Option<Hello>,
    /// Longest message that the peer takes.
    peer_max_message: u32,
    streams: FxHashMap<StreamId, Stream>,
    /// Highest stream opened so far, on either side.
    last_stream: StreamId,
    events: VecDeque<Event>,
    /// Frames that concern the whole link: sent before all others.
    urgent: BytesMut,
    out: BytesMut,
    /// Streams with parts that `out` had no room for.
    ready: VecDeque<StreamId>,
    reassembling: u64,
    /// Streams whose long message waits for the reassembly budget.
    starved: VecDeque<StreamId>,
    /// The newest PING that is not answered yet; older ones need no answer of their own.
    pong: Option<u64>,
    /// Times that a stream had to wait for credit, since they were last asked for.
    stalls: u64,
    pulse: Pulse,
}

impl Link {
    /// A link over a connection that was just made; its HELLO is ready to be sent. Links without
    /// [`Link::with_keys`] have no keys, and no nonce in their HELLO.
    pub fn new(side: Side, hello: Hello, now: Instant) -> Self {
        debug_assert_eq!(hello.nonce, None);
        let mut urgent = BytesMut::new();
        Frame::Hello(hello.clone()).encode(&mut urgent);
        Self {
            side,
            state: State::Connecting,
            leaving: false,
            ours: hello,
            keys: None,
            unproven: None,
            peer_max_message: 0,
            streams: FxHashMap::default(),
            last_stream: StreamId(0),
            events: VecDeque::new(),
            urgent,
            out: BytesMut::new(),
            ready: VecDeque::new(),
            reassembling: 0,
            starved: VecDeque::new(),
            pong: None,
            stalls: 0,
            pulse: Pulse::new(now),
        }
    }

    /// Whether streams can be opened: both ends know each other and nobody is going away.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// Streams that are not gone.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Time between the last answered PING and its PONG.
    pub fn round_trip(&self) -> Option<Duration> {
        self.pulse.round_trip
    }

    // --- time -----------------------------------------------------------------------------------

    /// When bytes last arrived.
    pub fn last_arrival(&self) -> Instant {
        self.pulse.last_arrival
    }

    /// Bytes arrived: the peer is alive.
    pub fn bytes_arrived(&mut self, now: Instant) {
        self.pulse.last_arrival = now;
    }

    /// When [`Link::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        match self.state {
            State::Connecting | State::Proving => self.pulse.hello_deadline,
            State::Active | State::Draining => self.pulse.next_timeout(),
        }
    }

    /// Sends the PING that is due; an error when the peer has been silent for too long. Call it
    /// after reading what has arrived.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        let late = match self.state {
            State::Connecting => Some(LinkError::NoHello),
            State::Proving => Some(LinkError::NoProof),
            State::Active | State::Draining => None,
        };
        if let Some(error) = late {
            return if now < self.pulse.hello_deadline { Ok(()) } else { Err(error) };
        }
        if now >= self.pulse.last_arrival + DEAD_AFTER {
            return Err(LinkError::Silent(DEAD_AFTER));
        }
        if let Some(number) = self.pulse.ping_due(now) {
            Frame::Ping(number).encode(&mut self.urgent);
        }
        Ok(())
    }

    // --- what the owner of the link does --------------------------------------------------------

    /// Gateway: asks for a channel. `None` when the link is not active.
    pub fn open(&mut self, open: Open) -> Option<StreamId> {
        if self.state != State::Active || self.last_stream.0 == u32::MAX {
            return None;
        }
        let id = StreamId(self.last_stream.0 + 1);
        self.last_stream = id;
        // What the worker takes is not known before its OPENED.
        self.streams.insert(id, Stream::new(0, open.window));
        Frame::Open(id, Box::new(open)).encode(&mut self.out);
        Some(id)
    }

    /// Worker: the channel is attached.
    pub fn accept(&mut self, id: StreamId, opened: Opened) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.phase == Phase::Opening
        {
            stream.receives(opened.window);
            stream.phase = Phase::Open;
            Frame::Opened(id, opened).encode(&mut self.out);
            self.tell_writable(id);
        }
    }

    /// Worker: the channel is not attached.
    pub fn refuse(&mut self, id: StreamId, refused: Refused) {
        let opening = self.streams.get(&id).is_some_and(|stream| stream.phase == Phase::Opening);
        if opening && self.forget(id) {
            Frame::Refused(id, refused).encode(&mut self.out);
        }
    }

    /// Gateway: the worker shall commit and release the stream's session. Said again, it is asked
    /// again: a worker that could not commit in time goes on with the session (R18).
    pub fn recall(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.phase != Phase::Opening
        {
            stream.phase = Phase::Recalled;
            Frame::Recall(id).encode(&mut self.out);
        }
    }

    /// Worker: committed and released.
    pub fn moved(&mut self, id: StreamId) {
        if self.forget(id) {
            Frame::Moved(id).encode(&mut self.out);
        }
    }

    /// The stream is lost.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        if self.forget(id) {
            Frame::Reset(id, code).encode(&mut self.out);
        }
    }

    /// The stream ends. What was sent before arrives before; a message for which there is no credit
    /// is cut off.
    pub fn close(&mut self, id: StreamId, code: CloseCode) {
        if let Some(stream) = self.streams.get_mut(&id) {
            while let Some(part) = stream.next_part() {
                encode_data(&mut self.out, id, part.start, part.fin, &part.bytes);
            }
            self.forget(id);
            Frame::Close(id, code).encode(&mut self.out);
        }
    }

    /// Gateway: tells the worker, once it is connected, the newest topology.
    pub fn topology(&mut self, topology: Topology) {
        Frame::Topology(topology).encode(&mut self.urgent);
    }

    /// Gateway: tells the worker which ones are passed over now.
    pub fn skipped(&mut self, skipped: Skipped) {
        Frame::Skipped(skipped).encode(&mut self.urgent);
    }

    /// Worker: tells the gateway of a session that was taken from its owner. Not before the link is
    /// up: who comes later knows of no other owner.
    pub fn taken(&mut self, taken: Taken) {
        if matches!(self.state, State::Active | State::Draining) {
            Frame::Taken(taken).encode(&mut self.out);
        }
    }

    /// Takes no new streams from now on, and tells the peer so.
    pub fn go_away(&mut self, code: GoAway) {
        self.leaving = true;
        if self.state == State::Active {
            self.state = State::Draining;
        }
        Frame::GoAway(code).encode(&mut self.urgent);
    }

    /// Longest message that the peer takes, in bytes.
    pub fn max_message(&self) -> u32 {
        self.peer_max_message
    }

    /// Sends a message, or returns `false` and later says [`Event::Writable`], so that whoever has
    /// more to say keeps it where it is. At most one message of each stream waits in the link.
    /// The body is at most [`Link::max_message`] bytes.
    #[must_use]
    pub fn send(&mut self, id: StreamId, number: u64, binary: bool, body: &Bytes) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.phase == Phase::Opening || !stream.writable() {
            // It was counted if it was turned away before, or with the message that is on its way.
            let stalls = stream.phase != Phase::Opening && !stream.wanted && stream.lacks_credit();
            self.stalls += u64::from(stalls);
            stream.wanted = true;
            return false;
        }
        let length = body.len() as u32;
        debug_assert!(length <= self.peer_max_message);
        let start = Start { number, length, binary };
        let at_once = self.out.len() < LINK_HIGH_WATER && self.ready.is_empty();
        if at_once && stream.send_whole(body.len()) {
            encode_data(&mut self.out, id, Some(start), true, body);
            return true;
        }
        stream.start_message(start, body.clone());
        if at_once {
            self.encode_part(id);
        } else {
            self.enqueue(id);
        }
        true
    }

    /// Tells the peer that all its messages up to `number` are taken.
    pub fn ack(&mut self, id: StreamId, number: u64) {
        if self.streams.contains_key(&id) {
            Frame::Ack(id, number).encode(&mut self.out);
        }
    }

    /// A received message of `length` bytes is out of the way: the peer may send as much again.
    pub fn consumed(&mut self, id: StreamId, length: usize) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive.consume(crate::credit::message_cost(length));
            if let Some(bytes) = stream.receive.due() {
                Frame::Credit(id, bytes).encode(&mut self.out);
            }
        }
    }

    // --- what comes out -------------------------------------------------------------------------

    /// The next thing the owner must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`Link::poll_transmit`] has something.
    pub fn wants_transmit(&self) -> bool {
        let idle = self.urgent.is_empty() && self.out.is_empty() && self.ready.is_empty();
        self.pong.is_some() || !idle
    }

    /// Moves what is to be sent into `into`, which must be empty: link frames first, then what was
    /// queued, then parts of long messages in turn, one of each stream. May lead to events.
    pub fn poll_transmit(&mut self, into: &mut BytesMut) {
        debug_assert!(into.is_empty());
        if let Some(number) = self.pong.take() {
            Frame::Pong(number).encode(&mut self.urgent);
        }
        if !self.urgent.is_empty() {
            self.urgent.extend_from_slice(&self.out);
            self.out.clear();
            std::mem::swap(&mut self.urgent, &mut self.out);
        }
        while self.out.len() < LINK_HIGH_WATER
            && let Some(id) = self.ready.pop_front()
        {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.queued = false;
                self.encode_part(id);
            }
        }
        std::mem::swap(into, &mut self.out);
    }

    /// Encodes the next part of a stream's message, and queues the stream if there is more.
    fn encode_part(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(part) = stream.next_part() {
            encode_data(&mut self.out, id, part.start, part.fin, &part.bytes);
        }
        if stream.has_part() {
            self.enqueue(id);
        } else {
            self.stalls += u64::from(stream.unsent() > 0);
            self.tell_writable(id);
        }
    }

    fn enqueue(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
        {
            stream.queued = true;
            self.ready.push_back(id);
        }
    }

    fn tell_writable(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.wanted
            && stream.writable()
        {
            stream.wanted = false;
            self.events.push_back(Event::Writable(id));
        }
    }

    fn forget(&mut self, id: StreamId) -> bool {
        let stream = self.streams.remove(&id);
        if let Some(stream) = &stream {
            self.release(stream.reserved);
        }
        stream.is_some()
    }

    // --- reassembly of messages longer than their window (R2) -----------------------------------

    fn release(&mut self, reserved: u64) {
        self.reassembling -= reserved;
        self.feed_starved();
    }

    /// Grants the messages that wait for it what they need, as far as the budget goes. The first is
    /// always granted when nothing else is being put together, so none waits for ever.
    fn feed_starved(&mut self) {
        while let Some(&id) = self.starved.front() {
            if let Some(stream) = self.streams.get_mut(&id) {
                let missing = stream.missing();
                let lacks = stream.receive.lacks(missing);
                if self.reassembling > 0 && self.reassembling + lacks > REASSEMBLY_BUDGET {
                    return;
                }
                self.reassembling += lacks;
                // It may stand here twice: its message came in by other credit and the next one began.
                stream.reserved += lacks;
                stream.receive.need(missing);
                if let Some(bytes) = stream.receive.due() {
                    Frame::Credit(id, bytes).encode(&mut self.out);
                }
            }
            self.starved.pop_front();
        }
    }
}

/// What to tell the peer before a link is dropped because of `error`; nothing when it is dead.
pub fn goaway_for(error: &LinkError) -> Option<GoAway> {
    match error {
        LinkError::WrongCluster { .. } => Some(GoAway::WrongCluster),
        LinkError::WrongIndex { .. } => Some(GoAway::WrongIndex),
        LinkError::Version { .. } => Some(GoAway::Version),
        LinkError::KeyWanted | LinkError::NoKey | LinkError::WrongKey => {
            Some(GoAway::Unauthenticated)
        }
        LinkError::Silent(_) | LinkError::NotReading => None,
        LinkError::Malformed(_)
        | LinkError::Unexpected { .. }
        | LinkError::CreditExceeded(_)
        | LinkError::CreditOverflow(_)
        | LinkError::TooLong { .. }
        | LinkError::NoHello
        | LinkError::NoProof => Some(GoAway::Protocol),
    }
}
