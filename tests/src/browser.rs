//! A plain page as a program: a websocket that knows nothing of us.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderMap, Request};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{DEADLINE, process};

/// A connection of a plain page.
#[derive(Debug)]
pub struct Browser {
    socket: WebSocketStream<TcpStream>,
    /// Headers of the 101 response.
    pub headers: HeaderMap,
}

/// Why an upgrade was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What was said.
    pub body: String,
}

impl Browser {
    /// Connects to `ws://…`.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, TcpSocket::new_v4()?).await
    }

    /// Connects with a receive buffer so small that little hides in the kernel.
    pub async fn connect_slow(url: &str) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        Self::connect_with(url, socket).await
    }

    /// Connects as a page of this origin.
    pub async fn connect_from(url: &str, origin: &str) -> Result<Self> {
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("origin", origin.parse()?);
        Self::handshake(request, TcpSocket::new_v4()?).await
    }

    /// Connects with a cookie, `name=value`.
    pub async fn connect_with_cookie(url: &str, cookie: &str) -> Result<Self> {
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("cookie", cookie.parse()?);
        Self::handshake(request, TcpSocket::new_v4()?).await
    }

    async fn connect_with(url: &str, socket: TcpSocket) -> Result<Self> {
        Self::handshake(url.into_client_request()?, socket).await
    }

    async fn handshake(request: Request<()>, socket: TcpSocket) -> Result<Self> {
        let address = request.uri().authority().context("a ws:// address")?.as_str().parse()?;
        let handshake = async {
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, anyhow::Error>(tokio_tungstenite::client_async(request, stream).await?)
        };
        let connected = tokio::time::timeout(DEADLINE, handshake).await;
        let (socket, response) = connected.context("no answer to an upgrade")??;
        Ok(Self { socket, headers: response.headers().clone() })
    }

    /// Connects where an upgrade must be refused.
    pub async fn connect_refused(url: &str) -> Result<Refusal> {
        match Self::connect_or_refused(url).await? {
            Err(refusal) => Ok(refusal),
            Ok(_) => bail!("{url} was not refused"),
        }
    }

    /// Connects where an upgrade may be refused.
    pub async fn connect_or_refused(url: &str) -> Result<Result<Self, Refusal>> {
        match Self::connect(url).await.map_err(anyhow::Error::downcast::<Error>) {
            Ok(browser) => Ok(Ok(browser)),
            Err(Ok(Error::Http(response))) => {
                let body = response.body().clone().unwrap_or_default();
                let body = String::from_utf8_lossy(&body).into_owned();
                Ok(Err(Refusal { status: response.status().as_u16(), body }))
            }
            Err(Ok(other)) => Err(other).context("not refused with HTTP"),
            Err(Err(other)) => Err(other),
        }
    }

    /// A header of the 101 response.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Value) -> Result<()> {
        self.send_text(&message.to_string()).await
    }

    /// Sends any text.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Sends bytes.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        Ok(self.socket.send(Message::binary(bytes)).await?)
    }

    /// The next message.
    pub async fn receive(&mut self) -> Result<Value> {
        match self.next().await? {
            Message::Text(text) => Ok(serde_json::from_str(&text)?),
            other => bail!("not a text message: {other:?}"),
        }
    }

    /// The next message, which is binary.
    pub async fn receive_binary(&mut self) -> Result<Bytes> {
        match self.next().await? {
            Message::Binary(bytes) => Ok(bytes),
            other => bail!("not a binary message: {other:?}"),
        }
    }

    /// The next message that fulfils a condition; others are passed over.
    pub async fn receive_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let message = self.receive().await?;
            if wanted(&message) {
                return Ok(message);
            }
        }
    }

    /// Waits for an `assign` of `key` to `value`; other messages are passed over.
    pub async fn wait_for(&mut self, key: &str, value: &Value) -> Result<()> {
        let assigned = |m: &Value| m["tag"] == "assign" && m["key"] == key && m["value"] == *value;
        self.receive_where(assigned).await.map(drop)
    }

    /// Sends a message and returns the next one that comes.
    pub async fn ask(&mut self, message: Value) -> Result<Value> {
        self.send(message).await?;
        self.receive().await
    }

    /// A message that has arrived already.
    pub fn try_receive(&mut self) -> Option<Value> {
        use futures_util::FutureExt;
        match self.socket.next().now_or_never()? {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).ok(),
            _ => None,
        }
    }

    /// Waits until the other side has closed the socket; its close code.
    pub async fn closed(&mut self) -> Result<u16> {
        loop {
            match self.next().await {
                Ok(Message::Close(Some(frame))) => return Ok(CloseCode::into(frame.code)),
                Ok(Message::Close(None)) => return Ok(1005),
                Ok(_) => {}
                Err(error) => bail!("closed without a close frame: {error:#}"),
            }
        }
    }

    /// Closes the socket as a page does.
    pub async fn close(mut self) -> Result<()> {
        Ok(self.socket.close(None).await?)
    }

    /// The next message that a page would see; the library answers pings itself.
    async fn next(&mut self) -> Result<Message> {
        // Pings are no news: whoever only pings does not keep a test waiting.
        let message = async {
            loop {
                let message = self.socket.next().await.context("the socket has ended")??;
                if !(message.is_ping() || message.is_pong()) {
                    return Ok(message);
                }
            }
        };
        let message = tokio::time::timeout(DEADLINE, message).await;
        message.with_context(|| format!("no message in time\n{}", process::told()))?
    }
}

/// Sends bytes in place of websocket frames over a new connection; the code with which it is closed.
pub async fn raw_frame(address: &str, frame: &[u8]) -> Result<Option<u16>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(frame).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer =
        tokio::time::timeout(DEADLINE, exchange).await.context("no end of an answer")??;
    // A close frame of a server: 0x88, a length of one byte, the code.
    let end_of_head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let frames = &answer[end_of_head.context("no answer to the upgrade")? + 4..];
    Ok(match frames {
        [0x88, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    })
}

/// Sends an upgrade as it stands; the head of the answer.
pub async fn upgrade_head(address: &str, request: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        anyhow::Ok(String::from_utf8_lossy(&head).into_owned())
    };
    tokio::time::timeout(DEADLINE, exchange).await.context("no end of a head")?
}

/// Upgrades, then sends `frame` again and again, about so many bytes in all, without ever reading.
pub async fn flood(address: &str, frame: &[u8], bytes: usize) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let head = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let many = frame.repeat(10_000);
    for _ in 0..bytes / many.len() {
        stream.write_all(&many).await?;
    }
    Ok(())
}
