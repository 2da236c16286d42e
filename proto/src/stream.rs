//! State of one stream of a link: its phase, its credit both ways, and the one message in each
//! direction that is on its way in parts. Knows nothing of other streams or of bytes on the wire.
//!
//! ```text
//!           OPEN              OPENED             RECALL                MOVED
//!   (none) ──────▶ Opening ──────────▶ Open ────────────▶ Recalled ──────────▶ gone
//!                     │ REFUSED         │ CLOSE or RESET      │ CLOSE or RESET
//!                     ▼ CLOSE           ▼ of either side      ▼ of either side
//!                   gone              gone                  gone
//! ```
//!
//! RECALL may come again while the stream is recalled. Both sides keep the same picture: the gateway moves when it sends OPEN, RECALL and when the
//! answers arrive, the worker when they arrive and when it answers.

use bytes::{Bytes, BytesMut};

use crate::credit::{ReceiveCredit, SendCredit};
use crate::frame::{Data, MAX_PART, Start};

/// Where the stream stands; see the module's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Open,
    Recalled,
}

/// A whole message, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Number of the input, or revision of the output.
    pub number: u64,
    /// Binary message; else text.
    pub binary: bool,
    /// What the client or the app sent, untouched.
    pub body: Bytes,
}

/// Why a part does not fit what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartError {
    NotGranted,
    TooLong(u32),
    OutOfPlace(&'static str),
}

#[derive(Debug)]
struct Incoming {
    start: Start,
    body: BytesMut,
}

#[derive(Debug)]
struct Outgoing {
    start: Start,
    body: Bytes,
    sent: usize,
}

/// A part that may go now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: Option<Start>,
    pub(crate) fin: bool,
    pub(crate) bytes: Bytes,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) phase: Phase,
    send: SendCredit,
    pub(crate) receive: ReceiveCredit,
    incoming: Option<Box<Incoming>>,
    outgoing: Option<Box<Outgoing>>,
    /// A `send` was turned away; its caller is told when there is room again.
    pub(crate) wanted: bool,
    /// Stands in the link's queue of streams with parts to send.
    pub(crate) queued: bool,
    /// What of the link's reassembly budget the message being put together holds.
    pub(crate) reserved: u64,
}

impl Stream {
    /// A stream whose windows are as the sides have told each other so far; 0 is not yet.
    pub(crate) fn new(send_window: u32, receive_window: u32) -> Self {
        Self {
            phase: Phase::Opening,
            send: SendCredit::new(send_window),
            receive: ReceiveCredit::new(receive_window),
            incoming: None,
            outgoing: None,
            wanted: false,
            queued: false,
            reserved: 0,
        }
    }

    /// The peer has told what it takes at first.
    pub(crate) fn sends(&mut self, window: u32) {
        self.send = SendCredit::new(window);
    }

    /// The peer was told what this side takes at first.
    pub(crate) fn receives(&mut self, window: u32) {
        self.receive = ReceiveCredit::new(window);
    }

    /// Adds a grant of the peer; `false` when it is beyond counting.
    #[must_use]
    pub(crate) fn grant(&mut self, bytes: u32) -> bool {
        self.send.grant(bytes)
    }

    /// Whether `start_message` would take a message.
    pub(crate) fn writable(&self) -> bool {
        self.outgoing.is_none() && self.send.room(true).is_some()
    }

    /// Takes the credit for a whole message that goes at once; `false` when it has to go in parts.
    /// Only when writable.
    #[must_use]
    pub(crate) fn send_whole(&mut self, length: usize) -> bool {
        let fits = length <= MAX_PART && self.send.room(true).is_some_and(|r| r >= length as u64);
        if fits {
            self.send.take(true, length);
        }
        fits
    }

    /// Takes a message to send in parts. Only when writable.
    pub(crate) fn start_message(&mut self, start: Start, body: Bytes) {
        debug_assert!(self.writable());
        self.outgoing = Some(Box::new(Outgoing { start, body, sent: 0 }));
    }

    /// The next part that credit allows.
    pub(crate) fn next_part(&mut self) -> Option<Part> {
        let outgoing = self.outgoing.as_mut()?;
        let first = outgoing.sent == 0;
        let room = self.send.room(first)?;
        let rest = outgoing.body.len() - outgoing.sent;
        let length = rest.min(MAX_PART).min(usize::try_from(room).unwrap_or(usize::MAX));
        if length == 0 && rest > 0 {
            return None;
        }
        self.send.take(first, length);
        let bytes = outgoing.body.slice(outgoing.sent..outgoing.sent + length);
        outgoing.sent += length;
        let part = Part { start: first.then_some(outgoing.start), fin: length == rest, bytes };
        if part.fin {
            self.outgoing = None;
        }
        Some(part)
    }

    /// Bytes of a message that is on its way in parts and are still here.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.body.len() - outgoing.sent)
    }

    /// Whether nothing is on its way, and nothing can be before the peer grants more.
    pub(crate) fn lacks_credit(&self) -> bool {
        self.outgoing.is_none() && self.send.room(true).is_none()
    }

    /// Whether a part could go now.
    pub(crate) fn has_part(&self) -> bool {
        self.outgoing.as_ref().is_some_and(|outgoing| {
            let rest = outgoing.body.len() - outgoing.sent;
            self.send.room(outgoing.sent == 0).is_some_and(|room| room > 0 || rest == 0)
        })
    }

    /// Takes a part that arrived; returns the message that it completes.
    pub(crate) fn receive_part(
        &mut self,
        data: Data,
        max_message: u32,
    ) -> Result<Option<Message>, PartError> {
        let Data { start, fin, part } = data;
        if !self.receive.receive(start.is_some(), part.len()) {
            return Err(PartError::NotGranted);
        }
        match (start, self.incoming.take()) {
            (Some(_), Some(_)) => {
                Err(PartError::OutOfPlace("before the message in parts was whole"))
            }
            (None, None) => Err(PartError::OutOfPlace("which continues no message")),
            (Some(start), None) => {
                if start.length > max_message {
                    return Err(PartError::TooLong(start.length));
                }
                check_length(start, part.len(), part.len(), fin)?;
                if fin {
                    let Start { number, binary, .. } = start;
                    return Ok(Some(Message { number, binary, body: part }));
                }
                self.incoming = Some(Box::new(Incoming { start, body: BytesMut::from(part) }));
                Ok(None)
            }
            (None, Some(mut incoming)) => {
                let Incoming { start, body } = &mut *incoming;
                check_length(*start, body.len() + part.len(), part.len(), fin)?;
                body.extend_from_slice(&part);
                if fin {
                    let Incoming { start: Start { number, binary, .. }, body } = *incoming;
                    return Ok(Some(Message { number, binary, body: body.freeze() }));
                }
                self.incoming = Some(incoming);
                Ok(None)
            }
        }
    }

    /// Bytes that the message being put together still lacks; 0 if there is none.
    pub(crate) fn missing(&self) -> usize {
        self.incoming
            .as_ref()
            .map_or(0, |incoming| incoming.start.length as usize - incoming.body.len())
    }
}

fn check_length(start: Start, arrived: usize, part: usize, fin: bool) -> Result<(), PartError> {
    let length = start.length as usize;
    match arrived.cmp(&length) {
        std::cmp::Ordering::Greater => {
            Err(PartError::OutOfPlace("longer than its first part said"))
        }
        std::cmp::Ordering::Equal if !fin => {
            Err(PartError::OutOfPlace("whole, but not marked as its last part"))
        }
        std::cmp::Ordering::Less if fin => {
            Err(PartError::OutOfPlace("shorter than its first part said"))
        }
        std::cmp::Ordering::Less if part == 0 => Err(PartError::OutOfPlace("an empty part")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MESSAGE_COST, WINDOW};

    fn start(length: usize) -> Start {
        Start { number: 1, length: length as u32, binary: false }
    }

    fn data(start: Option<Start>, fin: bool, length: usize) -> Data {
        Data { start, fin, part: Bytes::from(vec![0; length]) }
    }

    #[test]
    fn a_message_within_the_window_goes_in_one_part() {
        let mut stream = Stream::new(WINDOW, WINDOW);
        stream.start_message(start(5), Bytes::from_static(b"hello"));
        let part = stream.next_part().unwrap();
        assert_eq!((part.start, part.fin, &part.bytes[..]), (Some(start(5)), true, &b"hello"[..]));
        assert!(stream.writable());
    }

    #[test]
    fn an_empty_message_is_a_message() {
        let mut stream = Stream::new(MESSAGE_COST, WINDOW);
        stream.start_message(start(0), Bytes::new());
        assert!(stream.has_part());
        assert!(stream.next_part().unwrap().fin);
        assert!(!stream.writable(), "it has paid for its bookkeeping");
    }

    #[test]
    fn a_message_beyond_the_window_stops_until_more_is_granted() {
        let mut stream = Stream::new(MESSAGE_COST + 3, WINDOW);
        stream.start_message(start(5), Bytes::from_static(b"hello"));
        assert_eq!(&stream.next_part().unwrap().bytes[..], b"hel");
        assert_eq!(stream.next_part(), None);
        assert!(!stream.writable());
        assert!(stream.grant(2));
        let part = stream.next_part().unwrap();
        assert_eq!((part.start, part.fin, &part.bytes[..]), (None, true, &b"lo"[..]));
    }

    #[test]
    fn parts_that_do_not_add_up_to_the_stated_length_are_refused() {
        for (parts, why) in [
            (vec![data(Some(start(2)), false, 2)], "whole, but not marked as its last part"),
            (vec![data(Some(start(2)), true, 1)], "shorter than its first part said"),
            (vec![data(Some(start(2)), true, 3)], "longer than its first part said"),
            (vec![data(Some(start(2)), false, 0)], "an empty part"),
            (vec![data(None, true, 2)], "which continues no message"),
            (
                vec![data(Some(start(2)), false, 1), data(Some(start(2)), true, 2)],
                "before the message in parts was whole",
            ),
        ] {
            let mut stream = Stream::new(WINDOW, WINDOW);
            let results: Vec<_> =
                parts.into_iter().map(|part| stream.receive_part(part, 100)).collect();
            assert_eq!(results.last().unwrap(), &Err(PartError::OutOfPlace(why)));
        }
    }

    #[test]
    fn a_stated_length_beyond_the_limit_is_refused_at_its_first_part() {
        let mut stream = Stream::new(WINDOW, WINDOW);
        let first = data(Some(start(101)), false, 1);
        assert_eq!(stream.receive_part(first, 100), Err(PartError::TooLong(101)));
    }
}
