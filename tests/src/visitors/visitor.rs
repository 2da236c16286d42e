//! One browser: what it says, and how it knows the answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Beat, Stay, Visit};
use crate::DEADLINE;
use crate::client::{Client, Heard, Manners, random};
use crate::history::{Recorder, now};
use crate::page::{Page, Received};

/// A connected browser.
#[derive(Debug)]
pub(super) struct Visitor {
    voice: Voice,
    name: String,
    is_alone: bool,
}

#[derive(Debug)]
enum Voice {
    Plain(Box<Page>),
    Numbered(Box<Client>),
}

/// Something has come.
enum News {
    Message(Value),
    Other,
    Closed(u16),
}

impl Visitor {
    pub(super) async fn connect(visit: Visit, recorder: Recorder) -> Result<Self> {
        let Visit { name, urls, is_numbered, is_alone } = visit;
        let url = urls.first().context("nowhere to go")?;
        let voice = if is_numbered {
            let mut client = Client::new(url, Manners { recorder, ..Manners::default() });
            urls[1..].iter().for_each(|url| client.add_url(url));
            client.open().await?;
            Voice::Numbered(Box::new(client))
        } else {
            Voice::Plain(Box::new(Page::connect(url, &name, recorder).await?))
        };
        Ok(Self { voice, name, is_alone })
    }

    pub(super) fn session(&self) -> &str {
        match &self.voice {
            Voice::Plain(page) => page.session(),
            Voice::Numbered(client) => client.session(),
        }
    }

    pub(super) async fn items(&mut self) -> Result<Vec<String>> {
        let items = async {
            match &mut self.voice {
                Voice::Plain(page) => page.items().await,
                Voice::Numbered(client) => client.items().await,
            }
        };
        timeout(DEADLINE, items).await.context("no list in time")?
    }

    async fn append(&mut self, number: u64) -> Result<()> {
        let item = format!("{}-{number}", self.name);
        self.send(json!({"tag": "append", "item": item})).await?;
        if !self.is_alone {
            self.send(json!({"tag": "assign", "key": self.name, "value": number})).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: Value) -> Result<()> {
        match &mut self.voice {
            Voice::Plain(page) => page.send(&message.to_string()).await,
            Voice::Numbered(client) => client.publish(&message).await.map(drop),
        }
    }

    /// A message tells of the item with this number. The count of a session does not tell whose items
    /// it counts: who shares one waits for the echo of what it sends with the item.
    fn tells(&self, message: &Value, number: u64) -> bool {
        let key = if self.is_alone { "count" } else { &self.name };
        message["tag"] == "assign"
            && message["key"] == key
            && message["value"].as_u64() >= Some(number)
    }

    /// The next thing that comes. Whoever gives up waiting loses nothing.
    async fn hear(&mut self) -> Result<News> {
        Ok(match &mut self.voice {
            Voice::Plain(page) => match page.receive().await {
                Ok(Received::Message(bytes)) => News::Message(serde_json::from_slice(&bytes)?),
                Ok(Received::Closed(code)) => News::Closed(code),
                Err(_) => News::Closed(1006),
            },
            Voice::Numbered(client) => match client.next().await? {
                Heard::Output { body, .. } => News::Message(body),
                _ => News::Other,
            },
        })
    }

    /// Listens until it hears of this item; the code, if the socket is closed before.
    async fn listen_for(&mut self, number: u64) -> Result<Option<u16>> {
        loop {
            match self.hear().await? {
                News::Message(message) if self.tells(&message, number) => return Ok(None),
                News::Message(_) | News::Other => {}
                News::Closed(code) => return Ok(Some(code)),
            }
        }
    }

    /// Listens for so long; the code, if the socket is closed.
    async fn listen_until(&mut self, due: Instant) -> Result<Option<u16>> {
        loop {
            let news = tokio::select! {
                () = sleep_until(due) => return Ok(None),
                news = self.hear() => news?,
            };
            if let News::Closed(code) = news {
                return Ok(Some(code));
            }
        }
    }
}

/// Appends items, one after one to two times `pace`, until it is over.
pub(super) async fn live(
    mut visitor: Visitor,
    pace: Duration,
    answered: &AtomicU64,
    mut over: watch::Receiver<bool>,
) -> Result<(Visitor, Stay)> {
    let session = visitor.session().to_owned();
    let is_numbered = matches!(visitor.voice, Voice::Numbered(_));
    let mut stay = Stay { session, is_numbered, beats: Vec::new(), closed: None };
    let mut due = Instant::now() + pace.mul_f64(2.0 * random());
    for number in 1.. {
        let closed = tokio::select! {
            // Its sender lives as long as the visitors.
            _ = over.wait_for(|over| *over) => break,
            closed = visitor.listen_until(due) => closed?,
        };
        stay.closed = closed;
        if closed.is_some() {
            break;
        }
        due = Instant::now() + pace.mul_f64(1.0 + random());
        let sent = now();
        if visitor.append(number).await.is_err() {
            // A page learns of the end of its socket when it listens.
            stay.closed = visitor.listen_until(Instant::now() + DEADLINE).await?;
            break;
        }
        let closed = timeout(DEADLINE, visitor.listen_for(number)).await;
        let about = || format!("{} of {} heard nothing of {number}", visitor.name, stay.session);
        stay.closed = closed.with_context(about)??;
        if stay.closed.is_some() {
            break;
        }
        stay.beats.push(Beat { sent, answered: now() });
        answered.store(number, Ordering::Relaxed);
    }
    Ok((visitor, stay))
}
