//! What clients are told: nothing before its commit (I5), in order and the same to all (I6), by owners
//! that follow each other (I7), until the client itself leaves (I11).

use std::collections::BTreeMap;

use serde_json::Value;
use single_state_proto::browser::DurabilityName;

use super::{Options, Outcome, Session, Tests};
use crate::history::{End, What};

/// One channel's view.
#[derive(Default)]
struct View {
    /// The owner it was last told of.
    epoch: u64,
    /// The last output; 0 after a reset.
    revision: u64,
    connected: bool,
    /// How many items it was last told that there are.
    count: Option<u64>,
}

#[derive(Default)]
struct Views<'a> {
    views: BTreeMap<&'a str, View>,
    /// The last inputs that owners have committed, and how many items these are.
    committed: BTreeMap<&'a str, u64>,
    /// Items sent, by channel and number.
    items: Vec<(&'a str, u64)>,
    /// The last mirror, unless something was sent since.
    mirror: Option<&'a BTreeMap<String, Value>>,
    is_durable: bool,
}

pub(super) fn check(session: &Session<'_>, options: &Options, tests: &mut Tests) -> Outcome {
    let mut views = Views::default();
    for (at, event) in session.events.iter().enumerate() {
        match &event.what {
            What::Welcome { channel, epoch, resumed, applied, durability, .. } => {
                views.is_durable = *durability == DurabilityName::Durable;
                let view = views.views.entry(channel).or_default();
                let before = view.epoch;
                if !session.is_memory {
                    tests.must(7, at, *epoch >= before, || {
                        format!("{channel} is welcomed by epoch {epoch} after {before}")
                    })?;
                }
                (view.epoch, view.connected) = (*epoch, true);
                if !resumed {
                    (view.revision, view.count) = (0, None);
                }
                views.acked(session, channel, applied.unwrap_or(0), at, tests)?;
            }
            What::Ack { channel, n } => views.acked(session, channel, *n, at, tests)?,
            What::Reset { channel, .. } => {
                let view = views.views.entry(channel).or_default();
                (view.revision, view.count) = (0, None);
            }
            What::Output { channel, epoch, rev, count, .. } => {
                views.output(channel, *epoch, *rev, at, tests)?;
                if let Some(count) = count {
                    views.counted(session, *count, at, tests)?;
                    views.views.entry(channel).or_default().count = Some(*count);
                }
            }
            What::Closed { channel, code, end } => {
                views.views.entry(channel).or_default().connected = false;
                if options.no_closes {
                    tests.must(11, at, *end != End::Server, || {
                        format!("{channel} was closed with {code}")
                    })?;
                }
            }
            What::Send { channel, n, item } => {
                views.mirror = None;
                if item.is_some() {
                    views.items.push((channel, *n));
                }
            }
            What::Mirror { channel, mirror } => {
                let other = views.mirror.replace(mirror);
                tests.must(6, at, other.is_none_or(|other| other == mirror), || {
                    format!("{channel} mirrors {mirror:?}, and another channel {other:?}")
                })?;
            }
            What::Found { channel, items, .. } => {
                views.found(session, channel, items.len() as u64, at, tests)?;
            }
            What::Activate { applied, .. } | What::Commit { applied, .. } => {
                for (channel, n) in applied {
                    let last = views.committed.entry(channel).or_default();
                    *last = (*last).max(*n);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

impl Views<'_> {
    fn output(
        &mut self,
        channel: &str,
        epoch: u64,
        revision: u64,
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        let Some(view) = self.views.get_mut(channel).filter(|view| view.connected) else {
            return tests.must(6, at, false, || format!("{channel} hears before it is welcomed"));
        };
        let (last, current) = (view.revision, view.epoch);
        tests.must(6, at, epoch == current && revision > last, || {
            format!("revision {revision} of {epoch} comes to {channel} after {last} of {current}")
        })?;
        view.revision = revision;
        Ok(())
    }

    /// A list was asked for. Whoever is alone with its session has heard of each of its items by now.
    fn found(
        &self,
        session: &Session<'_>,
        channel: &str,
        items: u64,
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        let count = self.views.get(channel).and_then(|view| view.count);
        let Some(count) = count.filter(|_| session.channels.len() == 1) else { return Ok(()) };
        tests.must(6, at, count == items, || {
            format!("{channel} was told of {count} items, and finds {items}")
        })
    }

    /// Inputs of a channel are acknowledged, which they are when they are committed.
    fn acked(
        &self,
        session: &Session<'_>,
        channel: &str,
        n: u64,
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        if session.is_memory || !session.has_owners || n == 0 {
            return Ok(());
        }
        let committed = self.committed.get(channel).copied().unwrap_or(0);
        tests.must(5, at, n <= committed, || {
            format!("input {n} of {channel} is acknowledged, {committed} is the last one committed")
        })
    }

    /// An output says how many items there are.
    fn counted(&self, session: &Session<'_>, count: u64, at: usize, tests: &mut Tests) -> Outcome {
        // Channels that nobody has written about may have sent something too.
        let knows_all = self.committed.keys().all(|channel| session.channels.contains(channel));
        if !self.is_durable || !session.has_owners || !knows_all {
            return Ok(());
        }
        let is_committed = |(channel, n): &&(&str, u64)| self.committed.get(channel) >= Some(n);
        let committed = self.items.iter().filter(is_committed).count() as u64;
        tests.must(5, at, count <= committed, || {
            format!("an output knows {count} items, of which {committed} are committed")
        })
    }
}
