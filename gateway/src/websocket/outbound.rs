//! Messages become bytes for a browser's socket, as far as the kernel takes them. What it does not
//! take waits: at most one message, one pong and one close.

use std::io::{self, ErrorKind, IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::Ended;

const FIN: u8 = 0x80;
const TEXT: u8 = FIN | 0x1;
const BINARY: u8 = FIN | 0x2;
const CLOSE: u8 = FIN | 0x8;
const PING: u8 = FIN | 0x9;
const PONG: u8 = FIN | 0xa;

/// Messages up to this length are put behind their head; longer ones go beside it, uncopied.
const COPY_UP_TO: usize = 1024;
const MAX_HEAD: usize = 10;

/// The writing side of a websocket.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// What is left of a frame that the kernel took in part: of its head, …
    head: Bytes,
    /// … and of its body.
    body: Bytes,
    /// The newest pong that waits behind it; an older one need not be sent.
    pong: Option<Bytes>,
    /// A close that waits behind both.
    close: Option<Bytes>,
}

impl Outbound {
    /// Whether something waits for the kernel.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.is_idle() || self.pong.is_some() || self.close.is_some()
    }

    fn is_idle(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// Sends a message. Only when nothing waits.
    pub(crate) fn message(
        &mut self,
        socket: &TcpStream,
        binary: bool,
        body: Bytes,
    ) -> Result<(), Ended> {
        debug_assert!(!self.is_blocked());
        self.frame(socket, if binary { BINARY } else { TEXT }, body)
    }

    /// Asks the other side to answer. Only when nothing waits.
    pub(crate) fn ping(&mut self, socket: &TcpStream) -> Result<(), Ended> {
        self.frame(socket, PING, Bytes::new())
    }

    /// Answers a ping.
    pub(crate) fn pong(&mut self, socket: &TcpStream, payload: &[u8]) -> Result<(), Ended> {
        self.pong = Some(Bytes::copy_from_slice(payload));
        self.flush(socket)
    }

    /// Says the last frame; its payload is a code and a reason, or nothing.
    pub(crate) fn close(&mut self, socket: &TcpStream, payload: &[u8]) -> Result<(), Ended> {
        self.close = Some(Bytes::copy_from_slice(payload));
        self.flush(socket)
    }

    /// Sends what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self, socket: &TcpStream) -> Result<(), Ended> {
        if !self.is_idle() {
            let (head, body) = (std::mem::take(&mut self.head), std::mem::take(&mut self.body));
            self.write(socket, head, body)?;
        }
        if self.is_idle()
            && let Some(payload) = self.pong.take()
        {
            self.frame(socket, PONG, payload)?;
        }
        if self.is_idle()
            && let Some(payload) = self.close.take()
        {
            self.frame(socket, CLOSE, payload)?;
        }
        Ok(())
    }

    fn frame(&mut self, socket: &TcpStream, first: u8, body: Bytes) -> Result<(), Ended> {
        let mut buffer = [0; MAX_HEAD + COPY_UP_TO];
        let head = encode_head(first, body.len(), &mut buffer);
        if body.len() > COPY_UP_TO {
            let head = Bytes::copy_from_slice(&buffer[..head]);
            return self.write(socket, head, body);
        }
        let length = head + body.len();
        buffer[head..length].copy_from_slice(&body);
        let written = now(socket.try_write(&buffer[..length]))?;
        if written < length {
            self.head = Bytes::copy_from_slice(&buffer[written..length]);
        }
        Ok(())
    }

    /// Writes head and body with one call; what is left of them waits.
    fn write(&mut self, socket: &TcpStream, mut head: Bytes, mut body: Bytes) -> Result<(), Ended> {
        while !(head.is_empty() && body.is_empty()) {
            let slices = [IoSlice::new(&head), IoSlice::new(&body)];
            let written = now(socket.try_write_vectored(&slices))?;
            if written == 0 {
                break;
            }
            let of_head = written.min(head.len());
            head.advance(of_head);
            body.advance(written - of_head);
        }
        (self.head, self.body) = (head, body);
        Ok(())
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
        out.message(&socket, true, body.clone()).unwrap();
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
        out.message(&socket, true, body.clone()).unwrap();
        for i in 0..1000_u16 {
            out.pong(&socket, &i.to_be_bytes()).unwrap();
        }
        out.close(&socket, &1000_u16.to_be_bytes()).unwrap();
        let bytes = read(&socket, &mut out, far, body.len() + 10 + 4 + 4).await;
        assert_eq!(&bytes[body.len() + 10..], &[0x8a, 2, 3, 231, 0x88, 2, 3, 232]);
    }

    #[test]
    fn heads_have_the_shortest_form() {
        let mut out = [0; MAX_HEAD];
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(encode_head(TEXT, length, &mut out), head, "{length}");
        }
    }
}
