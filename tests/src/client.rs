//! A client of `single-state.v1` as a program: what [`Core`] says and hears, over a websocket that is
//! opened again whenever it breaks. Writes its history if it is given one.

pub mod core;
mod lines;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use single_state_proto::browser::SUBPROTOCOL;
use single_state_proto::id::ChannelId;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub use self::core::{Core, Fault, Heard};
use crate::DEADLINE;
use crate::history::{End, Recorder, What};
use crate::upgrade::{Upgraded, upgrade};

/// Closes after which a client does not come again.
const FINAL: [u16; 5] = [4400, 4401, 4403, 4409, 4503];
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TcpStream>;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Before attempt i it waits at random up to so long times 2^i …
    pub first_wait: Duration,
    /// … and up to so long.
    pub longest_wait: Duration,
    /// A connection from which nothing comes for so long is given up, if something is to come.
    pub silence: Duration,
    /// Where it writes its history.
    pub recorder: Recorder,
    /// The address of the machine from which it connects; `None` is any.
    pub from: Option<Ipv4Addr>,
    /// It gives up when its very first connection cannot be opened.
    pub gives_up: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            silence: Duration::from_secs(45),
            recorder: Recorder::default(),
            from: None,
            gives_up: false,
        }
    }
}

/// A client that stays, whatever becomes of its connections.
#[derive(Debug)]
pub struct Client {
    /// Where it connects, in turn: the first one is next.
    urls: VecDeque<String>,
    manners: Manners,
    core: Core,
    socket: Option<Socket>,
    /// A connection that is being opened, so that whoever waits for it may give up waiting.
    opening: Option<JoinHandle<Result<Socket>>>,
    /// Failed attempts since the last welcome.
    attempts: u32,
    /// What it waits before the next one, if the server has said so.
    asked_to_wait: Option<Duration>,
    heard_at: Instant,
    connections: u64,
    /// Connections that the server has closed with a close frame.
    closes: u64,
}

impl Client {
    /// A client of the session that the address names, or of a new one. It is connected when it is
    /// used.
    pub fn new(url: &str, manners: Manners) -> Self {
        let core = Core::new(None, random_channel());
        let (socket, opening, attempts, asked_to_wait) = Default::default();
        let (connections, closes) = (0, 0);
        let (urls, heard_at) = (VecDeque::from([url.to_owned()]), Instant::now());
        Self {
            urls,
            manners,
            core,
            socket,
            opening,
            attempts,
            asked_to_wait,
            heard_at,
            connections,
            closes,
        }
    }

    /// From now on it connects there: another gateway.
    pub fn set_url(&mut self, url: &str) {
        self.urls = VecDeque::from([url.to_owned()]);
    }

    /// It may connect there too: each attempt goes where the one before has not gone.
    pub fn add_url(&mut self, url: &str) {
        self.urls.push_back(url.to_owned());
    }

    /// Connects, and waits for its welcome.
    pub async fn open(&mut self) -> Result<()> {
        let open = async {
            while !self.core.is_open() {
                self.next().await?;
            }
            anyhow::Ok(())
        };
        timeout(DEADLINE, open).await.context("no welcome in time")?
    }

    /// Publishes an app message: its number. Waits while there is no room for it.
    pub async fn publish(&mut self, message: &Value) -> Result<u64> {
        self.open_once().await?;
        if self.core.unacked() == 0 {
            // Nothing was to come until now.
            self.heard_at = Instant::now();
        }
        let body = message.to_string();
        let number = loop {
            match self.core.publish(body.clone()) {
                Some(number) => break number,
                None => drop(self.hear_soon().await?),
            }
        };
        let item = message["item"].as_str().filter(|_| message["tag"] == "append");
        let (channel, n) = (self.channel(), number);
        self.record(|| What::Send { channel, n, item: item.map(str::to_owned) });
        self.flush().await;
        Ok(number)
    }

    /// The next thing that it hears, over as many connections as that takes. Whoever gives up waiting
    /// loses nothing.
    pub async fn next(&mut self) -> Result<Heard> {
        loop {
            self.flush().await;
            let Some(socket) = &mut self.socket else {
                Box::pin(self.reconnect()).await?;
                continue;
            };
            // What was taken is told when nothing more is there to be taken.
            let message = match socket.next().now_or_never() {
                Some(message) => Ok(message),
                None => {
                    if let Some(ack) = self.core.ack() {
                        self.put(ack);
                        continue;
                    }
                    // As in the pages' client: browsers hide pings, so a quiet session is no sign.
                    if self.core.is_open() && self.core.unacked() == 0 {
                        Ok(socket.next().await)
                    } else {
                        timeout_at(self.heard_at + self.manners.silence, socket.next()).await
                    }
                }
            };
            self.heard_at = Instant::now();
            match message {
                Ok(Some(Ok(message))) => {
                    if let Some(heard) = self.take(message)? {
                        return Ok(heard);
                    }
                }
                Ok(Some(Err(_)) | None) | Err(_) => self.lost(1006, End::Network),
            }
        }
    }

    /// The next thing that it hears, within the tests' deadline.
    pub async fn hear_soon(&mut self) -> Result<Heard> {
        timeout(DEADLINE, self.next())
            .await
            .with_context(|| format!("nothing in time: {self:?}"))?
    }

    /// Waits until all that it has published is acknowledged.
    pub async fn settle(&mut self) -> Result<()> {
        let settle = async {
            while self.core.unacked() > 0 {
                self.next().await?;
            }
            anyhow::Ok(())
        };
        let settled = timeout(DEADLINE, settle).await;
        settled.with_context(|| format!("{} are not acknowledged", self.core.unacked()))?
    }

    /// Asks the demo app for its list.
    pub async fn items(&mut self) -> Result<Vec<String>> {
        let after = self.publish(&json!({"tag": "items"})).await?;
        // An answer from before the question may come again: only a later question tells them apart.
        let last = self.publish(&json!({"tag": "assign", "key": "asked", "value": after})).await?;
        let mut found = None;
        while self.core.unacked() > 0 || self.core.mirror().get("asked") != Some(&json!(after)) {
            if let Heard::Output { body, .. } = self.hear_soon().await?
                && body["tag"] == "items"
            {
                found = Some(serde_json::from_value(body["items"].clone())?);
            }
        }
        let found: Vec<String> = found.with_context(|| format!("no answer before {last}"))?;
        let (channel, items) = (self.channel(), found.clone());
        self.record(|| What::Found { channel, after, items });
        Ok(found)
    }

    /// Writes down what it mirrors. To be called when nothing is on its way to any client.
    pub fn record_mirror(&self) {
        let mirror = self.core.mirror().clone();
        self.record(|| What::Mirror { channel: self.channel(), mirror });
    }

    /// The session's mirrored state.
    pub fn mirror(&self) -> &BTreeMap<String, Value> {
        self.core.mirror()
    }

    /// What it keeps.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Connections that it has opened.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// … and of these, how many the server has closed.
    pub fn closes(&self) -> u64 {
        self.closes
    }

    /// The session's id, once it is known.
    pub fn session(&self) -> &str {
        let token = self.core.session().unwrap_or_default();
        token.split('.').next().unwrap_or_default()
    }

    /// Closes the connection as a page does that goes.
    pub async fn close(mut self) -> Result<()> {
        self.flush().await;
        if let Some(mut socket) = self.socket.take() {
            self.closed(1000, End::Client);
            socket.close(None).await?;
        }
        Ok(())
    }

    // --- the connection -------------------------------------------------------------------------

    /// Lines of a history name the session: what is sent needs one.
    async fn open_once(&mut self) -> Result<()> {
        if self.core.session().is_none() { self.open().await } else { Ok(()) }
    }

    async fn reconnect(&mut self) -> Result<()> {
        if self.opening.is_none() {
            let wait = self.next_wait();
            self.attempts += 1;
            let url = self.urls.front().cloned().unwrap_or_default();
            self.urls.rotate_left(1);
            let from = self.manners.from;
            self.opening = Some(tokio::spawn(async move {
                sleep(wait).await;
                timeout(HANDSHAKE, connect(&url, from)).await?
            }));
        }
        let Some(opening) = &mut self.opening else { return Ok(()) };
        let opened = opening.await;
        self.opening = None;
        match opened? {
            Ok(socket) => {
                self.connections += 1;
                self.socket = Some(socket);
                self.heard_at = Instant::now();
                let hello = self.core.connected();
                self.put(hello);
            }
            Err(error) if self.manners.gives_up && self.connections == 0 => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }

    fn next_wait(&mut self) -> Duration {
        if let Some(wait) = self.asked_to_wait.take() {
            return wait;
        }
        if self.connections == 0 && self.attempts == 0 {
            return Duration::ZERO;
        }
        let doubled = self.manners.first_wait * 2_u32.saturating_pow(self.attempts).min(1 << 16);
        doubled.min(self.manners.longest_wait).mul_f64(random())
    }

    /// Everything that it has to say is on its way.
    async fn flush(&mut self) {
        while self.socket.is_some()
            && let Some(text) = self.core.next_to_send()
        {
            self.put(text);
        }
        if let Some(socket) = &mut self.socket
            && socket.flush().await.is_err()
        {
            self.lost(1006, End::Network);
        }
    }

    /// Says it with the next flush. What is put there is bounded by what the core keeps.
    fn put(&mut self, text: String) {
        let Some(socket) = &mut self.socket else { return };
        if socket.start_send_unpin(Message::text(text)).is_err() {
            self.lost(1006, End::Network);
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<Heard>> {
        let heard = match message {
            Message::Text(text) => self.core.hear(&text),
            Message::Binary(bytes) => self.core.hear_binary(&bytes),
            Message::Close(frame) => {
                let code = frame.map_or(1005, |frame| CloseCode::into(frame.code));
                self.lost(code, End::Server);
                ensure!(!FINAL.contains(&code), "closed for good with {code}");
                return Ok(None);
            }
            _ => return Ok(None),
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(fault) => bail!("the server is at fault: {fault}: {self:?}"),
        };
        self.write(&heard);
        match heard {
            Heard::Welcome(_) => self.attempts = 0,
            Heard::Bye(after, spread) => {
                let wait = after as f64 + spread as f64 * random();
                self.asked_to_wait = Some(Duration::from_secs_f64(wait / 1000.0));
            }
            Heard::Expired(_) => {
                self.lost(1000, End::Client);
                self.core.begin_again(random_channel());
            }
            _ => {}
        }
        Ok(Some(heard))
    }

    fn lost(&mut self, code: u16, end: End) {
        if self.socket.take().is_some() {
            self.closes += u64::from(end == End::Server);
            self.closed(code, end);
        }
        self.core.broken();
    }

    // --- the history ----------------------------------------------------------------------------

    fn channel(&self) -> String {
        self.core.channel().to_string()
    }

    fn record(&self, what: impl FnOnce() -> What) {
        let by = || format!("client {}", self.core.channel());
        if self.manners.recorder.is_on() {
            self.manners.recorder.record(&by(), self.session(), what);
        }
    }

    fn closed(&self, code: u16, end: End) {
        self.record(|| What::Closed { channel: self.channel(), code, end });
    }

    fn write(&self, heard: &Heard) {
        if self.manners.recorder.is_on()
            && let Some(what) = lines::line(heard, self.channel(), self.core.attach())
        {
            self.record(|| what);
        }
    }
}

async fn connect(url: &str, from: Option<Ipv4Addr>) -> Result<Socket> {
    let Upgraded { stream, rest, .. } = upgrade(url, from, Some(SUBPROTOCOL)).await?;
    // The library's own 128 KiB are too much for many clients.
    let config = WebSocketConfig::default().read_buffer_size(1024);
    Ok(WebSocketStream::from_partially_read(stream, rest.to_vec(), Role::Client, Some(config))
        .await)
}

fn random_channel() -> ChannelId {
    let bytes = random_bits().to_be_bytes();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.parse().expect("16 letters are a channel's id")
}

/// From 0 to 1.
pub(crate) fn random() -> f64 {
    random_bits() as f64 / u64::MAX as f64
}

fn random_bits() -> u64 {
    getrandom::u64().expect("the system has entropy")
}
