//! What clients and workers have done and heard, for the checker: a line of JSON for each thing.
//! Knows how lines look and how they are written and read, not what they must fulfil.
//!
//! ```text
//! {"t":51872,"by":"a/1","session":"a","what":"send","channel":"c0ffee00","n":1,"item":"a-1"}
//! {"t":52190,"by":"worker-0/4711","session":"a","epoch":7,"what":"apply","channel":"c0ffee00","n":1}
//! ```
//!
//! `t` are microseconds of the machine's monotonic clock, which all its processes share; `by` names the
//! writer, `worker-INDEX/PROCESS` if it is a worker. Workers write what they do **before** anything
//! of it can be seen outside, clients write what they send before it leaves and what they hear when
//! they hear it, and nobody waits for the file longer than for one write: so of all that anybody has
//! heard, the cause is written and has a smaller `t`, also when its writer was killed.
//!
//! | `what` | by | when |
//! |---|---|---|
//! | `welcome` | client | a connection, or the next owner, has the channel |
//! | `send` | client | an input has its number; `item`: what it appends to the session's list |
//! | `ack` | client | inputs up to `n` are acknowledged |
//! | `output` | client | an output has come; `of`: the key it assigns, else its tag; `count`: how many items it says there are |
//! | `reset`, `closed` | client | it was told to start over; its connection is over: `end` is `server` (with a close frame), `client` or `network` |
//! | `found` | client | the answer to its input `after`: all the session's items, in order |
//! | `mirror` | client | all it mirrors, when it knows that nothing is on its way |
//! | `claim` | worker | it owns the session; the store was asked at `asked`. `reason` is `fresh` (the store was not asked), `stored`, `steal` or `due` (nobody is attached, its timer is due); `down`: workers that were called down, `passed_over`: those that were skipped for another reason |
//! | `activate` | worker | the session is in memory as the store has it: `applied` is the last input of each channel |
//! | `apply` | worker | an input was handled |
//! | `commit` | worker | a snapshot is in the store, which was asked at `asked` |
//! | `fenced`, `passivate`, `delete` | worker | the session has a later owner; it leaves memory; it has ended |
//!
//! A plain page numbers what it sends for its history only: each of its sockets is a channel.

pub mod racers;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use single_state_proto::browser::{DurabilityName, ResetReason};

pub use self::racers::{Deeds, Item, Line};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds.
    pub t: u64,
    /// Who writes it.
    pub by: String,
    /// The session that it is about.
    pub session: String,
    /// What has happened.
    #[serde(flatten)]
    pub what: What,
}

/// What has happened; the head of this file says when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum What {
    Welcome {
        channel: String,
        attach: u64,
        epoch: u64,
        resumed: bool,
        applied: Option<u64>,
        durability: DurabilityName,
    },
    Send {
        channel: String,
        n: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        item: Option<String>,
    },
    Ack {
        channel: String,
        n: u64,
    },
    Output {
        channel: String,
        epoch: u64,
        rev: u64,
        of: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    Reset {
        channel: String,
        reason: ResetReason,
    },
    Closed {
        channel: String,
        code: u16,
        end: End,
    },
    Found {
        channel: String,
        after: u64,
        items: Vec<String>,
    },
    Mirror {
        channel: String,
        mirror: BTreeMap<String, Value>,
    },
    Claim {
        epoch: u64,
        asked: u64,
        version: u64,
        reason: String,
        #[serde(default)]
        down: Vec<u16>,
        #[serde(default)]
        passed_over: Vec<u16>,
    },
    Activate {
        epoch: u64,
        version: u64,
        durability: DurabilityName,
        applied: BTreeMap<String, u64>,
    },
    Apply {
        epoch: u64,
        channel: String,
        n: u64,
    },
    Commit {
        epoch: u64,
        asked: u64,
        version: u64,
        applied: BTreeMap<String, u64>,
    },
    Fenced {
        epoch: u64,
    },
    Passivate {
        epoch: u64,
    },
    Delete {
        epoch: u64,
    },
}

/// Who has ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The server, with a close frame.
    Server,
    /// The client itself.
    Client,
    /// Nobody has said why.
    Network,
}

/// Where a client writes; cheap to clone, and nothing when off.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Mutex<BufWriter<File>>>>);

impl Recorder {
    /// Writes to a new file. [`Recorder::flush`] it in the end.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(Some(Arc::new(Mutex::new(BufWriter::new(file))))))
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes a line, which is made only where one is wanted.
    pub fn record(&self, by: &str, session: &str, what: impl FnOnce() -> What) {
        let Some(file) = &self.0 else { return };
        let (by, session) = (by.to_owned(), session.to_owned());
        let event = Event { t: now(), by, session, what: what() };
        let mut line = serde_json::to_vec(&event).expect("an event is JSON");
        line.push(b'\n');
        let mut file = file.lock().expect("no recorder panics");
        file.write_all(&line).expect("write the history");
    }

    /// Everything is in the file.
    pub fn flush(&self) -> Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        Ok(file.lock().expect("no recorder panics").flush()?)
    }
}

/// Microseconds of the machine's monotonic clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// The events of several files in the order of their time.
pub fn read(paths: &[impl AsRef<Path>]) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the history {}", path.display()))?;
        read_text(&text, &mut events).with_context(|| path.display().to_string())?;
    }
    // Events of one writer stay in their order.
    events.sort_by_key(|event| event.t);
    Ok(events)
}

/// A last line without an end was being written when its writer was killed: nobody heard of it.
fn read_text(text: &str, events: &mut Vec<Event>) -> Result<()> {
    for (number, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(event) => events.push(event),
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => bail!("line {}: {error}: {}", number + 1, line.trim_end()),
        }
    }
    Ok(())
}
