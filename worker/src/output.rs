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

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use single_state_proto::id::Revision;

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
    keys: FxHashMap<Box<str>, Revision>,
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
                log.keys.insert(key.clone(), revision);
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
            if let Some((key, _)) = &entry.key
                && let Some(newest) = self.keys.get_mut(key)
            {
                *newest = self.revision;
            }
        }
        for (_, entry) in self.entries.iter_mut().take(first) {
            if entry.replaced_by.is_some_and(|by| by > HELD)
                && let Some((key, _)) = &entry.key
            {
                entry.replaced_by = self.keys.get(key).copied();
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
        let previous = match self.keys.get_mut(key_text) {
            Some(newest) => Some(std::mem::replace(newest, revision)),
            None => {
                self.keys.insert(key_text.into(), revision);
                None
            }
        };
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
        let (_, entry) = self.entries.get(self.position(*self.keys.get(key)?).ok()?)?;
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
mod tests {
    use super::*;

    fn assign(log: &mut OutputLog, key: &str, value: &str) {
        let body = Bytes::from(format!("{key}={value}}}"));
        log.assign(key, body, key.len() + 1, Leaves::WithItsCause);
    }

    fn event(log: &mut OutputLog, name: &str) {
        log.event(false, Bytes::from(name.to_owned()), Leaves::WithItsCause);
    }

    fn read(log: &OutputLog, cursor: &mut Cursor) -> Vec<String> {
        let mut bodies = Vec::new();
        while let Some((revision, entry)) = log.next(*cursor, log.revision()) {
            cursor.sent = revision;
            bodies.push(String::from_utf8(entry.body.to_vec()).unwrap());
        }
        bodies
    }

    #[test]
    fn a_slow_tab_gets_the_newest_value_of_each_key_in_order_of_change() {
        let mut log = OutputLog::default();
        let mut slow = Cursor::default();
        for i in 0..10_000 {
            assign(&mut log, "a", &i.to_string());
        }
        assign(&mut log, "b", "1");
        assign(&mut log, "a", "last");
        assert_eq!(log.entries.len(), 2, "a key costs one entry however often it changes");
        assert_eq!(read(&log, &mut slow), ["b=1}", "a=last}"]);
        assert_eq!(read(&log, &mut slow), [""; 0]);
        assign(&mut log, "b", "2");
        assert_eq!(read(&log, &mut slow), ["b=2}"]);
    }

    #[test]
    fn a_new_tab_gets_all_values_and_no_older_event() {
        let mut log = OutputLog::default();
        assign(&mut log, "a", "1");
        event(&mut log, "before");
        let mut cursor = Cursor { events_after: log.revision(), ..Cursor::default() };
        event(&mut log, "after");
        assert_eq!(read(&log, &mut cursor), ["a=1}", "after"]);
    }

    #[test]
    fn the_value_of_a_key_can_be_read_back() {
        let mut log = OutputLog::default();
        assign(&mut log, "a", "[1,2]");
        assert_eq!(log.value("a").unwrap(), "[1,2]");
        assert_eq!(log.value("b"), None);
        assert_eq!(log.values(), (1, 8));
        assign(&mut log, "a", "[]");
        assert_eq!(log.values(), (1, 5));
    }

    #[test]
    fn events_are_kept_until_they_are_taken() {
        let mut log = OutputLog::default();
        event(&mut log, "one");
        assign(&mut log, "a", "1");
        event(&mut log, "two");
        log.trim(Revision(2));
        assert_eq!(read(&log, &mut Cursor::default()), ["a=1}", "two"]);
        assert!(log.can_resume(Revision(1)));
        assert!(!log.can_resume(Revision(0)), "an event that it has not seen is gone");
        assert!(!log.can_resume(Revision(4)), "that is in the future");
    }

    #[test]
    fn events_overflow_only_by_what_was_sent_before_the_running_call() {
        let mut log = OutputLog::default();
        for _ in 0..MAX_EVENTS + 500 {
            event(&mut log, "x");
        }
        assert_eq!(log.overflow(Revision(0)), None, "one call is never cut");
        assert_eq!(log.overflow(log.revision()), Some(Revision(500)));
        log.trim(Revision(500));
        assert_eq!(log.overflow(log.revision()), None);
    }

    #[test]
    fn a_single_large_event_is_kept() {
        let mut log = OutputLog::default();
        let body = Bytes::from(vec![0; MAX_EVENT_BYTES + 1]);
        log.event(true, body, Leaves::WithItsCause);
        assert_eq!(log.overflow(log.revision()), None);
        event(&mut log, "x");
        assert_eq!(log.overflow(log.revision()), Some(Revision(1)));
    }

    #[test]
    fn what_is_held_gets_its_revision_with_the_snapshot_that_contains_it() {
        let mut log = OutputLog::new(true);
        let mut cursor = Cursor::default();
        assign(&mut log, "a", "1");
        event(&mut log, "said");
        assign(&mut log, "a", "2");
        assert_eq!((log.revision(), read(&log, &mut cursor)), (Revision(0), vec![]));
        assert_eq!(log.value("a").unwrap(), "2", "the session itself reads what is held");
        log.number_held();
        assert_eq!(log.revision(), Revision(2));
        assert_eq!(read(&log, &mut cursor), ["said", "a=2}"]);
    }

    #[test]
    fn what_is_unconfirmed_passes_by_what_is_held() {
        let mut log = OutputLog::new(true);
        let mut cursor = Cursor::default();
        assign(&mut log, "state", "running");
        log.assign("done", Bytes::from_static(b"done=1}"), 5, Leaves::Unconfirmed);
        assert_eq!(read(&log, &mut cursor), ["done=1}"]);
        assign(&mut log, "done", "2");
        log.assign("done", Bytes::from_static(b"done=3}"), 5, Leaves::Unconfirmed);
        assert_eq!(read(&log, &mut cursor), ["done=3}"], "and replaces an older value of its key");
        log.number_held();
        assert_eq!(read(&log, &mut cursor), ["state=running}"]);
        log.trim(log.revision());
        assert_eq!(log.entries().count(), 2);
    }

    #[test]
    fn a_restored_log_goes_on_where_it_was() {
        let mut log = OutputLog::default();
        assign(&mut log, "a", "1");
        event(&mut log, "one");
        log.trim(Revision(2));
        event(&mut log, "two");
        let entries: Vec<_> = log.entries().map(|(r, entry)| (r, entry.clone())).collect();
        let (revision, dropped) = (log.revision(), log.dropped());
        let mut restored = OutputLog::restore(false, revision, dropped, entries.into_iter());
        assert_eq!(read(&restored, &mut Cursor::default()), ["a=1}", "two"]);
        assert!(restored.can_resume(Revision(2)) && !restored.can_resume(Revision(1)));
        assign(&mut restored, "a", "2");
        assert_eq!(restored.values(), (1, 4));
        assert_eq!(read(&restored, &mut Cursor::default()), ["a=1}", "two", "a=2}"]);
        restored.clear();
        assert_eq!((restored.revision(), restored.entries().count()), (Revision(4), 0));
    }

    #[test]
    fn a_committed_value_is_told_until_its_replacement_is_committed_too() {
        for gated in [false, true] {
            let mut log = OutputLog::new(gated);
            assign(&mut log, "a", "1");
            assign(&mut log, "b", "1");
            log.begin_snapshot();
            log.committed();
            assign(&mut log, "a", "2");
            assign(&mut log, "a", "3");
            let mut slow = Cursor::default();
            let first = log.next(slow, log.revision()).map(|(_, entry)| entry.body.clone());
            assert_eq!(first.unwrap(), "a=1}", "the next owner may know nothing newer");
            assert_eq!(log.value("a").unwrap(), "3");
            log.begin_snapshot();
            assign(&mut log, "a", "4");
            assert_eq!(log.entries().count(), 2, "a snapshot has the newest only");
            log.committed();
            log.number_held();
            assert_eq!(read(&log, &mut slow), ["b=1}", "a=3}", "a=4}"]);
            log.begin_snapshot();
            log.committed();
            assert_eq!(read(&log, &mut Cursor::default()), ["b=1}", "a=4}"]);
            assert_eq!(log.values(), (2, 8));
        }
    }
}
