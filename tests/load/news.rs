//! What the processes of a swarm tell each other, a line of JSON each: orders go down, news come up.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

/// Latencies up to a minute, in microseconds, to three digits.
const LONGEST_US: u64 = 60_000_000;

/// Which browsers a process has: those whose number is `index` modulo `count`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) count: usize,
    /// When the swarm began, by the clock of [`single_state_tests::history::now`].
    pub(crate) began: u64,
    /// Where it writes its history; empty is nowhere.
    pub(crate) history: String,
}

/// A text that is not `INDEX/COUNT/BEGAN/HISTORY`.
#[derive(Debug, thiserror::Error)]
#[error("only a swarm itself gives this")]
pub(crate) struct NotAPart;

impl FromStr for Part {
    type Err = NotAPart;

    fn from_str(text: &str) -> Result<Self, NotAPart> {
        let mut fields = text.splitn(4, '/');
        let mut number = || fields.next()?.parse::<u64>().ok();
        let numbers = (|| Some((number()?, number()?, number()?)))();
        let (index, count, began) = numbers.ok_or(NotAPart)?;
        let history = fields.next().ok_or(NotAPart)?.to_owned();
        Ok(Self { index: index as usize, count: count as usize, began, history })
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { index, count, began, history } = self;
        write!(f, "{index}/{count}/{began}/{history}")
    }
}

/// What browsers are to do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Connect, and wait for the others.
    Connect,
    /// Send.
    Warm,
    /// … and measure what is due from now on.
    Measure,
    /// Begin nothing new.
    Rest,
    /// Give up what is not answered.
    Over,
}

/// What a process says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// A second has passed.
    Second(Second),
    /// All browsers are connected, or cannot be.
    Connected(Tally),
    /// The end.
    Ended(Tally),
}

/// One second of one process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Its number, from when the swarm began.
    pub(crate) number: u64,
    /// Browsers that are connected at its end.
    pub(crate) connected: u64,
    /// Errors and closed sockets so far.
    pub(crate) wrong: u64,
    /// What was answered.
    pub(crate) latencies: Latencies,
}

/// What has come of the browsers of one process, or of all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Browsers that have been connected.
    pub(crate) connected: u64,
    /// Messages answered that were due while it was measured.
    pub(crate) round_trips: u64,
    /// … and those that were not answered in the end.
    pub(crate) unanswered: u64,
    /// Error messages and failed connections.
    pub(crate) errors: u64,
    /// Sockets that the server closed.
    pub(crate) closed: u64,
    /// Items that a session has more than once, as far as its counts tell.
    pub(crate) doubled: u64,
    /// Times that a browser has come back to its session.
    pub(crate) returns: u64,
    /// Of all messages that were due while it was measured, answered or not.
    pub(crate) latencies: Latencies,
    /// What was wrong, the first of each kind.
    pub(crate) reasons: Vec<String>,
}

impl Tally {
    /// Adds what another process has.
    pub(crate) fn add(&mut self, other: Self) {
        self.connected += other.connected;
        self.round_trips += other.round_trips;
        self.unanswered += other.unanswered;
        self.errors += other.errors;
        self.closed += other.closed;
        self.doubled += other.doubled;
        self.returns += other.returns;
        self.latencies.add(&other.latencies);
        other.reasons.into_iter().for_each(|reason| self.note(reason));
    }

    /// Keeps the first few different reasons.
    pub(crate) fn note(&mut self, reason: String) {
        if self.reasons.len() < 10 && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

/// A histogram of microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Latencies(pub(crate) Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(LONGEST_US, 3).expect("these bounds are right"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, micros: u64) {
        self.0.saturating_record(micros.max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// So many of each hundred are not slower, in microseconds.
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_quantile(percent / 100.0)
    }
}

impl From<Latencies> for String {
    fn from(Latencies(histogram): Latencies) -> Self {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut bytes).expect("it is written to memory");
        STANDARD.encode(bytes)
    }
}

impl TryFrom<String> for Latencies {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self, anyhow::Error> {
        let bytes = STANDARD.decode(text)?;
        Ok(Self(Deserializer::new().deserialize(&mut bytes.as_slice())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_of_several_processes_become_one() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        (1..=99).for_each(|_| one.record(100));
        other.record(50_000);
        let text = serde_json::to_string(&other).unwrap();
        one.add(&serde_json::from_str(&text).unwrap());
        assert_eq!((one.0.len(), one.percentile(50.0)), (100, 100));
        assert!(one.percentile(100.0).abs_diff(50_000) < 50);
    }

    #[test]
    fn a_part_is_read_as_it_is_written() {
        let part = Part { index: 1, count: 3, began: 7, history: "/a/b".to_owned() };
        assert_eq!(part.to_string().parse::<Part>().unwrap(), part);
        assert!("1/2".parse::<Part>().is_err());
    }
}
