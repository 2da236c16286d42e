//! One link between a gateway and a worker: many streams over one ordered connection.
//!
//! ```text
//!   Connecting ──HELLO of the peer──▶ Active ──GOAWAY, sent or received──▶ Draining ──▶ dropped by its owner
//! ```
//!
//! Owns the streams, credit, PING and the order in which frames leave. Knows no sockets, no clock
//! and no sessions: frames go in with [`Link::handle_frame`], [`Event`]s and bytes come out with
//! [`Link::poll_event`] and [`Link::poll_transmit`]. Calls that name a stream which is gone do
//! nothing: a stream may end on the other side at any moment.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use crate::error::LinkError;
use crate::frame::{
    CloseCode, Data, Frame, GoAway, Hello, Open, Opened, Refused, ResetCode, Start, encode_data,
};
use crate::id::StreamId;
use crate::limits::{
    DEAD_AFTER, HELLO_TIMEOUT, LINK_HIGH_WATER, PING_INTERVAL, PROTOCOL, REASSEMBLY_BUDGET,
};
pub use crate::stream::Message;
use crate::stream::{PartError, Phase, Stream};
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
    /// The peer said HELLO and is who it should be.
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
    /// The peer takes no new streams.
    GoAway(GoAway),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Active,
    Draining,
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    side: Side,
    state: State,
    ours: Hello,
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
    pulse: Pulse,
}

impl Link {
    /// A link over a connection that was just made; its HELLO is ready to be sent.
    pub fn new(side: Side, hello: Hello, now: Instant) -> Self {
        let mut urgent = BytesMut::new();
        Frame::Hello(hello.clone()).encode(&mut urgent);
        Self {
            side,
            state: State::Connecting,
            ours: hello,
            peer_max_message: 0,
            streams: FxHashMap::default(),
            last_stream: StreamId(0),
            events: VecDeque::new(),
            urgent,
            out: BytesMut::new(),
            ready: VecDeque::new(),
            reassembling: 0,
            starved: VecDeque::new(),
            pulse: Pulse::new(now),
        }
    }

    /// Whether streams can be opened: HELLO is exchanged and nobody is going away.
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

    /// Bytes arrived: the peer is alive.
    pub fn bytes_arrived(&mut self, now: Instant) {
        self.pulse.last_arrival = now;
    }

    /// When [`Link::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        match self.state {
            State::Connecting => self.pulse.hello_deadline,
            State::Active | State::Draining => self.pulse.next_timeout(),
        }
    }

    /// Sends the PING that is due; an error when the peer has been silent for too long. Call it
    /// after reading what has arrived.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.state == State::Connecting {
            return if now < self.pulse.hello_deadline { Ok(()) } else { Err(LinkError::NoHello) };
        }
        if now >= self.pulse.last_arrival + DEAD_AFTER {
            return Err(LinkError::Silent(DEAD_AFTER));
        }
        if let Some(number) = self.pulse.ping_due(now) {
            Frame::Ping(number).encode(&mut self.urgent);
        }
        Ok(())
    }

    // --- frames in ------------------------------------------------------------------------------

    /// Applies one frame of the peer. After an error the link must be dropped, [`goaway_for`] says
    /// what to tell the peer.
    pub fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), LinkError> {
        if self.state == State::Connecting {
            let Frame::Hello(hello) = frame else {
                if let Frame::GoAway(code) = frame {
                    self.events.push_back(Event::GoAway(code));
                    return Ok(());
                }
                return Err(unexpected("a frame", StreamId(0), "before HELLO"));
            };
            return self.handle_hello(now, hello);
        }
        match frame {
            Frame::Hello(_) => Err(unexpected("HELLO", StreamId(0), "a second time")),
            Frame::Ping(number) => {
                Frame::Pong(number).encode(&mut self.urgent);
                Ok(())
            }
            Frame::Pong(number) => {
                self.pulse.pong(number, now);
                Ok(())
            }
            Frame::GoAway(code) => {
                self.state = State::Draining;
                self.events.push_back(Event::GoAway(code));
                Ok(())
            }
            Frame::Data(stream, data) => self.handle_data(stream, data),
            Frame::Ack(stream, number) => {
                if self.find(stream, "ACK", &[Phase::Open, Phase::Recalled])?.is_some() {
                    self.events.push_back(Event::Acked(stream, number));
                }
                Ok(())
            }
            Frame::Credit(stream, bytes) => self.handle_credit(stream, bytes),
            Frame::Reset(stream, code) => {
                let any = [Phase::Opening, Phase::Open, Phase::Recalled];
                self.handle_end(stream, "RESET", &any, Event::Reset(stream, code))
            }
            Frame::Close(stream, code) => {
                let any = [Phase::Opening, Phase::Open, Phase::Recalled];
                self.handle_end(stream, "CLOSE", &any, Event::Closed(stream, code))
            }
            frame => match self.side {
                Side::Gateway => self.handle_at_gateway(frame),
                Side::Worker => self.handle_at_worker(frame),
            },
        }
    }

    fn handle_at_gateway(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Opened(id, opened) => {
                if let Some(stream) = self.find(id, "OPENED", &[Phase::Opening])? {
                    stream.opened(Some(opened.window));
                    self.events.push_back(Event::Opened(id, opened));
                }
                Ok(())
            }
            Frame::Refused(id, refused) => {
                self.handle_end(id, "REFUSED", &[Phase::Opening], Event::Refused(id, refused))
            }
            Frame::Moved(id) => {
                let attached = [Phase::Open, Phase::Recalled];
                self.handle_end(id, "MOVED", &attached, Event::Moved(id))
            }
            Frame::Open(id, _) => Err(unexpected("OPEN", id, "which only gateways send")),
            Frame::Recall(id) => Err(unexpected("RECALL", id, "which only gateways send")),
            _ => Err(unexpected("TOPOLOGY", StreamId(0), "which only gateways send")),
        }
    }

    fn handle_at_worker(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Open(id, open) => {
                if id <= self.last_stream {
                    return Err(unexpected("OPEN", id, "which was opened before"));
                }
                self.last_stream = id;
                self.streams.insert(id, Stream::new(open.window));
                self.events.push_back(Event::Open(id, open));
                Ok(())
            }
            Frame::Recall(id) => {
                if let Some(stream) = self.find(id, "RECALL", &[Phase::Open])? {
                    stream.phase = Phase::Recalled;
                    self.events.push_back(Event::Recall(id));
                }
                Ok(())
            }
            Frame::Topology(topology) => {
                self.events.push_back(Event::Topology(topology));
                Ok(())
            }
            Frame::Opened(id, _) => Err(unexpected("OPENED", id, "which only workers send")),
            Frame::Refused(id, _) => Err(unexpected("REFUSED", id, "which only workers send")),
            _ => Err(unexpected("MOVED", StreamId(0), "which only workers send")),
        }
    }

    fn handle_hello(&mut self, now: Instant, theirs: Hello) -> Result<(), LinkError> {
        let ours = &self.ours;
        if theirs.protocol_max < *PROTOCOL.start() || theirs.protocol_min > *PROTOCOL.end() {
            return Err(LinkError::Version {
                ours_min: *PROTOCOL.start(),
                ours_max: *PROTOCOL.end(),
                theirs_min: theirs.protocol_min,
                theirs_max: theirs.protocol_max,
            });
        }
        if theirs.cluster != ours.cluster {
            let (ours, theirs) = (ours.cluster.clone(), theirs.cluster);
            return Err(LinkError::WrongCluster { ours, theirs });
        }
        if theirs.index != ours.index {
            let (gateway, worker) = match self.side {
                Side::Gateway => (ours.index, theirs.index),
                Side::Worker => (theirs.index, ours.index),
            };
            return Err(LinkError::WrongIndex { gateway, worker });
        }
        self.state = State::Active;
        self.peer_max_message = theirs.max_message;
        self.pulse.start(now);
        self.events.push_back(Event::Connected(theirs));
        Ok(())
    }

    fn handle_data(&mut self, id: StreamId, data: Data) -> Result<(), LinkError> {
        let begins = data.start.is_some() && !data.fin;
        let max_message = self.ours.max_message;
        let attached: &[_] = match self.side {
            Side::Gateway => &[Phase::Open, Phase::Recalled],
            Side::Worker => &[Phase::Open],
        };
        let Some(stream) = self.find(id, "DATA", attached)? else { return Ok(()) };
        let message = stream.receive_part(data, max_message).map_err(|error| match error {
            PartError::NotGranted => LinkError::CreditExceeded(id),
            PartError::TooLong(length) => {
                LinkError::TooLong { length: u64::from(length), limit: max_message }
            }
            PartError::OutOfPlace(why) => unexpected("DATA", id, why),
        })?;
        if let Some(message) = message {
            let reserved = std::mem::take(&mut stream.reserved);
            self.events.push_back(Event::Message(id, message));
            self.release(reserved);
        } else if begins {
            self.starved.push_back(id);
            self.feed_starved();
        }
        Ok(())
    }

    fn handle_credit(&mut self, id: StreamId, bytes: u32) -> Result<(), LinkError> {
        let attached = [Phase::Open, Phase::Recalled];
        let Some(stream) = self.find(id, "CREDIT", &attached)? else { return Ok(()) };
        if !stream.grant(bytes) {
            return Err(LinkError::CreditOverflow(id));
        }
        if stream.has_part() {
            self.enqueue(id);
        } else {
            self.tell_writable(id);
        }
        Ok(())
    }

    fn handle_end(
        &mut self,
        id: StreamId,
        kind: &'static str,
        phases: &[Phase],
        event: Event,
    ) -> Result<(), LinkError> {
        if self.find(id, kind, phases)?.is_some() {
            self.forget(id);
            self.events.push_back(event);
        }
        Ok(())
    }

    /// The stream a frame names; `None` if it is gone, because frames cross on the wire.
    fn find(
        &mut self,
        id: StreamId,
        kind: &'static str,
        phases: &[Phase],
    ) -> Result<Option<&mut Stream>, LinkError> {
        match self.streams.get_mut(&id) {
            Some(stream) if phases.contains(&stream.phase) => Ok(Some(stream)),
            Some(stream) => Err(unexpected(
                kind,
                id,
                match stream.phase {
                    Phase::Opening => "which is not attached yet",
                    Phase::Open => "which is attached",
                    Phase::Recalled => "which was recalled",
                },
            )),
            None if id <= self.last_stream => Ok(None),
            None => Err(unexpected(kind, id, "which was never opened")),
        }
    }

    // --- what the owner of the link does --------------------------------------------------------

    /// Gateway: asks for a channel. `None` when the link is not active.
    pub fn open(&mut self, open: Open) -> Option<StreamId> {
        if self.state != State::Active || self.last_stream.0 == u32::MAX {
            return None;
        }
        let id = StreamId(self.last_stream.0 + 1);
        self.last_stream = id;
        // The worker's window is not known yet; `opened` replaces this one.
        self.streams.insert(id, Stream::new(0));
        Frame::Open(id, Box::new(open)).encode(&mut self.out);
        Some(id)
    }

    /// Worker: the channel is attached.
    pub fn accept(&mut self, id: StreamId, opened: Opened) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.opened(None);
            Frame::Opened(id, opened).encode(&mut self.out);
        }
    }

    /// Worker: the channel is not attached.
    pub fn refuse(&mut self, id: StreamId, refused: Refused) {
        if self.forget(id) {
            Frame::Refused(id, refused).encode(&mut self.out);
        }
    }

    /// Gateway: the worker shall commit and release the stream's session.
    pub fn recall(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.phase == Phase::Open
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

    /// The stream ends. What was sent before arrives before; a message in parts is cut off.
    pub fn close(&mut self, id: StreamId, code: CloseCode) {
        if self.forget(id) {
            Frame::Close(id, code).encode(&mut self.out);
        }
    }

    /// Gateway: tells the worker the newest topology.
    pub fn topology(&mut self, topology: Topology) {
        Frame::Topology(topology).encode(&mut self.urgent);
    }

    /// Takes no new streams from now on, and tells the peer so.
    pub fn go_away(&mut self, code: GoAway) {
        self.state = State::Draining;
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
            stream.wanted = true;
            return false;
        }
        let length = body.len() as u32;
        debug_assert!(length <= self.peer_max_message);
        stream.start_message(Start { number, length, binary }, body.clone());
        if self.out.len() < LINK_HIGH_WATER && self.ready.is_empty() {
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
        !(self.urgent.is_empty() && self.out.is_empty() && self.ready.is_empty())
    }

    /// Moves what is to be sent into `into`, which must be empty: link frames first, then what was
    /// queued, then parts of long messages in turn, one of each stream.
    pub fn poll_transmit(&mut self, into: &mut BytesMut) {
        debug_assert!(into.is_empty());
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
                stream.reserved = lacks;
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
        LinkError::Silent(_) => None,
        LinkError::Malformed(_)
        | LinkError::Unexpected { .. }
        | LinkError::CreditExceeded(_)
        | LinkError::CreditOverflow(_)
        | LinkError::TooLong { .. }
        | LinkError::NoHello => Some(GoAway::Protocol),
    }
}

fn unexpected(kind: &'static str, stream: StreamId, why: &'static str) -> LinkError {
    LinkError::Unexpected { kind, stream, why }
}

/// PING, PONG and silence.
#[derive(Debug)]
struct Pulse {
    hello_deadline: Instant,
    last_arrival: Instant,
    next_ping: Instant,
    pings: u64,
    sent_at: Option<Instant>,
    round_trip: Option<Duration>,
}

impl Pulse {
    fn new(now: Instant) -> Self {
        Self {
            hello_deadline: now + HELLO_TIMEOUT,
            last_arrival: now,
            next_ping: now,
            pings: 0,
            sent_at: None,
            round_trip: None,
        }
    }

    fn start(&mut self, now: Instant) {
        self.last_arrival = now;
        self.next_ping = now + PING_INTERVAL;
    }

    fn next_timeout(&self) -> Instant {
        self.next_ping.min(self.last_arrival + DEAD_AFTER)
    }

    fn ping_due(&mut self, now: Instant) -> Option<u64> {
        if now < self.next_ping {
            return None;
        }
        self.next_ping = now + PING_INTERVAL;
        self.pings += 1;
        self.sent_at = Some(now);
        Some(self.pings)
    }

    fn pong(&mut self, number: u64, now: Instant) {
        if number == self.pings
            && let Some(sent_at) = self.sent_at.take()
        {
            self.round_trip = Some(now - sent_at);
        }
    }
}
