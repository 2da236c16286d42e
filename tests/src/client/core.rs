//! What a client of `single-state.v1` keeps and says, without sockets, clocks and chance: numbers for
//! what it sends, the mirror of what it is told, and where it was when its connection broke.
//!
//! ```text
//!   connect ──hello──▶ greeting ──welcome──▶ open ──▶ inputs > applied, then what is new
//!      ▲                  │                   │ ◀── outputs, acks; welcome: another owner
//!      └──────────────────┴──── broken ───────┘
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use single_state_proto::browser::{BINARY_HEAD, ResetReason, Welcome};
use single_state_proto::channel::ClientHalf;
use single_state_proto::id::{ChannelId, InputNumber};

/// A client's side of one channel.
#[derive(Debug)]
pub struct Core {
    session: Option<String>,
    channel: ChannelId,
    attach: u64,
    half: ClientHalf,
    /// The last number that the session knows, when it has forgotten the channel.
    published: u64,
    /// Epoch and revision are one value: a revision means nothing without its owner.
    seen: Option<(u64, u64)>,
    /// What the server was told of it.
    told: Option<(u64, u64)>,
    /// The epoch of this connection's newest welcome; none before the first.
    epoch: Option<u64>,
    mirror: BTreeMap<String, Value>,
}

/// What the server said, in the client's own words.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The channel is attached, or has another owner.
    Welcome(Welcome),
    /// Inputs up to this one are applied for good.
    Acked(u64),
    /// An output: an app message.
    Output {
        /// Number of its owner.
        epoch: u64,
        /// Its revision.
        rev: u64,
        /// The message; the mirror has it already if it is an assign.
        body: Value,
    },
    /// A binary output.
    Binary {
        /// Number of its owner.
        epoch: u64,
        /// Its revision.
        rev: u64,
        /// What the app has sent.
        body: Bytes,
    },
    /// The mirror is empty, and a full picture follows.
    Reset(ResetReason),
    /// The channel is over, and so many of its inputs cannot be judged.
    Expired(usize),
    /// The server asks to come again, between so many milliseconds and as many more.
    Bye(u64, u64),
}

/// The server broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

fn fault<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(text.into()))
}

#[derive(Deserialize)]
struct Farewell {
    after_ms: u64,
    spread_ms: u64,
}

#[derive(Deserialize)]
struct Discard {
    reason: ResetReason,
}

impl Core {
    /// A channel that nobody knows yet, of a session, or of the one that the address names.
    pub fn new(session: Option<String>, channel: ChannelId) -> Self {
        Self {
            session,
            channel,
            attach: 0,
            half: ClientHalf::new(),
            published: 0,
            seen: None,
            told: None,
            epoch: None,
            mirror: BTreeMap::new(),
        }
    }

    // --- what it says ---------------------------------------------------------------------------

    /// Numbers an input and keeps it until it is acknowledged; `None`: there is no room.
    pub fn publish(&mut self, body: impl Into<Bytes>) -> Option<u64> {
        if self.half.is_full() {
            return None;
        }
        self.published = self.half.push(false, body.into()).0;
        Some(self.published)
    }

    /// A connection is there: what it says first.
    pub fn connected(&mut self) -> String {
        self.attach += 1;
        (self.epoch, self.told) = (None, None);
        let mut hello = json!({"channel": self.channel.as_str(), "attach": self.attach});
        if let Some(session) = &self.session {
            hello["session"] = json!(session);
        }
        if let Some(seen) = self.seen {
            hello["seen"] = json!(seen);
        }
        json!(["hello", hello]).to_string()
    }

    /// The connection is over.
    pub fn broken(&mut self) {
        self.epoch = None;
    }

    /// The next input that this connection has not been given; none before its welcome.
    pub fn next_to_send(&mut self) -> Option<String> {
        self.epoch?;
        let input = self.half.next_to_send()?;
        let body = std::str::from_utf8(&input.body).unwrap_or("null");
        let text = format!("[{},{body}]", input.number);
        self.half.sent();
        Some(text)
    }

    /// What the server is to be told of the outputs taken, if that is news.
    pub fn ack(&mut self) -> Option<String> {
        let (epoch, rev) = self.seen.filter(|seen| Some(seen.0) == self.epoch)?;
        if rev == 0 || self.told == self.seen {
            return None;
        }
        self.told = self.seen;
        Some(format!("[\"ack\",{epoch},{rev}]"))
    }

    // --- what it hears --------------------------------------------------------------------------

    /// A text message has come.
    pub fn hear(&mut self, text: &str) -> Result<Heard, Fault> {
        let Ok((first, second)) = serde_json::from_str::<(&RawValue, &RawValue)>(text) else {
            return fault(format!("not an envelope: {text}"));
        };
        let second = second.get();
        let strange = |_| Fault(format!("not an envelope: {text}"));
        match first.get() {
            "\"welcome\"" => self.welcomed(serde_json::from_str(second).map_err(strange)?),
            "\"ack\"" => self.acked(second.parse().map_err(|_| Fault(text.to_owned()))?),
            "\"reset\"" => {
                let Discard { reason } = serde_json::from_str(second).map_err(strange)?;
                self.reset(reason)
            }
            "\"bye\"" => {
                let bye: Farewell = serde_json::from_str(second).map_err(strange)?;
                Ok(Heard::Bye(bye.after_ms, bye.spread_ms))
            }
            rev => {
                let rev = rev.parse().map_err(|_| Fault(format!("not an envelope: {text}")))?;
                let epoch = self.take(rev)?;
                let body: Value = serde_json::from_str(second).map_err(strange)?;
                if body["tag"] == "assign"
                    && let Some(key) = body["key"].as_str()
                {
                    self.mirror.insert(key.to_owned(), body["value"].clone());
                }
                Ok(Heard::Output { epoch, rev, body })
            }
        }
    }

    /// A binary message has come.
    pub fn hear_binary(&mut self, bytes: &Bytes) -> Result<Heard, Fault> {
        let Some(head) = bytes.first_chunk::<BINARY_HEAD>() else {
            return fault("a binary message without its number");
        };
        let rev = u64::from_be_bytes(*head);
        let epoch = self.take(rev)?;
        Ok(Heard::Binary { epoch, rev, body: bytes.slice(BINARY_HEAD..) })
    }

    fn welcomed(&mut self, welcome: Welcome) -> Result<Heard, Fault> {
        let applied = welcome.applied.map(InputNumber);
        let is_first = self.epoch.replace(welcome.epoch).is_none();
        let known = match applied {
            _ if is_first => self.half.attached(applied),
            // The gateway itself gives the next owner what it has been given.
            Some(applied) => self.half.acked(applied),
            None => Ok(()),
        };
        if let Err(error) = known {
            return fault(error.to_string());
        }
        match self.seen {
            Some((_, rev)) if welcome.resumed => self.seen = Some((welcome.epoch, rev)),
            None if welcome.resumed => return fault("resumed without having seen anything"),
            // Everything follows, and it has nothing that a reset could discard.
            None => self.seen = Some((welcome.epoch, 0)),
            Some(_) => {}
        }
        self.session = Some(welcome.session.clone());
        Ok(Heard::Welcome(welcome))
    }

    fn acked(&mut self, number: u64) -> Result<Heard, Fault> {
        match self.half.acked(InputNumber(number)) {
            Ok(()) => Ok(Heard::Acked(number)),
            Err(error) => fault(error.to_string()),
        }
    }

    fn reset(&mut self, reason: ResetReason) -> Result<Heard, Fault> {
        let Some(epoch) = self.epoch else { return fault("a reset before the welcome") };
        if reason == ResetReason::ChannelExpired {
            return Ok(Heard::Expired(self.half.unacked()));
        }
        self.mirror.clear();
        self.seen = Some((epoch, 0));
        Ok(Heard::Reset(reason))
    }

    /// An output is taken, before anybody hears of it.
    fn take(&mut self, rev: u64) -> Result<u64, Fault> {
        let Some(epoch) = self.epoch else { return fault("an output before the welcome") };
        match self.seen {
            Some((of, last)) if of == epoch && last >= rev => {
                return fault(format!("revision {rev} after {last} of epoch {epoch}"));
            }
            Some((of, _)) if of != epoch => {
                return fault(format!("an output of {epoch} without a reset since {of}"));
            }
            _ => {}
        }
        self.seen = Some((epoch, rev));
        Ok(epoch)
    }

    /// After [`Heard::Expired`]: another channel, which has sent nothing.
    pub fn begin_again(&mut self, channel: ChannelId) {
        *self = Self::new(self.session.take(), channel);
    }

    // --- what it has ----------------------------------------------------------------------------

    /// The session's mirrored state, as far as it is known.
    pub fn mirror(&self) -> &BTreeMap<String, Value> {
        &self.mirror
    }

    /// Inputs that are not acknowledged.
    pub fn unacked(&self) -> usize {
        self.half.unacked()
    }

    /// The number of the last input.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Whether this connection has its welcome.
    pub fn is_open(&self) -> bool {
        self.epoch.is_some()
    }

    /// Its connections so far.
    pub fn attach(&self) -> u64 {
        self.attach
    }

    /// The channel's id.
    pub fn channel(&self) -> &ChannelId {
        &self.channel
    }

    /// The session's token, once it is known.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }
}
