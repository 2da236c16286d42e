//! When a session's changes are committed, and how far it may run ahead: pure, `now` is an argument.
//!
//! ```text
//!              a message was handled               snapshot taken
//!     clean ─────────────────────────▶ changed ─────────────────────▶ in flight ──┐
//!       ▲                                 ▲      done, but changed since │        │ failed: the same
//!       │                                 └──────────────────────────────┤        │ save goes again
//!       └────────────────────────────────── done ────────────────────────┴────────┘
//! ```
//!
//! One save of a session is in flight at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use single_state_proto::frame::Durability;
use single_state_store::Version;
use tokio::time::Instant;

/// While a save fails, so many messages are handled beyond it.
const AHEAD_OF_FAILING: u32 = 256;

/// A commit in `relaxed` waits at least this many times as long as encoding took (R21).
const REST_AFTER_ENCODING: u32 = 20;

/// How a worker commits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) durability: Durability,
    /// In `relaxed`, a change waits at most so long.
    pub(crate) interval: Duration,
}

/// Large inputs that the next save keeps or, `None`, forgets.
pub(crate) type Inputs = BTreeMap<String, Option<Bytes>>;

/// Large inputs on their way to the store.
#[derive(Debug, Default)]
struct Keeping {
    next: Inputs,
    in_flight: Inputs,
}

/// What is known of a session's commits.
#[derive(Debug)]
pub(super) struct Saving {
    durability: Durability,
    /// Of the policy, in ms.
    interval: u32,
    /// The store has a row for the session.
    pub(super) has_row: bool,
    /// Of the newest snapshot taken.
    version: Version,
    /// Length of the newest snapshot.
    pub(super) bytes: usize,
    /// Since when there is something to commit.
    changed: Option<Instant>,
    /// A hook has run, which may have changed the state: committed when the session leaves memory.
    hinted: bool,
    /// It is to be committed at once.
    eager: bool,
    /// A save is on its way, of changes since then …
    in_flight: Option<Instant>,
    /// … and has failed before.
    failing: bool,
    /// Messages handled since the newest snapshot.
    ahead: u32,
    /// No snapshot before this moment.
    rest_until: Option<Instant>,
    /// The session cannot be saved as it is; its user was told.
    pub(super) unsaveable: bool,
    /// Few sessions keep any.
    keeping: Option<Box<Keeping>>,
    /// Where the committer has it in its queue.
    pub(super) queued: Option<(Instant, u64)>,
}

impl Saving {
    pub(super) fn new(policy: Policy, version: Version, has_row: bool) -> Self {
        Self {
            durability: policy.durability,
            interval: u32::try_from(policy.interval.as_millis()).unwrap_or(u32::MAX),
            has_row,
            version,
            bytes: 0,
            changed: None,
            hinted: false,
            eager: false,
            in_flight: None,
            failing: false,
            ahead: 0,
            rest_until: None,
            unsaveable: false,
            keeping: None,
            queued: None,
        }
    }

    /// Of the newest snapshot.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// Outputs wait for their commit.
    pub(super) fn is_gated(&self) -> bool {
        self.durability == Durability::Durable
    }

    /// A message was handled. Most often it is not the first since the last snapshot, and the time
    /// is not asked for.
    pub(super) fn handled(&mut self, now: impl FnOnce() -> Instant) {
        self.ahead = self.ahead.saturating_add(1);
        self.changed.get_or_insert_with(now);
    }

    /// A hook was called.
    pub(super) fn hint(&mut self) {
        self.hinted = true;
    }

    /// What there is to commit does not wait.
    pub(super) fn hurry(&mut self) {
        self.eager = true;
    }

    /// Everything that may have changed is to be committed, at once: the session leaves memory.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.hinted {
            self.changed.get_or_insert(now);
        }
        self.eager = true;
    }

    /// Whether the store has everything.
    pub(super) fn is_clean(&self) -> bool {
        !self.is_dirty() && !self.hinted
    }

    /// Whether messages were handled that the store does not know of.
    pub(super) fn is_dirty(&self) -> bool {
        self.changed_since().is_some()
    }

    /// Whether a save is on its way.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Since when there is something that is not committed.
    pub(super) fn changed_since(&self) -> Option<Instant> {
        self.in_flight.or(self.changed)
    }

    /// Whether no snapshot may be taken yet.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| until > now)
    }

    /// When the next snapshot is to be taken.
    pub(super) fn due(&self) -> Option<Instant> {
        let changed = self.changed.filter(|_| self.in_flight.is_none())?;
        match self.durability {
            _ if self.eager && self.durability != Durability::Relaxed => Some(changed),
            Durability::Memory => None,
            Durability::Durable => Some(changed),
            Durability::Relaxed => {
                let wait = if self.eager {
                    Duration::ZERO
                } else {
                    Duration::from_millis(self.interval.into())
                };
                let due = changed + wait;
                Some(self.rest_until.map_or(due, |rest| due.max(rest)))
            }
        }
    }

    /// Whether the session has gone as far beyond a failing save as it may.
    pub(super) fn is_too_far_ahead(&self) -> bool {
        self.failing && self.ahead >= AHEAD_OF_FAILING
    }

    /// A snapshot is being taken: its version, and the inputs that are kept with it.
    pub(super) fn begin(&mut self) -> (Version, Inputs) {
        self.version.0 += 1;
        self.in_flight = Some(self.changed.take().unwrap_or_else(Instant::now));
        (self.eager, self.hinted, self.failing, self.ahead) = (false, false, false, 0);
        let inputs = self.keeping.as_mut().map(|keeping| {
            keeping.in_flight = std::mem::take(&mut keeping.next);
            keeping.in_flight.clone()
        });
        (self.version, inputs.unwrap_or_default())
    }

    /// The snapshot took so long.
    pub(super) fn encoded(&mut self, now: Instant, took: Duration) {
        let rest = took * REST_AFTER_ENCODING;
        // What is shorter than the timer's own steps is nothing to wait for.
        self.rest_until = (rest > Duration::from_millis(1)).then(|| now + rest);
    }

    /// The snapshot could not be taken: what was to be saved still is.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.in_flight = None;
        self.changed.get_or_insert(now);
        if let Some(Keeping { next, in_flight }) = self.keeping.as_deref_mut() {
            let newer = std::mem::replace(next, std::mem::take(in_flight));
            next.extend(newer);
        }
    }

    /// The save is committed.
    pub(super) fn done(&mut self) {
        (self.in_flight, self.failing, self.has_row) = (None, false, true);
        if let Some(keeping) = &mut self.keeping {
            keeping.in_flight.clear();
        }
        self.keeping.take_if(|keeping| keeping.next.is_empty());
    }

    /// Keeps, or forgets, a large input with the next snapshot.
    pub(super) fn keep(&mut self, name: &str, bytes: Option<Bytes>) {
        self.keeping.get_or_insert_default().next.insert(name.to_owned(), bytes);
    }

    /// What the store does not know yet of a large input; `None` when the store knows.
    pub(super) fn unsaved_input(&self, name: &str) -> Option<Option<Bytes>> {
        let Keeping { next, in_flight } = self.keeping.as_deref()?;
        next.get(name).or_else(|| in_flight.get(name)).cloned()
    }

    /// It is not known to be committed, and goes again.
    pub(super) fn failed(&mut self) {
        self.failing = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn saving(durability: Durability) -> (Saving, Instant) {
        let policy = Policy { durability, interval: SECOND };
        (Saving::new(policy, Version(0), false), Instant::now())
    }

    #[test]
    fn a_change_waits_for_the_interval_unless_it_is_urgent() {
        let (mut saving, now) = saving(Durability::Relaxed);
        assert_eq!(saving.due(), None);
        saving.handled(|| now);
        saving.handled(|| now + SECOND / 2);
        assert_eq!(saving.due(), Some(now + SECOND));
        saving.hurry();
        assert_eq!(saving.due(), Some(now));
    }

    #[test]
    fn durable_changes_do_not_wait_and_those_in_memory_are_committed_only_on_leaving() {
        let (mut durable, now) = saving(Durability::Durable);
        durable.handled(|| now);
        assert_eq!(durable.due(), Some(now));
        let (mut memory, now) = saving(Durability::Memory);
        memory.handled(|| now);
        assert_eq!(memory.due(), None);
        memory.settle(now);
        assert_eq!(memory.due(), Some(now));
    }

    #[test]
    fn one_save_is_in_flight_and_what_changes_meanwhile_is_the_next_one() {
        let (mut saving, now) = saving(Durability::Durable);
        saving.handled(|| now);
        assert_eq!(saving.begin().0, Version(1));
        saving.handled(|| now + SECOND);
        assert_eq!(saving.due(), None);
        saving.done();
        assert_eq!(saving.due(), Some(now + SECOND));
        assert_eq!(saving.begin().0, Version(2));
        saving.done();
        assert!(saving.is_clean());
    }

    #[test]
    fn large_states_rest_between_their_commits() {
        let (mut saving, now) = saving(Durability::Relaxed);
        saving.handled(|| now);
        saving.begin();
        saving.encoded(now, SECOND);
        saving.done();
        saving.handled(|| now + SECOND);
        saving.hurry();
        assert_eq!(saving.due(), Some(now + 20 * SECOND));
    }

    #[test]
    fn a_session_runs_only_so_far_ahead_of_a_failing_save() {
        let (mut saving, now) = saving(Durability::Relaxed);
        saving.handled(|| now);
        saving.begin();
        for _ in 0..10 * AHEAD_OF_FAILING {
            saving.handled(|| now);
        }
        assert!(!saving.is_too_far_ahead(), "a slow save is bounded by what clients keep");
        saving.failed();
        assert!(saving.is_too_far_ahead());
        saving.done();
        assert!(!saving.is_too_far_ahead());
    }

    #[test]
    fn a_hook_alone_causes_no_save_until_the_session_leaves() {
        let (mut saving, now) = saving(Durability::Relaxed);
        saving.hint();
        assert_eq!(saving.due(), None);
        assert!(!saving.is_clean());
        saving.settle(now);
        assert_eq!(saving.due(), Some(now));
    }

    #[test]
    fn inputs_to_keep_stay_with_their_save_and_survive_one_that_was_abandoned() {
        let (mut saving, now) = saving(Durability::Relaxed);
        saving.keep("a", Some(Bytes::from_static(b"1")));
        saving.keep("b", Some(Bytes::from_static(b"1")));
        saving.handled(|| now);
        assert_eq!(saving.begin().1.len(), 2);
        saving.keep("a", None);
        saving.abandon(now);
        let (_, inputs) = saving.begin();
        assert_eq!((&inputs["a"], inputs["b"].is_some()), (&None, true));
    }
}
