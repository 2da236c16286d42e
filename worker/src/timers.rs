//! Messages that a session has scheduled to itself: pure, `now` is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use single_state_proto::id::Epoch;

use crate::clock::Clock;
use crate::snapshot::{self, Kept};

/// What `schedule` has planned. One message for each key.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// Few sessions have planned something; the others hold no room for it.
    table: Option<Box<Table>>,
    /// How many were ever scheduled; the number of the last one.
    scheduled: u64,
}

#[derive(Debug, Default)]
struct Table {
    by_key: BTreeMap<Box<str>, (Instant, Planned)>,
    by_time: BTreeSet<(Instant, Box<str>)>,
}

/// A message that is to come. Number and epoch together are never used again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Planned {
    pub(crate) number: u64,
    /// Of the owner that planned it.
    pub(crate) epoch: Epoch,
    pub(crate) message: Bytes,
}

impl Timers {
    /// What a snapshot has of it.
    pub(crate) fn restore(kept: &Kept<'_>, clock: Clock) -> Self {
        let mut timers = Self { scheduled: kept.scheduled, ..Self::default() };
        for snapshot::Timer { key, due, number, epoch, message } in &kept.timers {
            let (due, epoch) = (clock.moment(*due), Epoch(*epoch));
            timers.plan(key, due, Planned { number: *number, epoch, message: message.clone() });
        }
        timers
    }

    /// Its counterpart.
    pub(crate) fn kept(&self, clock: Clock) -> Vec<snapshot::Timer<'_>> {
        let planned = self.table.iter().flat_map(|table| &table.by_key);
        let timers = planned.map(|(key, (due, planned))| snapshot::Timer {
            key: key.as_ref().into(),
            due: clock.unix_millis(*due),
            number: planned.number,
            epoch: planned.epoch.0,
            message: planned.message.clone(),
        });
        timers.collect()
    }

    /// How many messages were ever scheduled.
    pub(crate) fn scheduled(&self) -> u64 {
        self.scheduled
    }

    /// Plans `message` for `due`, in place of what was planned for `key`.
    pub(crate) fn schedule(&mut self, key: &str, due: Instant, epoch: Epoch, message: Bytes) {
        self.scheduled += 1;
        self.plan(key, due, Planned { number: self.scheduled, epoch, message });
    }

    fn plan(&mut self, key: &str, due: Instant, planned: Planned) {
        self.cancel(key);
        let table = self.table.get_or_insert_default();
        table.by_time.insert((due, key.into()));
        table.by_key.insert(key.into(), (due, planned));
    }

    /// Forgets what was planned for `key`; whether something was.
    pub(crate) fn cancel(&mut self, key: &str) -> bool {
        let Some(table) = &mut self.table else { return false };
        match table.by_key.remove_entry(key) {
            Some((key, (due, _))) => table.by_time.remove(&(due, key)),
            None => false,
        }
    }

    /// When the next message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.table.as_ref()?.by_time.first().map(|(due, _)| *due)
    }

    /// Whether a message is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_due().is_some_and(|due| due <= now)
    }

    /// The message that has been due for longest.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Planned> {
        if !self.is_due(now) {
            return None;
        }
        let table = self.table.as_mut()?;
        let (_, key) = table.by_time.pop_first()?;
        table.by_key.remove(&key).map(|(_, planned)| planned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const EPOCH: Epoch = Epoch(5);

    fn popped(timers: &mut Timers, now: Instant) -> Option<(u64, Bytes)> {
        timers.pop_due(now).map(|planned| (planned.number, planned.message))
    }

    #[test]
    fn messages_come_when_they_are_due_and_in_that_order() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        timers.schedule("b", after(2), EPOCH, "b".into());
        timers.schedule("a", after(1), EPOCH, "a".into());
        assert_eq!(timers.next_due(), Some(after(1)));
        assert_eq!(popped(&mut timers, now), None);
        assert_eq!(popped(&mut timers, after(2)), Some((2, "a".into())));
        assert_eq!(popped(&mut timers, after(2)), Some((1, "b".into())));
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn the_same_key_replaces_and_a_cancelled_one_never_comes() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        timers.schedule("a", now, EPOCH, "old".into());
        timers.schedule("a", now, EPOCH, "new".into());
        timers.schedule("b", now, EPOCH, "b".into());
        assert!(timers.cancel("b"));
        assert!(!timers.cancel("b"));
        assert_eq!(popped(&mut timers, now), Some((2, "new".into())));
        assert_eq!(popped(&mut timers, now), None);
    }

    #[test]
    fn what_is_planned_survives_with_its_time_and_number() {
        let clock = Clock::System;
        let (mut timers, now) = (Timers::default(), Instant::now());
        timers.schedule("past", now, EPOCH, "past".into());
        timers.schedule("far", now + Duration::from_secs(1000), EPOCH, "far".into());
        let kept = Kept { timers: timers.kept(clock), scheduled: 2, ..Kept::default() };
        let mut restored = Timers::restore(&kept, clock);
        assert_eq!(popped(&mut restored, now + Duration::from_secs(1)), Some((1, "past".into())));
        assert_eq!(popped(&mut restored, now + Duration::from_secs(990)), None);
        let planned = restored.pop_due(now + Duration::from_secs(1010)).unwrap();
        assert_eq!((planned.number, planned.epoch), (2, EPOCH));
        restored.schedule("next", now, Epoch(6), "next".into());
        assert_eq!(restored.pop_due(now).unwrap().number, 3);
    }
}
