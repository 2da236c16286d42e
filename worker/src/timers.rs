//! Messages that a session has scheduled to itself: pure, `now` is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;

/// What `schedule` has planned. One message for each key.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_key: BTreeMap<Box<str>, (Instant, u64, Bytes)>,
    by_time: BTreeSet<(Instant, Box<str>)>,
    /// How many were ever scheduled; the number of the last one.
    scheduled: u64,
}

impl Timers {
    /// Plans `message` for `due`, in place of what was planned for `key`.
    pub(crate) fn schedule(&mut self, key: &str, due: Instant, message: Bytes) {
        self.cancel(key);
        self.by_time.insert((due, key.into()));
        self.scheduled += 1;
        self.by_key.insert(key.into(), (due, self.scheduled, message));
    }

    /// Forgets what was planned for `key`; whether something was.
    pub(crate) fn cancel(&mut self, key: &str) -> bool {
        match self.by_key.remove_entry(key) {
            Some((key, (due, ..))) => self.by_time.remove(&(due, key)),
            None => false,
        }
    }

    /// When the next message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Whether a message is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_due().is_some_and(|due| due <= now)
    }

    /// The message that has been due for longest, with its number.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(u64, Bytes)> {
        if !self.is_due(now) {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key).map(|(_, number, message)| (number, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn messages_come_when_they_are_due_and_in_that_order() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        timers.schedule("b", after(2), "b".into());
        timers.schedule("a", after(1), "a".into());
        assert_eq!(timers.next_due(), Some(after(1)));
        assert_eq!(timers.pop_due(now), None);
        assert_eq!(timers.pop_due(after(2)), Some((2, "a".into())));
        assert_eq!(timers.pop_due(after(2)), Some((1, "b".into())));
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn the_same_key_replaces_and_a_cancelled_one_never_comes() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        timers.schedule("a", now, "old".into());
        timers.schedule("a", now, "new".into());
        timers.schedule("b", now, "b".into());
        assert!(timers.cancel("b"));
        assert!(!timers.cancel("b"));
        assert_eq!(timers.pop_due(now), Some((2, "new".into())));
        assert_eq!(timers.pop_due(now), None);
    }
}
