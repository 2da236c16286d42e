//! Two links joined in virtual time: a clock that the test moves, and a pipe each way whose bytes can be
//! held back, delayed and cut into pieces of any size.
//!
//! The pair does what the shells around a link do, and no more: it moves bytes, calls timeouts when they
//! are due, and collects events. Messages are consumed by the test only.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use single_state_proto::credit::message_cost;
use single_state_proto::decoder::Decoder;
use single_state_proto::error::LinkError;
use single_state_proto::frame::{Durability, Frame, Hello, Open, Opened, Skipped};
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, Generation, Incarnation, InputNumber, Revision, StreamId,
    WorkerIndex,
};
use single_state_proto::key::{LinkKeys, Nonce};
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL, WINDOW};
use single_state_proto::link::{Event, Link, Message, Side, goaway_for};

/// A gateway's and a worker's end of one link.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) gateway: End,
    pub(crate) worker: End,
}

/// One end, with all that arrived at it.
pub(crate) struct End {
    pub(crate) link: Link,
    /// Why this end gave the link up. It has said so if it could, and takes and says nothing more.
    pub(crate) error: Option<LinkError>,
    /// Every frame that arrived, in order.
    pub(crate) frames: Vec<Frame>,
    /// What the messages that arrived on each stream, and their parts, have cost.
    pub(crate) received: BTreeMap<StreamId, u64>,
    /// What this end has sent and the other has not read.
    pub(crate) pipe: Pipe,
    decoder: Decoder,
    events: VecDeque<Event>,
}

/// Bytes on their way.
#[derive(Default)]
pub(crate) struct Pipe {
    /// Nothing arrives while it is held.
    pub(crate) held: bool,
    /// What is sent from now on takes so long.
    pub(crate) delay: Duration,
    /// Sizes of the pieces in which bytes are read, used in turn; empty: as they were written.
    pub(crate) cut: Vec<usize>,
    cuts: usize,
    bytes: VecDeque<(Instant, Bytes)>,
}

impl Pair {
    /// Two ends that have not heard of each other.
    pub(crate) fn new() -> Self {
        Self::with(hello(), hello())
    }

    /// Two ends that say these HELLOs.
    pub(crate) fn with(gateway: Hello, worker: Hello) -> Self {
        let now = Instant::now();
        let gateway = End::new(Link::new(Side::Gateway, gateway, now));
        let worker = End::new(Link::new(Side::Worker, worker, now));
        Self { now, gateway, worker }
    }

    /// Two ends with these link keys, each key one hex digit, the first proves; empty: without.
    pub(crate) fn keyed(gateway: &str, worker: &str) -> Self {
        let mut pair = Self::new();
        for (side, digits) in [(Side::Gateway, gateway), (Side::Worker, worker)] {
            if !digits.is_empty() {
                let link = Link::new(side, hello(), pair.now);
                pair.end(side).link = link.with_keys(keys(digits), nonce(side));
            }
        }
        pair
    }

    /// Two ends that have exchanged HELLO.
    pub(crate) fn connected() -> Self {
        let mut pair = Self::new();
        pair.connect();
        pair
    }

    /// Exchanges HELLO, which must go well.
    pub(crate) fn connect(&mut self) {
        self.run();
        assert!(self.gateway.link.is_active() && self.worker.link.is_active());
        self.gateway.events();
        self.worker.events();
    }

    /// Opens a stream and accepts it, when nothing else is on its way.
    pub(crate) fn attach(&mut self) -> StreamId {
        let id = self.gateway.link.open(open("alice")).expect("an active link");
        self.run();
        self.worker.link.accept(id, opened());
        self.run();
        assert!(matches!(self.worker.events()[..], [Event::Open(open, _)] if open == id));
        assert_eq!(self.gateway.events(), [Event::Opened(id, opened())]);
        id
    }

    /// So many streams.
    pub(crate) fn attach_all(&mut self, count: usize) -> Vec<StreamId> {
        (0..count).map(|_| self.attach()).collect()
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Gateway => &mut self.gateway,
            Side::Worker => &mut self.worker,
        }
    }

    /// One write of one end: what it has to send now goes into its pipe. `false` if that is nothing.
    pub(crate) fn transmit(&mut self, from: Side) -> bool {
        let now = self.now;
        self.end(from).transmit(now)
    }

    /// Lets one end read all that has reached it by now. `false` if that is nothing.
    pub(crate) fn deliver(&mut self, to: Side) -> bool {
        let (now, from) = (self.now, other(to));
        let mut arrived = false;
        while let Some(bytes) = self.end(from).pipe.read(now) {
            self.end(to).read(now, bytes);
            arrived = true;
        }
        arrived
    }

    /// Lets both ends write and read until nothing moves any more at this time.
    pub(crate) fn run(&mut self) {
        loop {
            let mut moved = false;
            for side in [Side::Gateway, Side::Worker] {
                moved |= self.transmit(side);
                moved |= self.deliver(other(side));
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves the clock, and stops wherever something arrives or a timeout is due.
    pub(crate) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            self.run();
            for side in [Side::Gateway, Side::Worker] {
                let now = self.now;
                self.end(side).handle_timeout(now);
            }
            self.run();
            let next = [Side::Gateway, Side::Worker].iter().filter_map(|side| {
                let end = self.end(*side);
                end.next_timeout().into_iter().chain(end.pipe.next_arrival()).min()
            });
            match next.min() {
                Some(next) if next <= until => {
                    assert!(next > self.now, "a timeout that was handled is due again");
                    self.now = next;
                }
                _ => break,
            }
        }
        self.now = until;
    }

    /// One end gets a frame that the other never sent.
    pub(crate) fn inject(&mut self, to: Side, frame: Frame) -> Result<(), LinkError> {
        let now = self.now;
        self.end(to).link.handle_frame(now, frame)
    }
}

impl End {
    fn new(link: Link) -> Self {
        Self {
            link,
            error: None,
            frames: Vec::new(),
            received: BTreeMap::new(),
            pipe: Pipe::default(),
            decoder: Decoder::new(),
            events: VecDeque::new(),
        }
    }

    /// What happened since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.collect_events();
        self.events.drain(..).collect()
    }

    /// The messages among what happened since the last call.
    pub(crate) fn messages(&mut self) -> Vec<(StreamId, Message)> {
        let messages = self.events().into_iter().filter_map(|event| match event {
            Event::Message(id, message) => Some((id, message)),
            _ => None,
        });
        messages.collect()
    }

    /// Sends a text message; `false` if it was turned away.
    pub(crate) fn send(&mut self, id: StreamId, number: u64, body: impl Into<Bytes>) -> bool {
        self.link.send(id, number, false, &body.into())
    }

    fn transmit(&mut self, now: Instant) -> bool {
        self.collect_events();
        if self.error.is_some() || !self.link.wants_transmit() {
            return false;
        }
        let mut bytes = BytesMut::new();
        self.link.poll_transmit(&mut bytes);
        self.collect_events();
        let sent = !bytes.is_empty();
        if sent {
            self.pipe.write(now, bytes.freeze());
        }
        sent
    }

    fn read(&mut self, now: Instant, bytes: Bytes) {
        if self.error.is_none()
            && let Err(error) = self.try_read(now, &bytes)
        {
            self.give_up(now, error);
        }
        self.collect_events();
    }

    fn try_read(&mut self, now: Instant, bytes: &[u8]) -> Result<(), LinkError> {
        self.link.bytes_arrived(now);
        self.decoder.buffer().extend_from_slice(bytes);
        while let Some(frame) = self.decoder.decode()? {
            self.count(&frame);
            self.frames.push(frame.clone());
            self.link.handle_frame(now, frame)?;
        }
        Ok(())
    }

    fn count(&mut self, frame: &Frame) {
        if let Frame::Data(id, data) = frame {
            let length = data.part.len();
            let cost = if data.start.is_some() { message_cost(length) } else { length as u64 };
            *self.received.entry(*id).or_default() += cost;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.next_timeout().is_some_and(|due| due <= now)
            && let Err(error) = self.link.handle_timeout(now)
        {
            self.give_up(now, error);
        }
    }

    /// Sends what waits, and why it is the last.
    fn give_up(&mut self, now: Instant, error: LinkError) {
        if let Some(code) = goaway_for(&error) {
            self.link.go_away(code);
            self.transmit(now);
        }
        self.error = Some(error);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.error.is_none().then(|| self.link.poll_timeout())
    }

    fn collect_events(&mut self) {
        while let Some(event) = self.link.poll_event() {
            self.events.push_back(event);
        }
    }
}

impl Pipe {
    fn write(&mut self, now: Instant, bytes: Bytes) {
        self.bytes.push_back((now + self.delay, bytes));
    }

    fn read(&mut self, now: Instant) -> Option<Bytes> {
        if self.next_arrival()? > now {
            return None;
        }
        let (at, mut bytes) = self.bytes.pop_front()?;
        if !self.cut.is_empty() {
            let piece = self.cut[self.cuts % self.cut.len()].max(1);
            self.cuts += 1;
            if piece < bytes.len() {
                let rest = bytes.split_off(piece);
                self.bytes.push_front((at, rest));
            }
        }
        Some(bytes)
    }

    fn next_arrival(&self) -> Option<Instant> {
        if self.held { None } else { self.bytes.front().map(|(at, _)| *at) }
    }
}

pub(crate) fn other(side: Side) -> Side {
    match side {
        Side::Gateway => Side::Worker,
        Side::Worker => Side::Gateway,
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        protocol_min: *PROTOCOL.start(),
        protocol_max: *PROTOCOL.end(),
        max_message: MAX_MESSAGE,
        generation: Generation(1),
        index: WorkerIndex(2),
        incarnation: Incarnation(3),
        cluster: "test".to_owned(),
        build: "0.1.0".to_owned(),
        nonce: None,
    }
}

/// A HELLO of an end that has keys.
pub(crate) fn keyed_hello(nonce: Nonce) -> Hello {
    Hello { nonce: Some(nonce), ..hello() }
}

/// The nonce that this side draws in tests.
pub(crate) fn nonce(side: Side) -> Nonce {
    match side {
        Side::Gateway => Nonce([0x11; Nonce::LEN]),
        Side::Worker => Nonce([0x22; Nonce::LEN]),
    }
}

/// A ring of keys, each of one hex digit.
pub(crate) fn keys(digits: &str) -> LinkKeys {
    let lines: Vec<_> = digits.chars().map(|digit| digit.to_string().repeat(64)).collect();
    LinkKeys::parse(&lines.join("\n")).expect("keys")
}

pub(crate) fn open(session: &str) -> Open {
    Open {
        session: session.parse().expect("a session id"),
        channel: "channel-1".parse().expect("a channel id"),
        attach: Attach(1),
        connection: ConnectionId(7),
        generation: Generation(1),
        skipped: Skipped::default(),
        seen: None,
        min_epoch: Epoch(0),
        fresh: false,
        recovered: false,
        window: WINDOW,
        identity: None,
    }
}

pub(crate) fn opened() -> Opened {
    Opened {
        epoch: Epoch(1),
        applied: Some(InputNumber(0)),
        revision: Revision(0),
        resumed: false,
        window: WINDOW,
        durability: Durability::Relaxed,
    }
}
