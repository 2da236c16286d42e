//! Tests the invariants I1 to I12 from recorded histories. Knows no processes: only what is written.
//!
//! | | from the lines of clients | … and of workers |
//! |---|---|---|
//! | I1 an acknowledged input is in the state of every later owner | in each list found | in what each owner finds |
//! | I2 each input is in it exactly once | in each list found | in what each owner applies |
//! | I3 in order 1, 2, 3 … per channel, without gaps | likewise | likewise |
//! | I4 nothing that was not sent | likewise, and in acks | likewise |
//! | I5 nothing is said before its commit | | acks; `durable`: counts |
//! | I6 revisions rise, mirrors agree, with lists too | yes | |
//! | I7 epochs rise and never repeat | in welcomes | in claims |
//! | I8 commits rise, none after a later claim | | yes |
//! | I9 nothing from an owner that is fenced | | yes |
//! | I10 sessions are where placement says | | if it is told |
//! | I11 no socket is closed by the server | if it is asked for | |
//! | I12 all is acknowledged soon after the last fault | [`check_answers`], if that is known | |
//!
//! Sessions of durability `memory` are outside I1, I2, I7 and I8, and so is what is after the end of a
//! session.

mod answers;
mod messages;
mod outputs;
mod ownership;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

use single_state_proto::browser::DurabilityName;

use anyhow::Context;

use crate::history::{Event, What, read};

/// Lines of context before and after the one at fault.
const AROUND: usize = 12;

/// What is known beside the histories.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The placement key, and how many workers there were, one number after the other: which of them
    /// a gateway knew when it placed a session stands nowhere. Without it I10 is not tested.
    pub placement: Option<([u8; 16], Vec<u64>)>,
    /// No socket may be closed by the server.
    pub no_closes: bool,
}

/// What was checked, and how often each invariant was put to the test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Lines of all histories.
    pub lines: usize,
    /// Sessions of durability `memory`, and of others.
    pub sessions: (usize, usize),
    /// Channels that clients have written about.
    pub channels: usize,
    /// Items sent, and acknowledged.
    pub items: (usize, usize),
    /// Tests of each invariant, by its number.
    pub tests: BTreeMap<u8, u64>,
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number.
    pub invariant: u8,
    /// Of which session.
    pub session: String,
    /// What is wrong, in a sentence.
    pub text: String,
    /// The lines of the session around the one that shows it, which is marked.
    pub context: Vec<String>,
}

/// Tests all that the histories allow to test; the first violation, if there is one.
pub fn check(events: &[Event], options: &Options) -> Result<Checked, Box<Violation>> {
    let mut checked = Checked { lines: events.len(), ..Checked::default() };
    for (name, events) in by_session(events) {
        let session = Session::new(&events);
        checked.count(&session);
        let mut tests = Tests::default();
        let outcome = messages::check(&session, &mut tests)
            .and_then(|()| outputs::check(&session, options, &mut tests))
            .and_then(|()| ownership::check(&session, options, &mut tests));
        outcome.map_err(|fault| fault.of(name, &events))?;
        for (invariant, tests) in tests.0 {
            *checked.tests.entry(invariant).or_default() += tests;
        }
    }
    Ok(checked)
}

/// Tests that what clients send is acknowledged within 10 s, where nothing was broken from `healed` on,
/// in microseconds of the history's clock; how many inputs were.
pub fn check_answers(events: &[Event], healed: u64) -> Result<u64, Box<Violation>> {
    let end = events.iter().map(|event| event.t).max().unwrap_or_default();
    let mut tests = Tests::default();
    for (name, events) in by_session(events) {
        let outcome = answers::check(&events, healed, end, &mut tests);
        outcome.map_err(|fault| fault.of(name, &events))?;
    }
    Ok(tests.0.get(&12).copied().unwrap_or_default())
}

/// Tests what is in these files, which it keeps for whoever looks at them later if it is not as it
/// must be.
pub fn check_files(files: &[PathBuf], options: &Options) -> anyhow::Result<(Vec<Event>, Checked)> {
    let events = read(files)?;
    match check(&events, options) {
        Ok(checked) => Ok((events, checked)),
        Err(violation) => {
            let kept = std::env::temp_dir().join(format!("single-state-{}", std::process::id()));
            std::fs::create_dir_all(&kept)?;
            for file in files {
                std::fs::copy(file, kept.join(file.file_name().unwrap_or_default()))?;
            }
            Err(*violation).with_context(|| format!("kept in {}", kept.display()))
        }
    }
}

fn by_session(events: &[Event]) -> BTreeMap<&str, Vec<&Event>> {
    let mut sessions: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        sessions.entry(&event.session).or_default().push(event);
    }
    sessions
}

/// One session's lines, in the order of their time.
struct Session<'a> {
    events: &'a [&'a Event],
    /// Its durability is `memory`.
    is_memory: bool,
    /// Some worker has written about it.
    has_owners: bool,
    /// Channels that clients have written about.
    channels: BTreeSet<&'a str>,
}

impl<'a> Session<'a> {
    fn new(all: &'a [&'a Event]) -> Self {
        let is_end = |event: &&Event| matches!(event.what, What::Delete { .. });
        // After its end, a session of this name is another one.
        let end = all.iter().position(is_end).unwrap_or(all.len());
        let events = &all[..end];
        let memory = |event: &&Event| match event.what {
            What::Welcome { durability, .. } | What::Activate { durability, .. } => {
                durability == DurabilityName::Memory
            }
            _ => false,
        };
        let client = |event: &&'a Event| event.what.client_channel();
        Self {
            events,
            is_memory: events.iter().any(memory),
            has_owners: events.iter().any(|event| matches!(event.what, What::Claim { .. })),
            channels: events.iter().filter_map(client).collect(),
        }
    }
}

impl What {
    /// The channel of a client's line.
    fn client_channel(&self) -> Option<&str> {
        match self {
            Self::Welcome { channel, .. }
            | Self::Send { channel, .. }
            | Self::Ack { channel, .. }
            | Self::Output { channel, .. }
            | Self::Reset { channel, .. }
            | Self::Closed { channel, .. }
            | Self::Found { channel, .. }
            | Self::Mirror { channel, .. } => Some(channel),
            _ => None,
        }
    }
}

/// A violation, at the line with this index.
#[derive(Debug)]
struct Fault {
    invariant: u8,
    at: usize,
    text: String,
}

impl Fault {
    fn of(self, session: &str, events: &[&Event]) -> Box<Violation> {
        let Self { invariant, at, text } = self;
        let context = context(events, at);
        Box::new(Violation { invariant, session: session.to_owned(), text, context })
    }
}

type Outcome = Result<(), Fault>;

/// How often each invariant was tested.
#[derive(Default)]
struct Tests(BTreeMap<u8, u64>);

impl Tests {
    /// Something must hold.
    fn must(
        &mut self,
        invariant: u8,
        at: usize,
        holds: bool,
        text: impl FnOnce() -> String,
    ) -> Outcome {
        *self.0.entry(invariant).or_default() += 1;
        if holds { Ok(()) } else { Err(Fault { invariant, at, text: text() }) }
    }
}

impl Checked {
    fn count(&mut self, session: &Session<'_>) {
        if session.is_memory {
            self.sessions.0 += 1;
        } else {
            self.sessions.1 += 1;
        }
        self.channels += session.channels.len();
        let mut acked: BTreeMap<&str, u64> = BTreeMap::new();
        let mut items = Vec::new();
        for event in session.events {
            match &event.what {
                What::Ack { channel, n } => {
                    let acked = acked.entry(channel).or_default();
                    *acked = (*acked).max(*n);
                }
                What::Send { channel, n, item: Some(_) } => items.push((channel.as_str(), *n)),
                _ => {}
            }
        }
        let is_acked =
            |(channel, n): &&(&str, u64)| acked.get(channel).is_some_and(|last| n <= last);
        self.items.0 += items.len();
        self.items.1 += items.iter().filter(is_acked).count();
    }
}

impl Display for Checked {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { lines, sessions: (memory, others), channels, items: (sent, acked), tests } =
            self;
        writeln!(
            f,
            "{lines} lines: {others} sessions, and {memory} in memory only, with {channels} channels"
        )?;
        writeln!(
            f,
            "{sent} items sent; of {acked} acknowledged none is lost, of all none is twice or out of order"
        )?;
        let tests: Vec<_> = (1..=11_u8)
            .map(|number| format!("I{number} {}", tests.get(&number).unwrap_or(&0)))
            .collect();
        write!(f, "tests: {}", tests.join(", "))
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { invariant, session, text, context } = self;
        write!(f, "I{invariant} does not hold in session {session}: {text}")?;
        context.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl std::error::Error for Violation {}

fn context(events: &[&Event], at: usize) -> Vec<String> {
    let (from, to) = (at.saturating_sub(AROUND), (at + AROUND).min(events.len()));
    let line = |(index, event): (usize, &&Event)| {
        let mark = if from + index == at { ">" } else { " " };
        format!("{mark} {}", serde_json::to_string(event).unwrap_or_default())
    };
    events[from..to].iter().enumerate().map(line).collect()
}
