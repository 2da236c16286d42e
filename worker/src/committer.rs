//! Group commit: saves the sessions that have changed, many with one transaction. Knows no apps;
//! a session takes its snapshot itself, when it is asked and no handler runs.
//!
//! ```text
//!   due ──a save can begin──▶ asked for its snapshot ──▶ ready ──▶ one batch ──▶ store
//!    ▲                                                     ▲                      │
//!    └────────── changed again while it was saved ─────────│── done ──────────────┤
//!                                                          └── the same bytes ◀── not known
//! ```
//!
//! A batch is all that became due while the saves before were under way: there is no timer, and
//! batches grow with the load. A save whose outcome is not known goes again with the same bytes;
//! until it is known, nothing of it is acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::FxHashSet;
use single_state_faults::{self as faults, Point};
use single_state_node::turn::give_way;
use single_state_store::{
    Claim, Claimed, MAX_BATCH, Manners, Save, Saved, SharedStore, Standing, StoreError,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::history::{Deed, History};
use crate::metrics::Metrics;
use crate::ownership::{CONFIRMED_FOR, Ownership};
use crate::resident::{Resident, Snapshot};

/// Bytes of one batch; a single larger save is one by itself.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A session that is due so soon is saved together with one that is due now: a commit early costs
/// less than a transaction of its own.
const SLACK: Duration = Duration::from_millis(100);
/// After a failure the next attempt waits so long at first …
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// … and up to so long.
const LAST_RETRY: Duration = Duration::from_secs(1);

/// A worker's saves.
pub(crate) struct Committer {
    store: SharedStore,
    ownership: Rc<Ownership>,
    metrics: Rc<Metrics>,
    history: History,
    queue: RefCell<Queue>,
    /// Saves that are under way.
    under_way: Cell<usize>,
    /// No save begins before this moment, because one has failed.
    paused_until: Cell<Option<Instant>>,
    failures: Cell<u32>,
    /// Rows of the next batch, at most: fewer after a failure, in case it was one row's.
    most: Cell<usize>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    /// By when they are due.
    due: BTreeMap<(Instant, u64), Rc<Resident>>,
    last: u64,
    ready: VecDeque<Ready>,
}

/// A snapshot that is to be saved.
struct Ready {
    resident: Rc<Resident>,
    save: Save,
}

impl Committer {
    pub(crate) fn new(
        store: SharedStore,
        ownership: Rc<Ownership>,
        metrics: Rc<Metrics>,
        history: History,
    ) -> Rc<Self> {
        Rc::new(Self {
            store,
            ownership,
            metrics,
            history,
            queue: RefCell::default(),
            under_way: Cell::new(0),
            paused_until: Cell::new(None),
            failures: Cell::new(0),
            most: Cell::new(MAX_BATCH),
            changed: Notify::new(),
        })
    }

    /// A session's commit is due then, in place of what was said of it before.
    pub(crate) fn schedule(&self, resident: &Rc<Resident>, due: Instant) {
        let mut queue = self.queue.borrow_mut();
        if let Some(place) = resident.queued() {
            queue.due.remove(&place);
        }
        queue.last += 1;
        let place = (due, queue.last);
        let is_first = queue.due.first_key_value().is_none_or(|(first, _)| place < *first);
        queue.due.insert(place, resident.clone());
        resident.set_queued(place);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// A session has left memory: what was planned for it is void.
    pub(crate) fn forget(&self, resident: &Resident) {
        if let Some(place) = resident.queued() {
            self.queue.borrow_mut().due.remove(&place);
        }
    }

    /// Takes a session's snapshot to save it.
    pub(crate) fn submit(&self, resident: Rc<Resident>, snapshot: Snapshot) {
        self.metrics.encode_seconds.observe(snapshot.took.as_secs_f64());
        self.queue.borrow_mut().ready.push_back(Ready { resident, save: snapshot.save });
        self.changed.notify_one();
    }

    /// Whether the last save failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures.get() > 0
    }

    /// Saves for ever.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            self.wait().await;
            self.ask_for_snapshots();
            // The sessions that are asked take their turns now.
            give_way().await;
            while self.has_free_slot() {
                let batch = self.next_batch();
                if batch.is_empty() {
                    break;
                }
                self.under_way.set(self.under_way.get() + 1);
                tokio::task::spawn_local(self.clone().commit(batch));
            }
        }
    }

    /// Waits until there is something to do.
    async fn wait(&self) {
        loop {
            let wake_at = self.next_step();
            if wake_at.is_some_and(|at| at <= Instant::now()) {
                return;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// When something can be done; `None` when that depends on news.
    fn next_step(&self) -> Option<Instant> {
        if !self.has_free_slot() {
            return None;
        }
        let queue = self.queue.borrow();
        let due = queue.due.first_key_value().map(|((due, _), _)| *due);
        let ready = (!queue.ready.is_empty()).then(Instant::now);
        let next = ready.or(due)?;
        Some(self.paused_until.get().map_or(next, |paused| paused.max(next)))
    }

    fn has_free_slot(&self) -> bool {
        // One save tells whether the store is back.
        let most = if self.is_failing() { 1 } else { self.store.parallel_saves() };
        self.under_way.get() < most
    }

    fn ask_for_snapshots(&self) {
        let now = Instant::now();
        let first = self.queue.borrow().due.first_key_value().map(|((due, _), _)| *due);
        if first.is_none_or(|due| due > now) {
            return;
        }
        let mut asked = self.queue.borrow().ready.len();
        while asked < MAX_BATCH {
            let next = {
                let mut queue = self.queue.borrow_mut();
                let is_due = |due: Instant, resident: &Resident| {
                    due <= now || (due <= now + SLACK && !resident.rests(now))
                };
                let entry = queue.due.first_entry();
                let entry = entry.filter(|entry| is_due(entry.key().0, entry.get()));
                entry.map(|entry| entry.remove())
            };
            let Some(resident) = next else { break };
            resident.want_snapshot();
            asked += 1;
        }
    }

    fn next_batch(&self) -> Vec<Ready> {
        let mut queue = self.queue.borrow_mut();
        let rows = fitting(queue.ready.iter().take(self.most.get()).map(|ready| &ready.save));
        queue.ready.drain(..rows).collect()
    }

    async fn commit(self: Rc<Self>, batch: Vec<Ready>) {
        let (residents, saves): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Ready { resident, save }| (resident, save)).unzip();
        let (began, asked) = (std::time::Instant::now(), self.history.now());
        let outcome = self.store.save(&self.ownership.owner(), &saves).await;
        self.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        self.under_way.set(self.under_way.get() - 1);
        let batch = residents.into_iter().zip(saves);
        match outcome {
            Ok(outcomes) => {
                self.succeeded(outcomes.len());
                // The process may have stood still meanwhile: then an answer says how it was (R5).
                let is_old = began.elapsed() > CONFIRMED_FOR;
                for ((resident, save), saved) in batch.zip(outcomes) {
                    if is_old && saved == Saved::Done {
                        tokio::task::spawn_local(self.clone().confirm(resident, save, asked));
                    } else {
                        self.saved(resident, save, saved, asked);
                    }
                }
            }
            Err(error) => self.failed(batch, &error),
        }
        self.changed.notify_one();
    }

    fn succeeded(&self, rows: usize) {
        if self.failures.replace(0) > 0 {
            tracing::info!("the store saves again");
        }
        self.paused_until.set(None);
        self.most.set((2 * self.most.get()).min(MAX_BATCH));
        self.metrics.commits.inc();
        self.metrics.commit_rows.observe(rows as f64);
    }

    fn saved(self: &Rc<Self>, resident: Rc<Resident>, save: Save, saved: Saved, asked: u64) {
        match saved {
            Saved::Done => {
                faults::point(Point::Committed);
                let version = save.version.0;
                self.history.record(&resident.id, resident.epoch, || Deed::Commit {
                    asked,
                    version,
                    applied: resident.saved_inputs(),
                });
                if let Some(since) = resident.waits_at_gate() {
                    self.metrics.gate_seconds.observe(since.elapsed().as_secs_f64());
                }
                if let Some(due) = resident.saved() {
                    self.schedule(&resident, due);
                }
            }
            Saved::Fenced => {
                let (session, epoch) = (resident.id.as_str(), resident.epoch.0);
                tracing::warn!(
                    session.id = session,
                    epoch,
                    "fenced: the session has a later owner"
                );
                self.metrics.fenced.inc();
                self.history.record(&resident.id, resident.epoch, || Deed::Fenced);
                resident.fence();
            }
            Saved::Regressed => {
                tokio::task::spawn_local(self.clone().return_to_row(resident, save));
            }
        }
    }

    /// A save was committed, and nothing of it is said before the session is known to be ours still.
    async fn confirm(self: Rc<Self>, resident: Rc<Resident>, save: Save, asked: u64) {
        let saved = match self.ownership.confirm(&resident.id, resident.epoch).await {
            Ok(Standing::Fenced) => Saved::Fenced,
            // Where the store is away again, the commit is a commit all the same.
            _ => Saved::Done,
        };
        self.saved(resident, save, saved, asked);
        self.changed.notify_one();
    }

    /// The batch goes again, with the same bytes, when the pause is over.
    fn failed(&self, batch: impl Iterator<Item = (Rc<Resident>, Save)>, error: &StoreError) {
        self.metrics.save_failures.inc();
        let failures = self.failures.get() + 1;
        self.failures.set(failures);
        if failures == 1 {
            tracing::warn!(%error, "save sessions; they go on in memory, and are saved when it works");
        }
        let wait = (FIRST_RETRY * 2_u32.saturating_pow(failures - 1).min(1 << 10)).min(LAST_RETRY);
        self.paused_until.set(Some(Instant::now() + wait));
        self.most.set((self.most.get() / 2).max(1));
        let mut queue = self.queue.borrow_mut();
        for (resident, save) in batch {
            resident.save_failed();
            // Behind the others, in case one of these is why.
            queue.ready.push_back(Ready { resident, save });
        }
    }

    /// The database has gone back in time, or somebody has deleted the row: the owner takes it again
    /// and writes what it has (R6). Were the row emptied on purpose, its epoch would be higher.
    async fn return_to_row(self: Rc<Self>, resident: Rc<Resident>, save: Save) {
        self.metrics.regressions.inc();
        let session = resident.id.as_str();
        tracing::error!(
            session.id = session,
            "the store has lost commits of this session; it is written again"
        );
        let claim = Claim { session: save.session.clone(), at_least: resident.epoch };
        let (owner, manners) =
            (self.ownership.owner(), Manners { force: true, ..Manners::default() });
        loop {
            match self.store.claim(&owner, &manners, std::slice::from_ref(&claim)).await {
                // Exactly ours: nobody has had it meanwhile.
                Ok(claimed) => match claimed.first() {
                    Some(Claimed::Owned(row)) if row.epoch == resident.epoch => break,
                    _ => return resident.fence(),
                },
                Err(_) => tokio::time::sleep(LAST_RETRY).await,
            }
        }
        let save = Save { first: false, ..save };
        self.queue.borrow_mut().ready.push_back(Ready { resident, save });
        self.changed.notify_one();
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// How many of these saves go into one batch: at least one, if there is any. None has a session
/// twice: one that was lost and had again may have an earlier save that waits to be repeated, and
/// PostgreSQL refuses a statement that would write one row two times.
fn fitting<'a>(saves: impl Iterator<Item = &'a Save>) -> usize {
    let (mut sessions, mut bytes) = (FxHashSet::default(), 0);
    for save in saves {
        let kept = save.kept.iter().filter_map(|(_, input)| input.as_ref());
        bytes += save.state.len() + kept.map(|input| input.len()).sum::<usize>();
        let is_full = bytes > MAX_BATCH_BYTES && !sessions.is_empty();
        if is_full || !sessions.insert(&save.session) {
            break;
        }
    }
    sessions.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use single_state_proto::id::Epoch;
    use single_state_store::Version;

    use super::*;

    fn save(session: &str, epoch: u64, bytes: usize) -> Save {
        Save {
            session: session.parse().unwrap(),
            epoch: Epoch(epoch),
            version: Version(1),
            codec: 1,
            state: Bytes::from(vec![0; bytes]),
            wake_at: None,
            kept: Vec::new(),
            first: false,
        }
    }

    #[test]
    fn two_saves_of_one_session_go_one_after_the_other() {
        let saves = [save("a", 1, 1), save("b", 1, 1), save("a", 2, 1), save("c", 1, 1)];
        assert_eq!(fitting(saves.iter()), 2);
        assert_eq!(fitting(saves[2..].iter()), 2);
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_and_has_a_row_even_so() {
        let (large, small) = (save("a", 1, MAX_BATCH_BYTES + 1), save("b", 1, 1));
        assert_eq!(fitting([&large, &small].into_iter()), 1);
        assert_eq!(fitting([&small, &large].into_iter()), 1);
        assert_eq!(fitting([&small].into_iter()), 1);
        assert_eq!(fitting(std::iter::empty()), 0);
    }
}
