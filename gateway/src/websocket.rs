//! One browser's websocket over a socket that is never waited for here: reads and writes take what
//! is possible now. So the reader of a link can write an answer straight to its browser. Knows
//! nothing of sessions.

use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Role, WebSocketConfig, WebSocketContext,
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Bytes read from a browser at once.
const READ_BUFFER: usize = 4 * 1024;

/// How long a browser has to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long messages of a browser may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageLimits {
    pub(crate) message_bytes: usize,
    pub(crate) frame_bytes: usize,
}

/// What a browser sent.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) binary: bool,
    pub(crate) body: Bytes,
}

/// How a browser's side of the socket ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The browser closed it or went away.
    ByBrowser,
    /// The browser broke the websocket protocol or a limit; it is closed with this.
    ByFault(Closing),
}

/// Code and reason with which a socket is closed.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

/// A browser's websocket after the upgrade.
#[derive(Debug)]
pub(crate) struct WebSocket {
    socket: Rc<TcpStream>,
    context: WebSocketContext,
    /// The kernel did not take all of what was written.
    blocked: bool,
}

impl WebSocket {
    /// A websocket on an upgraded connection, of which `read` has arrived already.
    pub(crate) fn new(socket: Rc<TcpStream>, read: &[u8], limits: MessageLimits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(limits.message_bytes))
            .max_frame_size(Some(limits.frame_bytes));
        let context =
            WebSocketContext::from_partially_read(read.to_vec(), Role::Server, Some(config));
        Self { socket, context, blocked: false }
    }

    /// Whether a part of what was sent waits for the kernel.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The next message, `None` until more arrives. Answers pings by itself.
    pub(crate) fn read(&mut self) -> Result<Option<Received>, Ended> {
        loop {
            let received = match self.context.read(&mut Now(&self.socket)) {
                Ok(Message::Text(text)) => Received { binary: false, body: text.into() },
                Ok(Message::Binary(body)) => Received { binary: true, body },
                // A close is answered by the library; the next read says that it is done.
                Ok(_) => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(ended(&error)),
            };
            return Ok(Some(received));
        }
    }

    /// Sends a message as far as the kernel takes it; the rest goes with [`WebSocket::flush`].
    /// Only when not blocked, so at most one message waits here.
    pub(crate) fn send(&mut self, binary: bool, body: Bytes) -> Result<(), Ended> {
        debug_assert!(!self.blocked);
        let opcode = OpCode::Data(if binary { Data::Binary } else { Data::Text });
        let frame = Message::Frame(Frame::message(body, opcode, true));
        let written = self.context.write(&mut Now(&self.socket), frame);
        self.note_blocked(written)
    }

    /// Sends what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> Result<(), Ended> {
        let flushed = self.context.flush(&mut Now(&self.socket));
        self.blocked = false;
        self.note_blocked(flushed)
    }

    fn note_blocked(&mut self, written: Result<(), Error>) -> Result<(), Ended> {
        match written {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(())
            }
            Err(error) => Err(ended(&error)),
        }
    }

    /// Closes the socket so that the browser sees why: says it, waits for the browser's answer and
    /// reads what it was still sending, because unread bytes would turn our close into a reset.
    pub(crate) async fn close(mut self, closing: Closing) {
        let frame = CloseFrame {
            code: CloseCode::from(closing.code),
            reason: Utf8Bytes::from_static(closing.reason),
        };
        let said = self.context.close(&mut Now(&self.socket), Some(frame));
        if self.note_blocked(said).is_ok() {
            // Past the deadline the browser is gone or does not care.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.await_close()).await;
        }
    }

    async fn await_close(&mut self) {
        loop {
            let interest = if self.blocked {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let Ok(ready) = self.socket.ready(interest).await else { return };
            if ready.is_writable() && self.blocked && self.flush().is_err() {
                return;
            }
            match self.read() {
                Ok(_) => {}
                Err(Ended::ByBrowser) => return,
                Err(Ended::ByFault(_)) => return self.discard().await,
            }
        }
    }

    /// Reads and drops what the browser sends until it hangs up.
    async fn discard(&mut self) {
        let mut scratch = [0; READ_BUFFER];
        while self.socket.readable().await.is_ok() {
            match self.socket.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => tokio::task::yield_now().await,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// What to wait for on a socket: input, and room for output if some waits.
pub(crate) fn interest(read: bool, write: bool) -> Option<Interest> {
    match (read, write) {
        (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
        (true, false) => Some(Interest::READABLE),
        (false, true) => Some(Interest::WRITABLE),
        (false, false) => None,
    }
}

/// Waits until the socket is ready for `interest`; for ever when there is none.
pub(crate) async fn ready(socket: &TcpStream, interest: Option<Interest>) -> io::Result<Ready> {
    match interest {
        Some(interest) => socket.ready(interest).await,
        None => std::future::pending().await,
    }
}

fn ended(error: &Error) -> Ended {
    let (code, reason) = match error {
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) => return Ended::ByBrowser,
        Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
        ) => return Ended::ByBrowser,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            (1009, "this message is longer than the server takes")
        }
        Error::Utf8(_) => (1007, "a text message must be UTF-8"),
        _ => (1002, "this is not the websocket protocol"),
    };
    Ended::ByFault(Closing { code, reason })
}

/// The socket as it can be used without waiting.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
