//! A plain page's websocket, written for many of them in one process. Masks are zero, which the
//! protocol allows and which makes masking free.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::upgrade::{Upgraded, header, upgrade};

/// A connected websocket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    buffer: BytesMut,
    session: Option<String>,
    token: Option<String>,
}

/// What came from the server.
#[derive(Debug)]
pub enum Received {
    /// A text or binary message.
    Message(BytesMut),
    /// It closed the socket, with this code.
    Closed(u16),
}

impl Socket {
    /// Connects to `ws://HOST:PORT/PATH`.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_from(None, url).await
    }

    /// Connects from this address of the machine.
    pub async fn connect_from(from: Option<Ipv4Addr>, url: &str) -> Result<Self> {
        let Upgraded { stream, rest: buffer, head } = upgrade(url, from, None).await?;
        let session = header(&head, "x-single-state-session");
        let token = header(&head, "set-cookie").and_then(|cookie| {
            let value = cookie.strip_prefix("single_state=")?.split(';').next();
            value.map(str::to_owned)
        });
        Ok(Self { stream, buffer, session, token })
    }

    /// The session that the answer to the upgrade has named.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// What opens the session again: the cookie that came with the upgrade.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        let mut frame = Vec::with_capacity(text.len() + 14);
        frame.push(0x81);
        match text.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }

    /// The next message. May be dropped and called again.
    pub async fn receive(&mut self) -> Result<Received> {
        loop {
            if let Some((opcode, payload)) = self.take_frame()? {
                match opcode {
                    1 | 2 => return Ok(Received::Message(payload)),
                    8 => {
                        let code =
                            payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                        return Ok(Received::Closed(code));
                    }
                    9 => self.pong(&payload).await?,
                    _ => {}
                }
                continue;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(Received::Closed(1006));
            }
        }
    }

    async fn pong(&mut self, payload: &[u8]) -> Result<()> {
        let mut frame = vec![0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        Ok(self.stream.write_all(&frame).await?)
    }

    /// A whole frame: our servers send each message in one.
    fn take_frame(&mut self) -> Result<Option<(u8, BytesMut)>> {
        let Some(&[first, second]) = self.buffer.first_chunk::<2>() else { return Ok(None) };
        let (head, length) = match second {
            126 => match self.buffer.get(2..4) {
                Some(bytes) => (4, usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
                None => return Ok(None),
            },
            127 => match self.buffer.get(2..10).and_then(|bytes| bytes.first_chunk::<8>()) {
                Some(bytes) => (10, usize::try_from(u64::from_be_bytes(*bytes))?),
                None => return Ok(None),
            },
            length @ 0..=125 => (2, usize::from(length)),
            _ => bail!("the server masks its frames"),
        };
        if self.buffer.len() < head + length {
            self.buffer.reserve(head + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(head);
        let payload = self.buffer.split_to(length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some((first & 0x0f, payload)))
    }
}
