//! A plain page that writes its history, cheap enough for thousands in one process.

mod socket;

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use self::socket::{Received, Socket};
use crate::history::{End, Recorder, What};

/// A page: one socket, which is its channel.
#[derive(Debug)]
pub struct Page {
    socket: Socket,
    channel: String,
    sent: u64,
    recorder: Recorder,
}

impl Page {
    /// Connects to `ws://HOST:PORT/PATH`. Its history calls the channel so.
    pub async fn connect(url: &str, channel: &str, recorder: Recorder) -> Result<Self> {
        Self::connect_from(None, url, channel, recorder).await
    }

    /// Connects from this address of the machine.
    pub async fn connect_from(
        from: Option<Ipv4Addr>,
        url: &str,
        channel: &str,
        recorder: Recorder,
    ) -> Result<Self> {
        let socket = Socket::connect_from(from, url).await?;
        Ok(Self { socket, channel: channel.to_owned(), sent: 0, recorder })
    }

    /// What its history calls the channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The session's id as the gateway has named it; another server's page has none.
    pub fn session(&self) -> &str {
        self.socket.session().unwrap_or_default()
    }

    /// What opens the session again; `None` if the gateway has given no cookie.
    pub fn token(&self) -> Option<&str> {
        self.socket.token()
    }

    /// Sends an app message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.sent += 1;
        let n = self.sent;
        self.record(|channel| {
            let item = serde_json::from_str::<Value>(text).ok();
            let item = item.and_then(|message| message["item"].as_str().map(str::to_owned));
            What::Send { channel, n, item }
        });
        self.socket.send(text).await
    }

    /// The next thing that comes. Whoever gives up waiting loses nothing.
    pub async fn receive(&mut self) -> Result<Received> {
        let received = self.socket.receive().await;
        let code = match &received {
            Ok(Received::Message(_)) => return received,
            Ok(Received::Closed(code)) => *code,
            Err(_) => 1006,
        };
        let end = if code == 1006 { End::Network } else { End::Server };
        self.record(|channel| What::Closed { channel, code, end });
        received
    }

    /// Asks the demo app for its list.
    pub async fn items(&mut self) -> Result<Vec<String>> {
        self.send(r#"{"tag":"items"}"#).await?;
        let after = self.sent;
        loop {
            match self.receive().await.context("wait for the list")? {
                Received::Message(answer) if answer.starts_with(br#"{"tag":"items""#) => {
                    let mut answer: Value = serde_json::from_slice(&answer)?;
                    let items: Vec<String> = serde_json::from_value(answer["items"].take())?;
                    self.record(|channel| What::Found { channel, after, items: items.clone() });
                    return Ok(items);
                }
                Received::Message(_) => {}
                Received::Closed(code) => bail!("closed with {code}"),
            }
        }
    }

    fn record(&self, what: impl FnOnce(String) -> What) {
        let channel = || self.channel.clone();
        self.recorder.record(&self.channel, self.session(), || what(channel()));
    }
}
