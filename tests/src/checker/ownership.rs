//! Owners: who claims, applies and commits what, and when (I1 to I3 as owners see them, I7 to I10).

use std::collections::{BTreeMap, BTreeSet};

use single_state_proto::browser::ResetReason;

use super::{Options, Outcome, Session, Tests};
use crate::history::{Event, What};
use crate::siphash::siphash24;

/// One ownership.
struct Owner<'a> {
    by: &'a str,
    /// When its claim was answered.
    claimed: u64,
    is_active: bool,
    /// It has no say any more, and why.
    over: Option<&'static str>,
    /// Of its last commit.
    version: u64,
    /// The last input of each channel.
    applied: BTreeMap<&'a str, u64>,
}

/// What was committed, by the highest epoch that has done it.
#[derive(Default)]
struct Committed<'a> {
    version: u64,
    applied: BTreeMap<&'a str, u64>,
}

#[derive(Default)]
struct Owners<'a> {
    owners: BTreeMap<u64, Owner<'a>>,
    /// Commits of each epoch together.
    committed: BTreeMap<u64, Committed<'a>>,
    /// What clients have heard to be done.
    acked: BTreeMap<&'a str, u64>,
    /// Channels that their session has given up, and told so.
    expired: BTreeSet<&'a str>,
    /// Channels that clients have heard of again, with when they last did.
    heard: BTreeMap<&'a str, u64>,
    last_by: &'a str,
}

pub(super) fn check(session: &Session<'_>, options: &Options, tests: &mut Tests) -> Outcome {
    let mut owners = Owners::default();
    for event in session.events {
        match &event.what {
            What::Welcome { channel, applied: None, .. } => {
                owners.expired.insert(channel);
            }
            What::Welcome { channel, .. } => {
                owners.heard.insert(channel, event.t);
            }
            What::Reset { channel, reason: ResetReason::ChannelExpired } => {
                owners.expired.insert(channel);
            }
            _ => {}
        }
    }
    for (at, event) in session.events.iter().enumerate() {
        match &event.what {
            What::Claim { .. } => owners.claim(session, options, at, tests)?,
            What::Activate { epoch, version, applied, .. } => {
                owners.activate(session, event, (*epoch, *version), applied, at, tests)?;
            }
            What::Apply { epoch, channel, n } => {
                owners.apply(session, event, *epoch, (channel, *n), at, tests)?;
            }
            What::Commit { .. } => owners.commit(session, at, tests)?,
            What::Ack { channel, n } | What::Welcome { channel, applied: Some(n), .. } => {
                let acked = owners.acked.entry(channel).or_default();
                *acked = (*acked).max(*n);
            }
            What::Fenced { epoch } => owners.over(*epoch, "was fenced"),
            What::Passivate { epoch } => owners.over(*epoch, "has left memory"),
            _ => {}
        }
    }
    Ok(())
}

impl<'a> Owners<'a> {
    fn over(&mut self, epoch: u64, why: &'static str) {
        if let Some(owner) = self.owners.get_mut(&epoch) {
            owner.over.get_or_insert(why);
        }
    }

    fn claim(
        &mut self,
        session: &Session<'a>,
        options: &Options,
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        let event = session.events[at];
        let What::Claim { epoch, asked, .. } = &event.what else { return Ok(()) };
        if !session.is_memory {
            let twin = self.owners.get(epoch).map(|owner| owner.by);
            tests.must(7, at, twin.is_none(), || {
                format!("epoch {epoch} is claimed twice, by {twin:?} too")
            })?;
            // A claim that was under way when another was answered may have been before it.
            let before = self.owners.iter().rev().find(|(_, owner)| owner.claimed < *asked);
            let before = before.map_or(0, |(epoch, _)| *epoch);
            tests.must(7, at, *epoch > before, || {
                format!("epoch {epoch} is claimed after {before} was")
            })?;
        }
        if self.last_by != event.by {
            placed(options, event, at, tests)?;
        }
        self.last_by = &event.by;
        let owner = Owner {
            by: &event.by,
            claimed: event.t,
            is_active: false,
            over: None,
            version: 0,
            applied: BTreeMap::new(),
        };
        self.owners.insert(*epoch, owner);
        Ok(())
    }

    fn activate(
        &mut self,
        session: &Session<'a>,
        event: &'a Event,
        (epoch, version): (u64, u64),
        applied: &'a BTreeMap<String, u64>,
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        let owner = self.owner(event, epoch, at, tests)?;
        (owner.is_active, owner.version) = (true, version);
        owner.applied = applied.iter().map(|(channel, n)| (channel.as_str(), *n)).collect();
        if session.is_memory {
            return Ok(());
        }
        for (earlier, committed) in self.committed.range(..epoch) {
            let newest = committed.version;
            tests.must(8, at, version >= newest, || {
                format!("epoch {epoch} begins with version {version}, {earlier} has saved {newest}")
            })?;
            for (channel, n) in &committed.applied {
                // One that is missing has ended, or was given up, which its client must hear.
                let found = applied.get(*channel).copied().unwrap_or(*n);
                tests.must(1, at, found >= *n, || {
                    format!("epoch {epoch} finds {found} of {channel}, {earlier} has saved {n}")
                })?;
            }
        }
        for (channel, n) in self.acked.iter().filter(|(_, n)| **n > 0) {
            let is_over = self.expired.contains(channel)
                || self.heard.get(channel).is_none_or(|heard| *heard < event.t);
            let found = applied.get(*channel).copied();
            let holds = found.map_or(is_over, |found| found >= *n);
            tests.must(1, at, holds, || {
                format!("epoch {epoch} finds {found:?} of {channel}, {n} was acknowledged")
            })?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        session: &Session<'a>,
        event: &'a Event,
        epoch: u64,
        (channel, n): (&'a str, u64),
        at: usize,
        tests: &mut Tests,
    ) -> Outcome {
        // A channel that the client has numbered from 1, and was never given up.
        let is_whole = session.channels.contains(channel) && !self.expired.contains(channel);
        let owner = self.owner(event, epoch, at, tests)?;
        let is_active = owner.is_active;
        tests.must(10, at, is_active, || {
            format!("epoch {epoch} applies an input and was never activated")
        })?;
        let first = if is_whole && !session.is_memory { Some(0) } else { None };
        let last = owner.applied.insert(channel, n).or(first);
        let Some(last) = last else { return Ok(()) };
        if !session.is_memory {
            tests.must(2, at, n > last, || {
                format!("input {n} of {channel} is applied again, {last} was the last")
            })?;
        }
        tests.must(3, at, n == last + 1, || {
            format!("input {n} of {channel} is applied, {last} was the last")
        })
    }

    fn commit(&mut self, session: &Session<'a>, at: usize, tests: &mut Tests) -> Outcome {
        let event = session.events[at];
        let What::Commit { epoch, asked, version, applied } = &event.what else { return Ok(()) };
        let later = self.owners.range(epoch + 1..).find(|(_, owner)| owner.claimed < *asked);
        if !session.is_memory {
            let later = later.map(|(epoch, _)| *epoch);
            tests.must(8, at, later.is_none(), || {
                format!("epoch {epoch} saves after {later:?} was claimed")
            })?;
        }
        let owner = self.owner(event, *epoch, at, tests)?;
        let last = owner.version;
        if !session.is_memory {
            tests.must(8, at, *version > last, || {
                format!("epoch {epoch} saves version {version} after {last}")
            })?;
        }
        owner.version = *version;
        let committed = self.committed.entry(*epoch).or_default();
        committed.version = *version;
        for (channel, n) in applied {
            let last = committed.applied.insert(channel, *n).unwrap_or(0);
            if !session.is_memory {
                tests.must(1, at, *n >= last, || {
                    format!("version {version} has {n} of {channel}, an earlier one {last}")
                })?;
            }
        }
        Ok(())
    }

    /// Who acts by this epoch: whoever has claimed it, and has not lost it.
    fn owner(
        &mut self,
        event: &Event,
        epoch: u64,
        at: usize,
        tests: &mut Tests,
    ) -> Result<&mut Owner<'a>, super::Fault> {
        let known = self.owners.get(&epoch);
        let (by, over) = known.map_or(("nobody", None), |owner| (owner.by, owner.over));
        tests.must(8, at, by == event.by, || {
            format!("{} acts by epoch {epoch}, which {by} has claimed", event.by)
        })?;
        tests.must(9, at, over.is_none(), || {
            format!("epoch {epoch} {}, and goes on", over.unwrap_or_default())
        })?;
        let missing = super::Fault { invariant: 8, at, text: String::new() };
        self.owners.get_mut(&epoch).ok_or(missing)
    }
}

/// A session is claimed where some topology of the time places it, with those workers skipped that
/// the claim names; or by whoever has found that its timer is due.
fn placed(options: &Options, event: &Event, at: usize, tests: &mut Tests) -> Outcome {
    let What::Claim { reason, down, passed_over, .. } = &event.what else { return Ok(()) };
    let Some((key, sizes)) = &options.placement else { return Ok(()) };
    let skipped = [down.as_slice(), passed_over].concat();
    let homes: BTreeSet<_> =
        sizes.iter().map(|workers| place(key, &event.session, *workers, &skipped)).collect();
    let is_home = homes.iter().any(|home| event.by.starts_with(&format!("worker-{home}/")));
    tests.must(10, at, is_home || reason == "due", || {
        format!("{} claims what belongs to one of the workers {homes:?}", event.by)
    })
}

/// Where a session belongs while some workers are skipped, by the tests' own arithmetic.
fn place(key: &[u8; 16], session: &str, workers: u64, skipped: &[u16]) -> u64 {
    let mut salted = session.as_bytes().to_vec();
    let mut place = siphash24(key, &salted) % workers;
    let is_skipped = |place: u64| skipped.iter().any(|index| u64::from(*index) == place);
    for attempt in 1..=255_u8 {
        if !is_skipped(place) {
            return place;
        }
        salted.truncate(session.len());
        salted.push(attempt);
        place = siphash24(key, &salted) % workers;
    }
    (0..workers).find(|place| !is_skipped(*place)).unwrap_or(place)
}
