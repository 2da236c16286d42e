//! One browser's websocket over a socket that is never waited for here: reads and writes take what
//! is possible now. So the reader of a link can write an answer straight to its browser. Knows
//! nothing of sessions.
//!
//! The library's own stream type keeps buffers for each connection (2.6 KiB, and 4 KiB and more to
//! read into) and reads once more than needed for each message. Here the read buffer belongs to the
//! thread, and a connection that is quiet holds no buffer at all. Heads of frames are the library's.

mod inbound;
mod outbound;

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::TcpStream;

use self::inbound::{Inbound, Step};
pub(crate) use self::outbound::Envelope;
use self::outbound::Outbound;

/// Bytes asked of the kernel at once. A shorter answer means that there is no more.
const READ_CHUNK: usize = 32 * 1024;

/// How long a browser has to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

thread_local! {
    /// Where all connections of this thread read into; what is not a whole frame moves out at once.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into());
}

/// How long messages of a browser may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageLimits {
    pub(crate) message_bytes: usize,
    pub(crate) frame_bytes: usize,
}

/// What a browser sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) binary: bool,
    pub(crate) body: Bytes,
}

/// How a browser's side of the socket ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The browser closed it or went away.
    ByBrowser,
    /// The browser broke the websocket protocol or a limit; it is closed with this.
    ByFault(Closing),
}

/// Code and reason with which a socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

/// Whether the kernel has more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    /// It may; whoever reads was full, or has had enough for now.
    Maybe,
    /// Not before the socket is ready again.
    No,
}

/// A browser's websocket after the upgrade.
#[derive(Debug)]
pub(crate) struct WebSocket {
    socket: Rc<TcpStream>,
    inbound: Inbound,
    outbound: Outbound,
    /// We have said that it ends: no frame may follow that, not even the answer to a close.
    is_closing: bool,
}

impl WebSocket {
    /// A websocket on an upgraded connection, of which `read` has arrived already.
    pub(crate) fn new(socket: Rc<TcpStream>, read: &[u8], limits: MessageLimits) -> Self {
        let (inbound, outbound) = (Inbound::new(read, limits), Outbound::default());
        Self { socket, inbound, outbound, is_closing: false }
    }

    /// Whether a part of what was sent waits for the kernel.
    pub(crate) fn is_blocked(&self) -> bool {
        self.outbound.is_blocked()
    }

    /// Reads once and hands over each message, until `take` returns `false`: it takes no more now.
    /// Pings are answered here.
    pub(crate) fn read(&mut self, mut take: impl FnMut(Received) -> bool) -> Result<More, Ended> {
        // What is left from the last time comes first.
        if !self.advance(&[], &mut take)? {
            return Ok(More::Maybe);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let length = match read_now(&self.socket, scratch) {
                Ok(0) => return Err(Ended::ByBrowser),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(More::No),
                Err(_) => return Err(Ended::ByBrowser),
            };
            let wants_more = self.advance(&scratch[..length], &mut take)?;
            Ok(if wants_more && length < READ_CHUNK { More::No } else { More::Maybe })
        })
    }

    /// Works through `bytes`; `false` when `take` wants no more.
    fn advance(
        &mut self,
        mut bytes: &[u8],
        take: &mut impl FnMut(Received) -> bool,
    ) -> Result<bool, Ended> {
        loop {
            match self.inbound.next(&mut bytes).map_err(Ended::ByFault)? {
                Step::Incomplete => return Ok(true),
                Step::Message(received) => {
                    if !take(received) {
                        self.inbound.keep(bytes);
                        return Ok(false);
                    }
                }
                Step::Ping(_) if self.is_closing => {}
                Step::Ping(payload) => self.outbound.pong(&self.socket, &payload)?,
                Step::Pong => {}
                Step::Close(_) if self.is_closing => return Err(Ended::ByBrowser),
                Step::Close(payload) => {
                    // Both sides have said it then; nothing else follows.
                    let _ = self.outbound.close(&self.socket, None, &payload);
                    return Err(Ended::ByBrowser);
                }
            }
        }
    }

    /// Sends a message as far as the kernel takes it; the rest goes with [`WebSocket::flush`].
    /// Only when not blocked, so at most one message waits here.
    pub(crate) fn send(
        &mut self,
        binary: bool,
        envelope: Envelope<'_>,
        body: Bytes,
    ) -> Result<(), Ended> {
        self.outbound.message(&self.socket, binary, envelope, body)
    }

    /// Sends what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> Result<(), Ended> {
        self.outbound.flush(&self.socket)
    }

    /// Asks the browser whether it is there; not while output waits, which asks the same.
    pub(crate) fn ping(&mut self) -> Result<(), Ended> {
        if self.is_blocked() { Ok(()) } else { self.outbound.ping(&self.socket) }
    }

    /// Closes the socket so that the browser sees why: says it, after a last message if there is one,
    /// waits for the browser's answer and reads what it was still sending, because unread bytes would
    /// turn our close into a reset. Messages among it go to `late`.
    pub(crate) async fn close(
        mut self,
        message: Option<Bytes>,
        closing: Closing,
        late: impl FnMut(Received),
    ) {
        self.is_closing = true;
        let mut payload = closing.code.to_be_bytes().to_vec();
        payload.extend_from_slice(closing.reason.as_bytes());
        if self.outbound.close(&self.socket, message.as_deref(), &payload).is_ok() {
            // Past the deadline the browser is gone or does not care.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.await_close(late)).await;
        }
    }

    async fn await_close(&mut self, mut late: impl FnMut(Received)) {
        let socket = self.socket.clone();
        loop {
            let Ok(ready) = socket.ready(interest(true, self.is_blocked())).await else { return };
            if ready.is_writable() && self.is_blocked() && self.flush().is_err() {
                return;
            }
            let take = |received| {
                late(received);
                true
            };
            match self.read(take) {
                Ok(_) => {}
                Err(Ended::ByBrowser) => return,
                // It is not understood any more, but still has to be read.
                Err(Ended::ByFault(_)) => return discard(&socket).await,
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Reads what is there. After a short read tokio is told that there is no more, which spares a call
/// that would only say so.
fn read_now(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let length = socket.try_read(buffer)?;
    if (1..buffer.len()).contains(&length) {
        let nothing = || Err::<(), _>(io::Error::from(ErrorKind::WouldBlock));
        // It is the error that says it.
        let _ = socket.try_io(Interest::READABLE, nothing);
    }
    Ok(length)
}

/// Reads and drops what the browser sends until it hangs up.
pub(crate) async fn discard(socket: &TcpStream) {
    while socket.readable().await.is_ok() {
        match SCRATCH.with_borrow_mut(|scratch| read_now(socket, scratch)) {
            Ok(0) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// What to wait for on a socket. With neither, only its end is noticed.
pub(crate) fn interest(read: bool, write: bool) -> Interest {
    match (read, write) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => Interest::ERROR,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A browser that gets a second close frame tells its page 1006 in place of our code.
    #[tokio::test]
    async fn after_our_close_nothing_is_said_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let browser = TcpStream::connect(listener.local_addr().unwrap());
        let (browser, accepted) = tokio::join!(browser, listener.accept());
        let (mut browser, (socket, _)) = (browser.unwrap(), accepted.unwrap());
        let limits = MessageLimits { message_bytes: 0, frame_bytes: 0 };
        let websocket = WebSocket::new(Rc::new(socket), &[], limits);
        let closing = Closing { code: 4503, reason: "over" };
        let heard = async {
            let mut heard = [0; 8];
            browser.read_exact(&mut heard).await.unwrap();
            // A ping that was on its way, and the answer, both masked with zeros.
            browser.write_all(b"\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x11\x97").await.unwrap();
            let mut heard = heard.to_vec();
            browser.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let ((), heard) = tokio::join!(websocket.close(None, closing, drop), heard);
        assert_eq!(heard, b"\x88\x06\x11\x97over");
    }
}
