//! Messages become bytes for a browser's socket, as far as the kernel takes them. What it does not
//! take waits: at most one message, one pong and one close.

use std::io::{self, ErrorKind, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use single_state_faults as faults;
use tokio::net::TcpStream;

use super::Ended;

const FIN: u8 = 0x80;
const TEXT: u8 = FIN | 0x1;
const BINARY: u8 = FIN | 0x2;
const CLOSE: u8 = FIN | 0x8;
const PING: u8 = FIN | 0x9;
const PONG: u8 = FIN | 0xa;

/// Messages up to this length are put between what surrounds them; longer ones go uncopied.
const COPY_UP_TO: usize = 1024;
/// Longest head of a frame.
const MAX_HEAD: usize = 10;
/// Longest of what an envelope has before the body and behind it.
const MAX_ENVELOPE: usize = 32;

/// What surrounds the body of a message within its frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    pub(crate) before: &'a [u8],
    pub(crate) after: &'static [u8],
}

impl Envelope<'_> {
    /// Nothing does.
    pub(crate) const NONE: Self = Self { before: &[], after: &[] };

    fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

/// The writing side of a websocket.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// What waits for the kernel. Most sockets take everything at once and never need it.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// What is left of a frame that the kernel took in part: of what precedes its body, …
    head: Bytes,
    /// … of its body, …
    body: Bytes,
    /// … and of what follows that.
    tail: &'static [u8],
    /// The payload of the newest pong that waits behind it; an older one need not be sent.
    pong: Option<Bytes>,
    /// The last frames, which wait behind both.
    last: Option<Bytes>,
}

impl Outbound {
    /// Whether something waits for the kernel.
    pub(crate) fn is_blocked(&self) -> bool {
        self.waiting.is_some()
    }

    /// Sends a message. Only when nothing waits.
    pub(crate) fn message(
        &mut self,
        socket: &TcpStream,
        binary: bool,
        envelope: Envelope<'_>,
        body: Bytes,
    ) -> Result<(), Ended> {
        debug_assert!(!self.is_blocked());
        self.frame(socket, if binary { BINARY } else { TEXT }, envelope, body)
    }

    /// Asks the other side to answer. Only when nothing waits.
    pub(crate) fn ping(&mut self, socket: &TcpStream) -> Result<(), Ended> {
        self.frame(socket, PING, Envelope::NONE, Bytes::new())
    }

    /// Answers a ping.
    pub(crate) fn pong(&mut self, socket: &TcpStream, payload: &[u8]) -> Result<(), Ended> {
        let payload = Bytes::copy_from_slice(payload);
        match &mut self.waiting {
            Some(waiting) => waiting.pong = Some(payload),
            None => return self.frame(socket, PONG, Envelope::NONE, payload),
        }
        self.flush(socket)
    }

    /// Says the last frames: a text message, if there is one, and a close. The close's payload is a
    /// code and a reason, or nothing.
    pub(crate) fn close(
        &mut self,
        socket: &TcpStream,
        message: Option<&[u8]>,
        payload: &[u8],
    ) -> Result<(), Ended> {
        let mut last = BytesMut::new();
        let message = message.map(|message| (TEXT, message));
        for (first, payload) in message.into_iter().chain([(CLOSE, payload)]) {
            let mut head = [0; MAX_HEAD];
            let length = encode_head(first, payload.len(), &mut head);
            last.extend_from_slice(&head[..length]);
            last.extend_from_slice(payload);
        }
        self.waiting.get_or_insert_default().last = Some(last.freeze());
        self.flush(socket)
    }

    /// Sends what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self, socket: &TcpStream) -> Result<(), Ended> {
        let Some(mut waiting) = self.waiting.take() else { return Ok(()) };
        let (pong, last) = (waiting.pong.take(), waiting.last.take());
        self.write(socket, *waiting)?;
        if let Some(payload) = pong {
            match &mut self.waiting {
                Some(waiting) => waiting.pong = Some(payload),
                None => self.frame(socket, PONG, Envelope::NONE, payload)?,
            }
        }
        if let Some(frames) = last {
            match &mut self.waiting {
                Some(waiting) => waiting.last = Some(frames),
                None => self.write(socket, Waiting { head: frames, ..Waiting::default() })?,
            }
        }
        Ok(())
    }

    fn frame(
        &mut self,
        socket: &TcpStream,
        first: u8,
        envelope: Envelope<'_>,
        body: Bytes,
    ) -> Result<(), Ended> {
        debug_assert!(envelope.len() <= MAX_ENVELOPE);
        let Envelope { before, after } = envelope;
        let mut buffer = [0; MAX_HEAD + MAX_ENVELOPE + COPY_UP_TO];
        let mut length = encode_head(first, envelope.len() + body.len(), &mut buffer);
        let mut put = |bytes: &[u8]| {
            buffer[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        put(before);
        if body.len() > COPY_UP_TO {
            let head = Bytes::copy_from_slice(&buffer[..length]);
            return self.write(socket, Waiting { head, body, tail: after, ..Waiting::default() });
        }
        put(&body);
        put(after);
        let written = now(faults::write(&buffer[..length], |bytes| socket.try_write(bytes)))?;
        if written < length {
            let head = Bytes::copy_from_slice(&buffer[written..length]);
            self.waiting = Some(Box::new(Waiting { head, ..Waiting::default() }));
        }
        Ok(())
    }

    /// Writes a frame with one call; what is left of it waits.
    fn write(&mut self, socket: &TcpStream, mut frame: Waiting) -> Result<(), Ended> {
        while !frame.is_written() {
            let Waiting { head, body, tail, .. } = &mut frame;
            let slices = [IoSlice::new(head), IoSlice::new(body), IoSlice::new(tail)];
            let written = now(socket.try_write_vectored(&slices))?;
            if written == 0 {
                self.waiting = Some(Box::new(frame));
                return Ok(());
            }
            let of_head = written.min(head.len());
            let of_body = (written - of_head).min(body.len());
            head.advance(of_head);
            body.advance(of_body);
            *tail = &tail[written - of_head - of_body..];
        }
        Ok(())
    }
}

impl Waiting {
    fn is_written(&self) -> bool {
        self.head.is_empty() && self.body.is_empty() && self.tail.is_empty()
    }
}

/// Bytes written; 0 when the kernel takes none now.
fn now(written: io::Result<usize>) -> Result<usize, Ended> {
    match written {
        Ok(written) => Ok(written),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(_) => Err(Ended::ByBrowser),
    }
}

/// Writes an unmasked head into `out`; its length.
fn encode_head(first: u8, length: usize, out: &mut [u8]) -> usize {
    out[0] = first;
    match length {
        0..=125 => {
            out[1] = length as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, far)
    }

    async fn read(
        socket: &TcpStream,
        out: &mut Outbound,
        mut far: TcpStream,
        length: usize,
    ) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let writing = async {
            while out.is_blocked() {
                socket.writable().await.unwrap();
                out.flush(socket).unwrap();
            }
        };
        tokio::join!(writing, async { far.read_exact(&mut bytes).await.unwrap() });
        bytes
    }

    #[tokio::test]
    async fn a_message_that_the_kernel_takes_in_parts_arrives_whole() {
        let (socket, far) = pair().await;
        let mut out = Outbound::default();
        let body = Bytes::from((0..10_000_000).map(|i| i as u8).collect::<Vec<_>>());
        out.message(&socket, true, Envelope::NONE, body.clone()).unwrap();
        assert!(out.is_blocked(), "10 MB are more than the kernel holds");
        let bytes = read(&socket, &mut out, far, body.len() + 10).await;
        assert_eq!(&bytes[..10], &[0x82, 127, 0, 0, 0, 0, 0, 0x98, 0x96, 0x80]);
        assert!(bytes[10..] == body[..]);
    }

    #[tokio::test]
    async fn of_many_pings_to_a_browser_that_does_not_read_only_the_newest_waits() {
        let (socket, far) = pair().await;
        let mut out = Outbound::default();
        let body = Bytes::from(vec![0; 10_000_000]);
        out.message(&socket, true, Envelope::NONE, body.clone()).unwrap();
        for i in 0..1000_u16 {
            out.pong(&socket, &i.to_be_bytes()).unwrap();
        }
        out.close(&socket, Some(b"bye"), &1000_u16.to_be_bytes()).unwrap();
        let bytes = read(&socket, &mut out, far, body.len() + 10 + 4 + 5 + 4).await;
        let expected = b"\x8a\x02\x03\xe7\x81\x03bye\x88\x02\x03\xe8";
        assert_eq!(&bytes[body.len() + 10..], expected);
    }

    #[tokio::test]
    async fn an_envelope_surrounds_short_and_long_bodies_alike() {
        let envelope = Envelope { before: b"[7,", after: b"]" };
        for length in [0, 1, COPY_UP_TO, COPY_UP_TO + 1, 10_000_000] {
            let (socket, far) = pair().await;
            let mut out = Outbound::default();
            let body = Bytes::from(vec![b'x'; length]);
            out.message(&socket, false, envelope, body.clone()).unwrap();
            let mut head = [0; MAX_HEAD];
            let head_length = encode_head(TEXT, length + 4, &mut head);
            let bytes = read(&socket, &mut out, far, head_length + length + 4).await;
            let expected = [&head[..head_length], b"[7,", &body, b"]"].concat();
            assert!(bytes == expected, "{length}");
        }
    }

    #[test]
    fn heads_have_the_shortest_form() {
        let mut out = [0; MAX_HEAD];
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(encode_head(TEXT, length, &mut out), head, "{length}");
        }
    }
}
