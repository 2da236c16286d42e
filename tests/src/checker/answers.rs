//! That clients are answered, once nothing is broken any more (I12).

use std::collections::BTreeMap;

use super::{Outcome, Tests};
use crate::history::{End, Event, What};

/// An input is acknowledged within so many microseconds.
const WITHIN: u64 = 10_000_000;

/// An input that waits for its acknowledgement.
struct Sent {
    at: usize,
    n: u64,
    due: u64,
}

#[derive(Default)]
struct Channel {
    /// It is one of a client that hears of acknowledgements.
    is_numbered: bool,
    waiting: Vec<Sent>,
}

/// Tests one session's lines: nothing was broken from `healed` on, and somebody listened until `end`.
pub(super) fn check(events: &[&Event], healed: u64, end: u64, tests: &mut Tests) -> Outcome {
    let mut channels: BTreeMap<&str, Channel> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        let Some(name) = event.what.client_channel() else { continue };
        let channel = channels.entry(name).or_default();
        match &event.what {
            What::Send { n, .. } => {
                let due = event.t.max(healed) + WITHIN;
                channel.waiting.push(Sent { at, n: *n, due });
            }
            What::Ack { n, .. } => channel.acked(*n, event.t, at, name, tests)?,
            What::Welcome { applied, .. } => {
                channel.is_numbered = true;
                match applied {
                    Some(n) => channel.acked(*n, event.t, at, name, tests)?,
                    None => channel.waiting.clear(),
                }
            }
            // Whoever has gone, or was sent away for good, waits no more.
            What::Closed { end: End::Client, .. } => channel.waiting.clear(),
            What::Closed { end: End::Server, code: 4400..5000, .. } => channel.waiting.clear(),
            _ => {}
        }
    }
    for (name, channel) in channels.iter().filter(|(_, channel)| channel.is_numbered) {
        for Sent { at, n, due } in &channel.waiting {
            tests.must(12, *at, *due >= end, || {
                format!(
                    "input {n} of {name} is not acknowledged {} s later",
                    (end - due) / 1_000_000 + 10
                )
            })?;
        }
    }
    Ok(())
}

impl Channel {
    /// Inputs up to this one are acknowledged.
    fn acked(&mut self, last: u64, t: u64, at: usize, name: &str, tests: &mut Tests) -> Outcome {
        let (acked, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|sent| sent.n <= last);
        self.waiting = waiting;
        let acked: Vec<Sent> = acked;
        acked.iter().try_for_each(|Sent { n, due, .. }| {
            tests.must(12, at, t <= *due, || {
                format!("input {n} of {name} is acknowledged {} ms too late", (t - due) / 1000)
            })
        })
    }
}
