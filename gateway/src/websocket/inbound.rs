//! Bytes of a browser become messages: frames by RFC 6455, fragments put together, limits checked
//! before anything is waited for. Pure: knows no socket.

use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::{Closing, MessageLimits, Received};

/// Longest payload of a ping, pong or close.
const MAX_CONTROL: usize = 125;
/// Fragments of one message: many tiny ones cost more than they carry.
const MAX_FRAGMENTS: u32 = 256;

/// What comes next of a browser.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing until more bytes arrive.
    Incomplete,
    Message(Received),
    /// To be answered with a pong and the same payload.
    Ping(Bytes),
    Pong,
    /// To be answered with the same payload.
    Close(Bytes),
}

/// The reading side of a websocket.
#[derive(Debug)]
pub(crate) struct Inbound {
    limits: MessageLimits,
    /// A frame that is not whole yet, or frames that nobody took; empty while the browser is quiet.
    rest: BytesMut,
    /// A message in fragments.
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug)]
struct Fragments {
    binary: bool,
    body: BytesMut,
    count: u32,
}

const NOT_WEBSOCKET: Closing = Closing { code: 1002, reason: "this is not the websocket protocol" };
const NOT_UTF8: Closing = Closing { code: 1007, reason: "a text message must be UTF-8" };
const TOO_LONG: Closing = Closing {
    code: 1009,
    reason: "this message, or a frame of it, is longer than the server takes",
};

impl Inbound {
    pub(crate) fn new(read: &[u8], limits: MessageLimits) -> Self {
        Self { limits, rest: BytesMut::from(read), fragments: None }
    }

    /// Keeps what was not worked through.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next step, from what was kept and then from `bytes`, of which it takes what it uses.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Result<Step, Closing> {
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(bytes);
            *bytes = &[];
            return self.next_kept();
        }
        let Some((header, head, length)) = self.parse(bytes)? else {
            self.rest.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(Step::Incomplete);
        };
        let payload = BytesMut::from(&bytes[head..head + length]);
        bytes.advance(head + length);
        self.frame(&header, payload)
    }

    fn next_kept(&mut self) -> Result<Step, Closing> {
        let kept = std::mem::take(&mut self.rest);
        let Some((header, head, length)) = self.parse(&kept)? else {
            self.rest = kept;
            return Ok(Step::Incomplete);
        };
        let mut kept = kept;
        let mut payload = kept.split_to(head + length);
        payload.advance(head);
        if !kept.is_empty() {
            self.rest = kept;
        }
        self.frame(&header, payload)
    }

    /// Head, its length and the payload's length of the frame at the beginning of `bytes`, if it is
    /// whole. What its head says is checked as soon as it is there.
    fn parse(&self, bytes: &[u8]) -> Result<Option<(FrameHeader, usize, usize)>, Closing> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| NOT_WEBSOCKET)?;
        let Some((header, length)) = parsed else { return Ok(None) };
        self.check(&header, length)?;
        let (head, length) = (cursor.position() as usize, length as usize);
        Ok((bytes.len() >= head + length).then_some((header, head, length)))
    }

    fn check(&self, header: &FrameHeader, length: u64) -> Result<(), Closing> {
        if header.rsv1 || header.rsv2 || header.rsv3 || header.mask.is_none() {
            return Err(NOT_WEBSOCKET);
        }
        let limit = match header.opcode {
            OpCode::Control(_) if !header.is_final || length > MAX_CONTROL as u64 => {
                return Err(NOT_WEBSOCKET);
            }
            OpCode::Control(_) => return Ok(()),
            OpCode::Data(Data::Continue) => {
                let fragments = self.fragments.as_ref().ok_or(NOT_WEBSOCKET)?;
                self.limits.message_bytes.saturating_sub(fragments.body.len())
            }
            OpCode::Data(_) if self.fragments.is_some() => return Err(NOT_WEBSOCKET),
            OpCode::Data(_) => self.limits.message_bytes,
        };
        let limit = limit.min(self.limits.frame_bytes);
        if length > limit as u64 { Err(TOO_LONG) } else { Ok(()) }
    }

    fn frame(&mut self, header: &FrameHeader, mut payload: BytesMut) -> Result<Step, Closing> {
        if let Some(mask) = header.mask {
            unmask(&mut payload, mask);
        }
        match header.opcode {
            OpCode::Control(Control::Ping) => Ok(Step::Ping(payload.freeze())),
            OpCode::Control(Control::Pong) => Ok(Step::Pong),
            OpCode::Control(_) => check_close(&payload).map(|()| Step::Close(payload.freeze())),
            OpCode::Data(Data::Continue) => self.continued(header.is_final, &payload),
            OpCode::Data(kind) => {
                let binary = kind == Data::Binary;
                if header.is_final {
                    return message(binary, payload);
                }
                self.fragments = Some(Box::new(Fragments { binary, body: payload, count: 1 }));
                // The next fragment may be there already.
                Ok(Step::Pong)
            }
        }
    }

    fn continued(&mut self, is_final: bool, payload: &[u8]) -> Result<Step, Closing> {
        let Some(mut fragments) = self.fragments.take() else { return Err(NOT_WEBSOCKET) };
        fragments.count += 1;
        if fragments.count > MAX_FRAGMENTS {
            return Err(TOO_LONG);
        }
        fragments.body.extend_from_slice(payload);
        if is_final {
            return message(fragments.binary, fragments.body);
        }
        self.fragments = Some(fragments);
        Ok(Step::Pong)
    }
}

fn message(binary: bool, body: BytesMut) -> Result<Step, Closing> {
    if !binary && std::str::from_utf8(&body).is_err() {
        return Err(NOT_UTF8);
    }
    Ok(Step::Message(Received { binary, body: body.freeze() }))
}

/// A close has no payload, or a code that may be sent and a reason in UTF-8.
fn check_close(payload: &[u8]) -> Result<(), Closing> {
    match payload {
        [] => Ok(()),
        [high, low, reason @ ..] => {
            let code = CloseCode::from(u16::from_be_bytes([*high, *low]));
            if !code.is_allowed() {
                return Err(NOT_WEBSOCKET);
            }
            std::str::from_utf8(reason).map(drop).map_err(|_| NOT_UTF8)
        }
        [_] => Err(NOT_WEBSOCKET),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits = MessageLimits { message_bytes: 1000, frame_bytes: 500 };
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Everything that `bytes` lead to when they come in pieces of `size`.
    fn steps(bytes: &[u8], size: usize) -> Result<Vec<Step>, Closing> {
        let mut inbound = Inbound::new(&[], LIMITS);
        let mut steps = Vec::new();
        for mut piece in bytes.chunks(size) {
            loop {
                match inbound.next(&mut piece)? {
                    Step::Incomplete => break,
                    Step::Pong => {}
                    step => steps.push(step),
                }
            }
        }
        Ok(steps)
    }

    fn text(body: &str) -> Step {
        Step::Message(Received { binary: false, body: Bytes::from(body.to_owned()) })
    }

    #[test]
    fn messages_are_the_same_however_the_bytes_are_cut() {
        let long = "x".repeat(300);
        let mut bytes = frame(0x81, b"hello");
        bytes.extend(frame(0x82, &[0, 255]));
        bytes.extend(frame(0x01, "ä".as_bytes().split_at(1).0));
        bytes.extend(frame(0x89, b"ping"));
        bytes.extend(frame(0x80, "ä".as_bytes().split_at(1).1));
        bytes.extend(frame(0x81, long.as_bytes()));
        let expected = [
            text("hello"),
            Step::Message(Received { binary: true, body: Bytes::from_static(&[0, 255]) }),
            Step::Ping(Bytes::from_static(b"ping")),
            text("ä"),
            text(&long),
        ];
        for size in (1..20).chain([bytes.len()]) {
            assert_eq!(steps(&bytes, size).unwrap(), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_rfc_6455_forbids_is_1002() {
        let mut unmasked = frame(0x81, b"a");
        unmasked[1] &= 0x7f;
        for (name, bytes) in [
            ("a reserved opcode", frame(0x83, b"")),
            ("a reserved control opcode", frame(0x8b, b"")),
            ("a reserved bit", frame(0xc1, b"")),
            ("no mask", unmasked),
            ("a fragmented ping", frame(0x09, b"")),
            ("a long ping", frame(0x89, &[0; 126])),
            ("a continuation of nothing", frame(0x80, b"a")),
            ("a message inside a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat()),
            ("a close with half a code", frame(0x88, &[3])),
            ("a close with a code that is never sent", frame(0x88, &1006_u16.to_be_bytes())),
        ] {
            assert_eq!(steps(&bytes, 3), Err(NOT_WEBSOCKET), "{name}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_1007() {
        for bytes in [
            frame(0x81, &[0xc3, 0x28]),
            [frame(0x01, &[0xc3]), frame(0x80, &[0x28])].concat(),
            frame(0x88, &[0x03, 0xe8, 0xc3, 0x28]),
        ] {
            assert_eq!(steps(&bytes, 100), Err(NOT_UTF8));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_head() {
        let head_only = |length: u64| {
            let mut head = vec![0x82, 0x80 | 127];
            head.extend_from_slice(&length.to_be_bytes());
            head.extend_from_slice(&MASK);
            head
        };
        assert_eq!(steps(&head_only(501), 100), Err(TOO_LONG), "a frame");
        assert_eq!(steps(&head_only(1 << 62), 100), Err(TOO_LONG));
        let message = [frame(0x02, &[0; 500]), frame(0x00, &[0; 400]), frame(0x80, &[0; 101])];
        assert_eq!(steps(&message.concat(), 4000), Err(TOO_LONG), "a message");
    }

    #[test]
    fn a_message_of_very_many_fragments_is_refused() {
        let mut bytes = frame(0x02, b"a");
        (0..MAX_FRAGMENTS).for_each(|_| bytes.extend(frame(0x00, b"")));
        assert_eq!(steps(&bytes, 4000), Err(TOO_LONG));
    }

    #[test]
    fn a_quiet_connection_holds_no_buffer() {
        let mut inbound = Inbound::new(&[], LIMITS);
        let bytes = frame(0x81, b"hello");
        let (mut one, mut other) = bytes.split_at(4);
        assert_eq!(inbound.next(&mut one).unwrap(), Step::Incomplete);
        assert_eq!(inbound.next(&mut other).unwrap(), text("hello"));
        assert_eq!(inbound.rest.capacity(), 0);
    }
}
