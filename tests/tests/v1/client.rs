//! A websocket that offers the subprotocol, and envelopes as JSON. It keeps nothing and repeats
//! nothing by itself.

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use single_state_tests::DEADLINE;
use single_state_tests::cluster::{Cluster, Options};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The channel of a test that needs only one.
pub(crate) const CHANNEL: &str = "channel-0001";

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Headers of the 101 response.
    pub(crate) headers: HeaderMap,
}

/// One worker with the app of the tests.
pub(crate) async fn one_worker() -> Result<Cluster> {
    Cluster::start(one_worker_options()).await
}

pub(crate) fn one_worker_options() -> Options {
    Options { workers: 1, ..Options::fixture() }
}

/// `["hello", …]` of a channel's connection.
pub(crate) fn hello(channel: &str, attach: u64) -> Value {
    json!(["hello", {"channel": channel, "attach": attach}])
}

/// The same of a client that has outputs already.
pub(crate) fn hello_again(channel: &str, attach: u64, epoch: &Value, revision: u64) -> Value {
    json!(["hello", {"channel": channel, "attach": attach, "seen": [epoch, revision]}])
}

/// `[n, …]` that appends `n` to the session's list.
pub(crate) fn append(n: u64) -> Value {
    json!([n, {"tag": "append", "n": n}])
}

impl Client {
    /// Connects and says nothing.
    pub(crate) async fn connect(cluster: &Cluster, query: &str) -> Result<Self> {
        Self::connect_with(cluster, query, &[]).await
    }

    /// The same with further headers.
    pub(crate) async fn connect_with(
        cluster: &Cluster,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self> {
        let mut request = cluster.url(query).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "single-state.v1".parse()?);
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse()?);
        }
        let connect = tokio_tungstenite::connect_async(request);
        let (socket, response) =
            tokio::time::timeout(DEADLINE, connect).await.context("no answer to an upgrade")??;
        Ok(Self { socket, headers: response.headers().clone() })
    }

    /// Connects to a session and takes up a channel for the first time; the welcome's fields.
    pub(crate) async fn welcomed(
        cluster: &Cluster,
        session: &str,
        channel: &str,
    ) -> Result<(Self, Value)> {
        Self::greeted(cluster, session, hello(channel, 1)).await
    }

    /// Connects to a session and says this hello; the welcome's fields.
    pub(crate) async fn greeted(
        cluster: &Cluster,
        session: &str,
        hello: Value,
    ) -> Result<(Self, Value)> {
        let mut client = Self::connect(cluster, &format!("?session={session}")).await?;
        client.say(hello).await?;
        let welcome = client.welcome().await?;
        Ok((client, welcome))
    }

    /// A header of the 101 response.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Says an envelope.
    pub(crate) async fn say(&mut self, envelope: Value) -> Result<()> {
        self.say_text(&envelope.to_string()).await
    }

    /// Says any text.
    pub(crate) async fn say_text(&mut self, text: &str) -> Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Says bytes.
    pub(crate) async fn say_binary(&mut self, bytes: Vec<u8>) -> Result<()> {
        Ok(self.socket.send(Message::binary(bytes)).await?)
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Value> {
        match self.message().await? {
            Message::Text(text) => Ok(serde_json::from_str(&text)?),
            other => bail!("not a text message: {other:?}"),
        }
    }

    /// The next message, which is binary.
    pub(crate) async fn next_binary(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.message().await? {
                Message::Binary(bytes) => return Ok(bytes.into()),
                Message::Text(text) if text.starts_with(r#"["ack","#) => {}
                other => bail!("not a binary message: {other:?}"),
            }
        }
    }

    /// The next message that fulfils a condition; others are passed over.
    pub(crate) async fn next_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let message = self.next().await?;
            if wanted(&message) {
                return Ok(message);
            }
        }
    }

    /// The next message, which is a welcome; its fields.
    pub(crate) async fn welcome(&mut self) -> Result<Value> {
        let mut message = self.next().await?;
        ensure!(message[0] == "welcome", "not a welcome: {message}");
        Ok(message[1].take())
    }

    /// Waits until inputs up to `n` are acknowledged; other messages are passed over.
    pub(crate) async fn acked(&mut self, n: u64) -> Result<()> {
        let acked = |message: &Value| {
            message[0] == "ack" && message[1].as_u64().is_some_and(|acked| acked >= n)
        };
        self.next_where(acked).await.map(drop)
    }

    /// Waits for an output with this tag; its revision and body.
    pub(crate) async fn output(&mut self, tag: &str) -> Result<(u64, Value)> {
        let mut output = self.next_where(|message| message[1]["tag"] == tag).await?;
        let revision = output[0].as_u64().context("no revision")?;
        Ok((revision, output[1].take()))
    }

    /// Asks with input `n` for the session's list.
    pub(crate) async fn list(&mut self, n: u64) -> Result<Value> {
        self.say(json!([n, {"tag": "list"}])).await?;
        Ok(self.output("list").await?.1["items"].take())
    }

    /// Waits until the other side has closed the socket; its close code.
    pub(crate) async fn closed(&mut self) -> Result<u16> {
        loop {
            match self.message().await {
                Ok(Message::Close(Some(frame))) => return Ok(CloseCode::into(frame.code)),
                Ok(Message::Close(None)) => bail!("closed without a code"),
                Ok(_) => {}
                Err(error) => bail!("closed without a close frame: {error:#}"),
            }
        }
    }

    /// The next message that a page would see; the library answers pings itself.
    async fn message(&mut self) -> Result<Message> {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.socket.next()).await;
            let message =
                message.context("no message in time")?.context("the socket has ended")??;
            if !(message.is_ping() || message.is_pong()) {
                return Ok(message);
            }
        }
    }
}
