//! One browser of the swarm: a plain page, or a client of `single-state.v1` that comes back by itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use single_state_tests::client::{self, Client, Manners};
use single_state_tests::history::Recorder;
use single_state_tests::page::{Page, Received};
use tokio::time::timeout;

use crate::workload::{Verdict, Workload};

/// So long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected browser.
#[derive(Debug)]
pub(crate) enum Peer {
    Plain(Box<Page>),
    V1(Box<Client>),
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Heard {
    /// What it says of the last message, and its beginning.
    Message(Verdict, String),
    /// The server closed the socket for good, with this code.
    Closed(u16),
}

impl Peer {
    /// Connects; `channel` is what the history of a plain page calls it.
    pub(crate) async fn connect(
        url: &str,
        from: Option<Ipv4Addr>,
        channel: &str,
        numbered: bool,
        recorder: Recorder,
    ) -> Result<Self> {
        let connect = async {
            if numbered {
                let manners = Manners { recorder, from, gives_up: true, ..Manners::default() };
                let mut client = Client::new(url, manners);
                client.open().await?;
                return Ok(Self::V1(Box::new(client)));
            }
            // Only what is written down needs a name.
            let channel = if recorder.is_on() { channel } else { "" };
            Ok(Self::Plain(Box::new(Page::connect_from(from, url, channel, recorder).await?)))
        };
        timeout(PATIENCE, connect).await.context("the server does not answer")?
    }

    /// The id of its session; another server's page has none.
    pub(crate) fn session(&self) -> &str {
        match self {
            Self::Plain(page) => page.session(),
            Self::V1(client) => client.session(),
        }
    }

    /// What opens its session again, as far as it was told.
    pub(crate) fn token(&self) -> &str {
        match self {
            Self::Plain(page) => page.session(),
            Self::V1(client) => client.core().session().unwrap_or_default(),
        }
    }

    /// Goes, as a page does that is closed.
    pub(crate) async fn leave(self) -> Result<()> {
        match self {
            Self::Plain(page) => {
                drop(page);
                Ok(())
            }
            Self::V1(client) => client.close().await,
        }
    }

    /// What stands in its items.
    pub(crate) fn channel(&self) -> &str {
        match self {
            Self::Plain(page) => page.channel(),
            Self::V1(client) => client.core().channel().as_str(),
        }
    }

    /// Sends an app message; an item gets the channel's name, to be told from those of others.
    pub(crate) async fn send(&mut self, text: &str) -> Result<()> {
        const ITEM: &str = r#"{"tag":"append","item":"00000000"#;
        let named = (text.starts_with(&ITEM[..ITEM.len() - 8]) && !self.channel().is_empty())
            .then(|| [&text[..ITEM.len()], self.channel(), &text[ITEM.len()..]].concat());
        let text = named.as_deref().unwrap_or(text);
        match self {
            Self::Plain(page) => page.send(text).await,
            Self::V1(client) => {
                Box::pin(client.publish(&serde_json::from_str(text)?)).await.map(drop)
            }
        }
    }

    /// The next thing that comes after message `number`.
    pub(crate) async fn hear(&mut self, workload: &Workload, number: u64) -> Result<Heard> {
        match self {
            Self::Plain(page) => Ok(match page.receive().await? {
                Received::Message(answer) => {
                    let verdict = workload.judge(number, &answer);
                    let text =
                        if verdict == Verdict::Error { beginning(&answer) } else { String::new() };
                    Heard::Message(verdict, text)
                }
                Received::Closed(code) => Heard::Closed(code),
            }),
            Self::V1(client) => loop {
                if let client::Heard::Output { body, .. } = client.next().await? {
                    let verdict = judge(workload, number, &body);
                    let text =
                        if verdict == Verdict::Error { body.to_string() } else { String::new() };
                    return Ok(Heard::Message(verdict, text));
                }
            },
        }
    }

    /// Connections that the server has closed, and that were opened again.
    pub(crate) fn closes(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::V1(client) => client.closes(),
        }
    }

    /// All items of its session.
    pub(crate) async fn items(&mut self) -> Result<Vec<String>> {
        match self {
            Self::Plain(page) => page.items().await,
            Self::V1(client) => client.items().await,
        }
    }
}

/// Judges what a client of `single-state.v1` hears after message `number`: a session that has gone
/// back tells it again, and counts up to it.
fn judge(workload: &Workload, number: u64, answer: &Value) -> Verdict {
    let is = |key| answer["tag"] == "assign" && answer["key"] == key;
    match workload {
        _ if answer["tag"] == "error" => Verdict::Error,
        Workload::Axpy { .. } if is("result_vector") => Verdict::Answer,
        Workload::Append { .. } if is("count") => match answer["value"].as_u64() {
            Some(found) if found == number => Verdict::Answer,
            Some(found) if found > number => Verdict::More(found - number),
            _ => Verdict::Other,
        },
        _ => Verdict::Other,
    }
}

fn beginning(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).chars().take(200).collect()
}
