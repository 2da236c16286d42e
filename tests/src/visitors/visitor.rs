//! One browser: what it says, and how it knows the answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Beat, Stay, Visit};
use crate::DEADLINE;
use crate::client::{Client, Heard, Manners, random};
use crate::history::{Recorder, now};
use crate::page::{Page, Received};

/// A handshake that takes longer is given up …
const HANDSHAKE: Duration = Duration::from_secs(5);
/// … and the next one comes after up to so long.
const WAIT: Duration = Duration::from_millis(500);

/// A connected browser.
#[derive(Debug)]
pub(super) struct Visitor {
    voice: Voice,
    visit: Visit,
    recorder: Recorder,
    /// What opens its session, for a page that comes back.
    token: Option<String>,
    returns: u64,
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
        let Visit { name, urls, is_numbered, .. } = &visit;
        let url = urls.first().context("nowhere to go")?;
        let mut token = None;
        let voice = if *is_numbered {
            let manners = Manners { recorder: recorder.clone(), ..Manners::default() };
            let mut client = Client::new(url, manners);
            urls[1..].iter().for_each(|url| client.add_url(url));
            client.open().await?;
            Voice::Numbered(Box::new(client))
        } else {
            let page = Page::connect(url, name, recorder.clone()).await?;
            token = page.token().map(str::to_owned);
            Voice::Plain(Box::new(page))
        };
        Ok(Self { voice, visit, recorder, token, returns: 0 })
    }

    /// A page whose socket was closed connects again, wherever it is let in; each of its sockets is a
    /// channel.
    async fn come_back(&mut self) -> Result<()> {
        let token = self.token.clone().context("it was given no cookie")?;
        self.returns += 1;
        let name = format!("{}.{}", self.visit.name, self.returns);
        let session = self.session().to_owned();
        let deadline = Instant::now() + DEADLINE;
        for url in self.visit.urls.iter().cycle() {
            let url = format!("{url}?session={token}");
            let page = Page::connect(&url, &name, self.recorder.clone());
            match timeout(HANDSHAKE, page).await {
                Ok(Ok(page)) => {
                    ensure!(page.session() == session, "it is another session");
                    self.token = page.token().map(str::to_owned).or(self.token.take());
                    self.voice = Voice::Plain(Box::new(page));
                    return Ok(());
                }
                _ if Instant::now() > deadline => break,
                _ => sleep(WAIT.mul_f64(random())).await,
            }
        }
        bail!("{name} is let in nowhere")
    }

    fn may_come_back(&self) -> bool {
        self.visit.comes_back && matches!(self.voice, Voice::Plain(_))
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
        let item = format!("{}-{number}", self.visit.name);
        self.send(json!({"tag": "append", "item": item})).await?;
        if !self.visit.is_alone {
            self.send(json!({"tag": "assign", "key": self.visit.name, "value": number})).await?;
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
        let key = if self.visit.is_alone { "count" } else { &self.visit.name };
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

    /// Appends an item and waits until it hears of it; the code, if the socket is closed before.
    async fn exchange(&mut self, number: u64) -> Result<Option<u16>> {
        if self.append(number).await.is_err() {
            // A page learns of the end of its socket when it listens.
            let closed = self.listen_until(Instant::now() + DEADLINE).await?;
            return closed.map(Some).context("it cannot send, and is not told why");
        }
        let heard = timeout(DEADLINE, self.listen_for(number)).await;
        heard.with_context(|| {
            format!("{} of {} heard nothing of {number}", self.visit.name, self.session())
        })?
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
    let mut stay = Stay { session, is_numbered, beats: Vec::new(), closed: None, returns: 0 };
    let mut due = Instant::now() + pace.mul_f64(2.0 * random());
    for number in 1.. {
        let closed = tokio::select! {
            // Its sender lives as long as the visitors.
            _ = over.wait_for(|over| *over) => break,
            closed = visitor.listen_until(due) => closed?,
        };
        due = Instant::now() + pace.mul_f64(1.0 + random());
        let sent = now();
        let closed = match closed {
            None => visitor.exchange(number).await?,
            closed => closed,
        };
        match closed {
            None => stay.beats.push(Beat { sent, answered: now() }),
            // The item of this number was not sent, or nobody knows what became of it.
            Some(_) if visitor.may_come_back() => visitor.come_back().await?,
            Some(_) => {
                stay.closed = closed;
                break;
            }
        }
        answered.store(number, Ordering::Relaxed);
    }
    stay.returns = visitor.returns;
    Ok((visitor, stay))
}
