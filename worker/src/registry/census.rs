//! How many sessions do what. Counted when somebody asks, which looks at each of them.

use std::time::Duration;

use tokio::time::Instant;

use super::{Entry, Registry};

/// Sessions of a worker by what they do. Those that only wait for messages are in none of these
/// numbers, and one that is to be committed before it leaves is in two.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// They are claimed and loaded.
    pub(crate) loading: usize,
    /// They have changes that are not committed.
    pub(crate) dirty: usize,
    /// Their app's state is not in memory.
    pub(crate) asleep: usize,
    /// They are about to leave memory.
    pub(crate) leaving: usize,
    oldest_change: Option<Instant>,
}

impl Census {
    /// For how long the oldest change that is not committed has been waiting.
    pub(crate) fn oldest_change(&self) -> Duration {
        self.oldest_change.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Registry {
    /// Counts all sessions.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for entry in self.sessions.borrow().values() {
            let Entry::Resident(resident) = entry else {
                census.loading += 1;
                continue;
            };
            census.asleep += usize::from(resident.is_asleep());
            census.leaving += usize::from(resident.leaving().is_some());
            if let Some(since) = resident.changed_since() {
                census.dirty += 1;
                census.oldest_change = Some(census.oldest_change.map_or(since, |o| o.min(since)));
            }
        }
        census
    }
}
