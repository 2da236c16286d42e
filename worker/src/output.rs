//! A session's outputs as a log that is compacted by key: pure, without tabs or links.
//!
//! ```text
//!   revision   1        2        3        4        5
//!              assign a event    assign b event    assign a      the entry at 1 is gone: a newer
//!                       ▲                          ▲             value of the key replaced it
//!                       cursor of a slow tab       cursor of a tab that has everything
//! ```
//!
//! A tab is a cursor. A slow one costs nothing: when it is ready it gets the newest value of each
//! key. Events have no newer value, so they are kept until every tab that must have them took them.
//!
//! With an output gate (durability `durable`) what is said is *held* at first: it has no revision
//! until the snapshot that contains it is taken. So a revision never means one thing to a tab and
//! another to the next owner, and what is unconfirmed on purpose can pass by what is held.

mod keys;

use std::collections::VecDeque;

use bytes::Bytes;
use single_state_proto::id::Revision;

use self::keys::Keys;

/// Events kept for tabs that have not taken them: so many …
pub(crate) const MAX_EVENTS: usize = 1000;
/// … and so many bytes. What one handler call sends is never cut.
pub(crate) const MAX_EVENT_BYTES: usize = 256 * 1024;

/// Entries that are held come after all that have a revision: they count from here.
const HELD: Revision = Revision(1 << 62);

/// What is sent for one revision.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) body: Bytes,
    pub(crate) binary: bool,
    /// Key and where its value begins in `body`; absent for an event.
    pub(crate) key: Option<(Box<str>, usize)>,
    /// The newer value of its key: it is kept only until that is committed.
    replaced_by: Option<Revision>,
}

impl Entry {
    pub(crate) fn new(body: Bytes, binary: bool, key: Option<(Box<str>, usize)>) -> Self {
        Self { body, binary, key, replaced_by: None }
    }
}

/// When an output may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// When the log is not gated: at once; else with the commit that contains its cause.
    WithItsCause,
    /// Before that.
    Unconfirmed,
}

/// Where a tab is in the log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor {
    /// The last entry sent.
    pub(crate) sent: Revision,
    /// Events up to here are not for this tab: it was not there yet.
    pub(crate) events_after: Revision,
}

/// The outputs of one session.
#[derive(Debug, Default)]
pub(crate) struct OutputLog {
    revision: Revision,
    /// In order of revision.
    entries: VecDeque<(Revision, Entry)>,
    keys: Keys,
    /// Bytes of the current values' messages.
    value_bytes: usize,
    events: usize,
    event_bytes: usize,
    /// The oldest event that is kept.
    first_event: Option<Revision>,
    /// The newest event that was dropped: who has not seen it cannot be told.
    dropped: Revision,
    /// What is said is held at first.
    gated: bool,
    /// Revision of the newest snapshot. What is in one and replaced since then is still told to
    /// tabs, until its replacement is committed: the next owner may know nothing newer, and a tab
    /// that goes on there must not have passed it by.
    snapshot: Revision,
    /// How many replaced values are kept.
    replaced: usize,
}

impl OutputLog {
    /// An empty log; `gated`: what is said is held until a snapshot contains it.
    pub(crate) fn new(gated: bool) -> Self {
        Self { gated, ..Self::default() }
    }

    /// The log that a snapshot contains.
    pub(crate) fn restore(
        gated: bool,
        revision: Revision,
        dropped: Revision,
        entries: impl Iterator<Item = (Revision, Entry)>,
    ) -> Self {
        let mut log = Self { gated, revision, dropped, snapshot: revision, ..Self::default() };
        for (revision, entry) in entries {
            if let Some((key, _)) = &entry.key {
                log.keys.set(key, revision);
            }
            log.count(revision, &entry);
            log.entries.push_back((revision, entry));
        }
        log
    }

    /// Forgets what it contains but not where it is: a snapshot has it, and it is restored from
    /// there before anybody needs it.
    pub(crate) fn clear(&mut self) {
        *self = Self::restore(self.gated, self.revision, self.dropped, std::iter::empty());
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The newest event that was dropped.
    pub(crate) fn dropped(&self) -> Revision {
        self.dropped
    }

    /// What a snapshot has to contain, in order, with the revisions that those held get by
    /// [`OutputLog::begin_snapshot`].
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Revision, &Entry)> {
        let numbered = self.entries.len() - self.held_entries();
        let entries = self.entries.iter().enumerate().map(move |(at, (revision, entry))| {
            let held = at.checked_sub(numbered).map(|at| self.revision.0 + at as u64 + 1);
            (held.map_or(*revision, Revision), entry)
        });
        entries.filter(|(_, entry)| entry.replaced_by.is_none())
    }

    /// A snapshot contains everything up to now, and what was held has its revision.
    pub(crate) fn begin_snapshot(&mut self) {
        self.number_held();
        self.snapshot = self.revision;
    }

    /// The newest snapshot is committed: what it replaces is not needed any more.
    pub(crate) fn committed(&mut self) {
        if self.replaced == 0 {
            return;
        }
        let snapshot = self.snapshot;
        self.entries.retain(|(_, entry)| entry.replaced_by.is_none_or(|by| by > snapshot));
        self.replaced = self.entries.iter().filter(|(_, e)| e.replaced_by.is_some()).count();
    }

    /// Gives revisions to what is held.
    pub(crate) fn number_held(&mut self) {
        let first = self.entries.len() - self.held_entries();
        for (revision, entry) in self.entries.range_mut(first..) {
            self.revision = self.revision.next();
            *revision = self.revision;
            if let Some((key, _)) = &entry.key {
                self.keys.set(key, self.revision);
            }
        }
        for (_, entry) in self.entries.iter_mut().take(first) {
            if entry.replaced_by.is_some_and(|by| by > HELD)
                && let Some((key, _)) = &entry.key
            {
                entry.replaced_by = self.keys.get(key);
            }
        }
        self.first_event = self.find_first_event();
    }

    /// The position of the next entry.
    fn next_revision(&mut self, leaves: Leaves) -> Revision {
        if self.gated && leaves == Leaves::WithItsCause {
            let last = self.entries.back().map_or(HELD, |(last, _)| *last);
            return last.max(HELD).next();
        }
        self.revision = self.revision.next();
        self.revision
    }

    fn held_entries(&self) -> usize {
        if !self.gated {
            return 0;
        }
        self.entries.len() - self.entries.partition_point(|(revision, _)| *revision < HELD)
    }

    fn count(&mut self, revision: Revision, entry: &Entry) {
        if entry.key.is_some() {
            self.value_bytes += entry.body.len();
        } else {
            self.events += 1;
            self.event_bytes += entry.body.len();
            self.first_event = Some(self.first_event.map_or(revision, |first| first.min(revision)));
        }
    }

    fn find_first_event(&self) -> Option<Revision> {
        self.entries.iter().find(|(_, entry)| entry.key.is_none()).map(|(revision, _)| *revision)
    }

    /// Sets `key`: `body` is the whole message, the value begins at `value_at` and ends before the
    /// closing brace.
    pub(crate) fn assign(&mut self, key_text: &str, body: Bytes, value_at: usize, leaves: Leaves) {
        let revision = self.next_revision(leaves);
        let previous = self.keys.set(key_text, revision);
        let key = previous.and_then(|previous| self.replace(previous, revision));
        let key = key.unwrap_or_else(|| key_text.into());
        self.push(revision, Entry::new(body, false, Some((key, value_at))));
    }

    /// Adds an event.
    pub(crate) fn event(&mut self, binary: bool, body: Bytes, leaves: Leaves) {
        let revision = self.next_revision(leaves);
        self.push(revision, Entry::new(body, binary, None));
    }

    /// The current value of `key`, as JSON.
    pub(crate) fn value(&self, key: &str) -> Option<Bytes> {
        let (_, entry) = self.entries.get(self.position(self.keys.get(key)?).ok()?)?;
        let (_, value_at) = entry.key.as_ref()?;
        Some(entry.body.slice(*value_at..entry.body.len() - 1))
    }

    /// Number of keys and bytes of their messages.
    pub(crate) fn values(&self) -> (usize, usize) {
        (self.keys.len(), self.value_bytes)
    }

    /// The next entry for a tab at `cursor`, of those that may leave: up to `gate`.
    pub(crate) fn next(&self, cursor: Cursor, gate: Revision) -> Option<(Revision, &Entry)> {
        let from = self.position(cursor.sent.next()).unwrap_or_else(|from| from);
        let mut rest = self.entries.range(from..);
        rest.find(|(revision, entry)| entry.key.is_some() || *revision > cursor.events_after)
            .filter(|(revision, _)| *revision <= gate)
            .map(|(revision, entry)| (*revision, entry))
    }

    /// Where the entry of `revision` is, or would be.
    fn position(&self, revision: Revision) -> Result<usize, usize> {
        // Most often it is about the last one.
        match self.entries.back() {
            Some((last, _)) if *last < revision => Err(self.entries.len()),
            Some((last, _)) if *last == revision => Ok(self.entries.len() - 1),
            _ => self.entries.binary_search_by_key(&revision, |(revision, _)| *revision),
        }
    }

    fn push(&mut self, revision: Revision, entry: Entry) {
        if self.entries.capacity() == 0 {
            // Many sessions never have more than one.
            self.entries.reserve_exact(1);
        }
        self.count(revision, &entry);
        // Held entries stay behind all that have a revision.
        let behind = if revision < HELD { self.held_entries() } else { 0 };
        self.entries.insert(self.entries.len() - behind, (revision, entry));
    }

    /// The value at `previous` has a newer one. Returns its key, if it is not needed any more.
    fn replace(&mut self, previous: Revision, by: Revision) -> Option<Box<str>> {
        let position = self.position(previous).ok()?;
        let (_, entry) = self.entries.get_mut(position)?;
        self.value_bytes -= entry.body.len();
        if previous <= self.snapshot {
            entry.replaced_by = Some(by);
            self.replaced += 1;
            return None;
        }
        let (_, Entry { key, .. }) = self.entries.remove(position)?;
        key.map(|(key, _)| key)
    }

    /// Whether a tab that saw everything up to `seen` can go on from there without loss.
    pub(crate) fn can_resume(&self, seen: Revision) -> bool {
        self.dropped <= seen && seen <= self.revision
    }

    /// Drops events up to `taken`: every tab that must have them took them.
    pub(crate) fn trim(&mut self, taken: Revision) {
        // Called after each handler: most often there is nothing to drop.
        if self.first_event.is_none_or(|first| first > taken) {
            return;
        }
        let Self { entries, events, event_bytes, dropped, .. } = self;
        entries.retain(|(revision, entry)| {
            let is_done = entry.key.is_none() && *revision <= taken;
            if is_done {
                *events -= 1;
                *event_bytes -= entry.body.len();
                *dropped = (*dropped).max(*revision);
            }
            !is_done
        });
        self.first_event = self.find_first_event();
        if self.entries.capacity() > 4 * self.entries.len() + 8 {
            self.entries.shrink_to_fit();
        }
    }

    /// Up to which revision events must be dropped to keep the limits, not counting what came after
    /// `call`, the revision at which the handler that runs now began.
    pub(crate) fn overflow(&self, call: Revision) -> Option<Revision> {
        if self.events <= MAX_EVENTS && self.event_bytes <= MAX_EVENT_BYTES {
            return None;
        }
        let (mut events, mut bytes) = (0, 0);
        let older = self.entries.iter().rev().filter(|(revision, _)| *revision <= call);
        for (revision, entry) in older.filter(|(_, entry)| entry.key.is_none()) {
            events += 1;
            bytes += entry.body.len();
            if events > MAX_EVENTS || (bytes > MAX_EVENT_BYTES && events > 1) {
                return Some(*revision);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
