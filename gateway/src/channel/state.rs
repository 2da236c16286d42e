//! What a channel keeps: inputs until they are acknowledged, outputs until its socket takes them, and
//! where both are. Says what came of it; who has to act is told by its [`Channel`](super::Channel).

use std::collections::VecDeque;
use std::time::Instant;

use single_state_proto::browser::OutputFrame;
use single_state_proto::channel::ClientHalf;
use single_state_proto::frame::{Durability, Opened};
use single_state_proto::id::{Epoch, Revision};
use single_state_proto::link::Message;

use super::numbered::Numbered;
use super::stream::Stream;
use crate::metrics::Metrics;
use crate::throttle::Throttle;
use crate::websocket::{Closing, Envelope, WebSocket};

#[derive(Debug)]
pub(super) struct State {
    pub(super) inputs: ClientHalf,
    pub(super) stream: Option<Stream>,
    /// The id was minted for this connection, and no worker was asked for it yet.
    pub(super) fresh: bool,
    /// A worker had attached this channel before.
    pub(super) opened_before: bool,
    /// Newest epoch that a worker named.
    pub(super) epoch: Epoch,
    /// What the page has, as far as its socket took it.
    pub(super) seen: Option<(Epoch, Revision)>,
    /// Absent until the upgrade is done.
    pub(super) socket: Option<WebSocket>,
    /// Outputs that came before the socket, or that it does not take now.
    pub(super) outputs: VecDeque<Message>,
    /// Bytes of the output of which the kernel has taken a part.
    pub(super) writing: Option<usize>,
    pub(super) closing: Option<Closing>,
    /// How its last worker left it, until another one has it.
    pub(super) parted: Option<(Parting, Instant)>,
    /// What an acknowledgement of its session means.
    pub(super) durability: Option<Durability>,
    pub(super) messages: Throttle,
    pub(super) bytes: Throttle,
    /// When the browser was last heard, and whether it was asked since whether it is there.
    pub(super) heard: Instant,
    pub(super) asked: bool,
    /// What a plain page does not need.
    pub(super) numbered: Option<Box<Numbered>>,
}

/// What became of what was there for the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It took all of it.
    All,
    /// It takes no more now.
    Blocked,
    /// It takes nothing any more.
    Broken,
}

/// How a worker and a channel part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// The worker handed the session over.
    Handoff,
    /// The link broke.
    Failover,
    /// The session was lost to another owner, or went back to its last commit.
    Reset,
}

/// What becomes of what a page has of its session's outputs when a worker attaches its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mirror {
    /// It has nothing, and the full picture follows.
    Begins,
    /// What follows continues it.
    GoesOn,
    /// It may hold what the session does not know: a full picture follows.
    Discarded,
}

impl State {
    pub(super) fn new(fresh: bool) -> Self {
        let now = Instant::now();
        Self {
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
            parted: None,
            durability: None,
            messages: Throttle::new(now),
            bytes: Throttle::new(now),
            heard: now,
            asked: false,
            numbered: None,
        }
    }

    /// A worker has attached the channel. What becomes of the page's mirror; `None` when the worker
    /// names inputs that were never sent.
    pub(super) fn opened(&mut self, opened: &Opened) -> Option<Mirror> {
        let is_first = !std::mem::replace(&mut self.opened_before, true);
        self.epoch = self.epoch.max(opened.epoch);
        self.durability = Some(opened.durability);
        let mirror = match self.seen {
            Some(_) if opened.resumed => Mirror::GoesOn,
            Some(_) => Mirror::Discarded,
            None if is_first => Mirror::Begins,
            None => Mirror::Discarded,
        };
        let seen = match self.seen {
            Some((_, revision)) if opened.resumed => revision,
            _ => Revision(0),
        };
        self.seen = Some((opened.epoch, seen));
        if is_first && self.numbered.is_some() {
            // Its earlier inputs came over other connections, if there were any.
            self.inputs.begin(opened.applied);
        } else {
            self.inputs.attached(opened.applied).ok()?;
        }
        if let Some(stream) = &mut self.stream {
            stream.opened = true;
        }
        Some(mirror)
    }

    /// Hands unsent inputs to the stream until it takes no more; `false` when the next one is
    /// longer than the worker takes.
    pub(super) fn forward(&mut self) -> bool {
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

    /// Writes to the socket until it is blocked: first what the gateway says itself.
    pub(super) fn deliver(&mut self, metrics: &Metrics) -> Delivered {
        while let Some(socket) = &mut self.socket {
            if socket.is_blocked() {
                return Delivered::Blocked;
            }
            if let Some(length) = self.writing.take() {
                self.taken(length);
                continue;
            }
            if let Some(said) = self.numbered.as_mut().and_then(|numbered| numbered.next_said()) {
                if socket.send(false, Envelope::NONE, said).is_err() {
                    return Delivered::Broken;
                }
                continue;
            }
            let Some(Message { number, binary, body }) = self.outputs.pop_front() else { break };
            let length = body.len();
            metrics.messages_out.inc();
            metrics.bytes_out.inc_by(length as u64);
            let sent = if self.numbered.is_some() {
                let frame = OutputFrame::new(Revision(number), binary);
                let envelope = Envelope { before: frame.head(), after: frame.tail };
                socket.send(binary, envelope, body)
            } else {
                socket.send(binary, Envelope::NONE, body)
            };
            if sent.is_err() {
                return Delivered::Broken;
            }
            self.writing = Some(length);
            self.saw(Revision(number));
        }
        Delivered::All
    }

    /// Outputs that were taken and not acknowledged.
    pub(super) fn unreported(&self) -> u32 {
        self.stream.as_ref().map_or(0, Stream::unreported)
    }

    fn saw(&mut self, revision: Revision) {
        if let Some(seen) = &mut self.seen {
            seen.1 = revision;
        }
        if let Some(stream) = &mut self.stream {
            stream.saw(revision);
        }
        if let Some(numbered) = &mut self.numbered {
            numbered.sent(revision);
        }
    }

    /// The socket has taken an output of so many bytes.
    fn taken(&mut self, length: usize) {
        if let Some(stream) = &mut self.stream {
            stream.consumed(length);
            // A client that numbers its inputs says itself what it has taken.
            if self.numbered.is_none() {
                stream.count_taken(length);
            }
        }
    }

    /// The worker that had the channel does not any more; another one will.
    pub(super) fn part(&mut self, parting: Parting) {
        self.park();
        self.parted.get_or_insert_with(|| (parting, Instant::now()));
    }

    /// No worker has the channel any more.
    pub(super) fn park(&mut self) {
        self.stream = None;
        // What the next owner sends depends on what the page has seen; these it has not.
        self.outputs.clear();
        self.writing = None;
    }
}
