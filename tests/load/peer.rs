//! One browser of the swarm: a plain page, or a client of `single-state.v1` that comes back by itself.

use anyhow::Result;
use serde_json::Value;
use single_state_tests::client::{self, Client, Manners};
use single_state_tests::history::Recorder;
use single_state_tests::page::{Page, Received};

use crate::workload::{Verdict, Workload};

/// What browsers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Plain,
    V1,
    /// Each second one.
    Mixed,
}

impl Protocol {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "plain" => Some(Self::Plain),
            "v1" => Some(Self::V1),
            "mixed" => Some(Self::Mixed),
            _ => None,
        }
    }

    /// Whether this browser numbers its messages.
    pub(crate) fn is_numbered(self, browser: usize) -> bool {
        match self {
            Self::Plain => false,
            Self::V1 => true,
            Self::Mixed => browser % 2 == 1,
        }
    }
}

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
    pub(crate) async fn connect(
        url: &str,
        number: usize,
        numbered: bool,
        recorder: Recorder,
    ) -> Result<Self> {
        if numbered {
            let mut client = Client::new(url, Manners { recorder, ..Manners::default() });
            client.open().await?;
            return Ok(Self::V1(Box::new(client)));
        }
        // Only what is written down needs a name.
        let channel = if recorder.is_on() { format!("page.{number}") } else { String::new() };
        Ok(Self::Plain(Box::new(Page::connect(url, &channel, recorder).await?)))
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
            Self::V1(client) => client.publish(&serde_json::from_str(text)?).await.map(drop),
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

    /// Whether it looks in the end for what it has sent: other servers need not know that message.
    pub(crate) fn looks(&self) -> bool {
        match self {
            Self::Plain(page) => !page.channel().is_empty(),
            Self::V1(_) => true,
        }
    }

    /// All items of its session.
    pub(crate) async fn items(&mut self) -> Result<Vec<String>> {
        match self {
            Self::Plain(page) => page.items().await,
            Self::V1(client) => client.items().await,
        }
    }

    /// The number of its message with this item, if it is one of its own.
    pub(crate) fn number_of(&self, item: &str) -> Option<u64> {
        let digits = item.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(item.len());
        // A channel's name may begin with digits: numbers of a swarm have eight.
        let (number, rest) = item.split_at_checked(digits.min(8))?;
        rest.starts_with(self.channel()).then(|| number.parse().ok())?
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
            Some(found) if found > number => Verdict::Count { expected: number, found },
            _ => Verdict::Other,
        },
        _ => Verdict::Other,
    }
}

fn beginning(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).chars().take(200).collect()
}
