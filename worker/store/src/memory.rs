//! Rows in the memory of one process, for trying things out and as the plainest form of what the
//! databases do. Owns the two rules that the stores in Rust share: to whom a row yields, and how a
//! time is cut to its minute. Knows no files and no connections.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::ready;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};

use crate::{
    Claim, Claimed, Due, Holder, INLINE_STATE, Listed, Manners, Owner, Row, Save, Saved, Standing,
    Store, StoreError,
};

mod entry;

use entry::Entry;

impl Holder {
    /// Whether `owner` may take a row that stands like this. Its generation and its owner are
    /// politeness, which `force` overrides; nothing lets an app read what a newer one wrote.
    pub(crate) fn yields_to(&self, owner: &Owner, manners: &Manners) -> bool {
        let gone = |index| index == owner.index || manners.down.contains(&index);
        let polite = self.generation <= owner.generation && self.owner.is_none_or(gone);
        self.app_version <= owner.app_version && (manners.force || polite)
    }
}

/// The minute that has begun at `time`. Rows with work to do are written only when it changes.
pub(crate) fn cut_to_minute(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % 60)
}

/// Rows that end with their process. All of its calls are ready at once.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: RefCell<BTreeMap<SessionId, Entry>>,
    prepared: Cell<bool>,
    #[cfg(feature = "faults")]
    guards: crate::Guards,
}

type Rows = BTreeMap<SessionId, Entry>;

impl MemoryStore {
    /// A store without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store without rows whose saves leave out what `guards` says, to see that tests notice.
    #[cfg(feature = "faults")]
    pub fn with_guards(guards: crate::Guards) -> Self {
        Self { guards, ..Self::default() }
    }

    fn rows(&self) -> Result<Ref<'_, Rows>, StoreError> {
        self.check_prepared().map(|()| self.rows.borrow())
    }

    fn rows_mut(&self) -> Result<RefMut<'_, Rows>, StoreError> {
        self.check_prepared().map(|()| self.rows.borrow_mut())
    }

    fn check_prepared(&self) -> Result<(), StoreError> {
        if self.prepared.get() {
            Ok(())
        } else {
            Err(StoreError::Away("the sessions in memory are not prepared yet".to_owned()))
        }
    }

    fn claim_one(rows: &mut Rows, owner: &Owner, manners: &Manners, claim: &Claim) -> Claimed {
        let Some(entry) = rows.get_mut(&claim.session) else {
            let entry = Entry::new(owner, claim.at_least);
            let row = entry.row();
            rows.insert(claim.session.clone(), entry);
            return Claimed::Owned(row);
        };
        let holder = entry.holder();
        if !holder.yields_to(owner, manners) {
            return Claimed::Held(holder);
        }
        entry.epoch = Epoch(entry.epoch.0 + 1).max(claim.at_least);
        entry.generation = owner.generation;
        entry.unreleased = holder.owner.is_some();
        entry.owner = Some((owner.index, owner.incarnation));
        entry.updated_at = SystemTime::now();
        let mut row = entry.row();
        row.state = row.state.filter(|state| state.len() <= INLINE_STATE);
        Claimed::Owned(row)
    }

    fn save_one(&self, rows: &mut Rows, owner: &Owner, save: &Save) -> Saved {
        let Some(entry) = rows.get_mut(&save.session) else {
            if !save.first {
                return Saved::Regressed;
            }
            let mut entry = Entry::new(owner, save.epoch);
            entry.commit(owner, save);
            rows.insert(save.session.clone(), entry);
            return Saved::Done;
        };
        if self.is_admitted(entry, save) {
            entry.commit(owner, save);
            return Saved::Done;
        }
        // A row that another epoch made is not this session's past, however low its number.
        if entry.epoch > save.epoch || (save.first && entry.epoch != save.epoch) {
            Saved::Fenced
        } else if entry.epoch == save.epoch {
            Saved::Done
        } else {
            Saved::Regressed
        }
    }

    #[cfg(not(feature = "faults"))]
    fn is_admitted(&self, entry: &Entry, save: &Save) -> bool {
        entry.epoch == save.epoch && entry.version <= save.version
    }

    #[cfg(feature = "faults")]
    fn is_admitted(&self, entry: &Entry, save: &Save) -> bool {
        (!self.guards.epoch || entry.epoch == save.epoch)
            && (!self.guards.version || entry.version <= save.version)
    }
}

/// Calls `change` for the rows that their epochs still own.
fn for_each_owned(
    rows: &mut Rows,
    sessions: &[(SessionId, Epoch)],
    mut change: impl FnMut(&mut Entry),
) {
    for (session, epoch) in sessions {
        if let Some(entry) = rows.get_mut(session).filter(|entry| entry.epoch == *epoch) {
            change(entry);
        }
    }
}

/// Where a due session stands in their order.
fn place(due: &Due) -> (SystemTime, &SessionId) {
    (due.wake_at, &due.session)
}

fn at_once<'a, T: 'a>(answer: T) -> LocalBoxFuture<'a, T> {
    Box::pin(ready(answer))
}

impl Store for MemoryStore {
    fn prepare(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.prepared.set(true);
        at_once(Ok(()))
    }

    fn claim<'a>(
        &'a self,
        owner: &'a Owner,
        manners: &'a Manners,
        claims: &'a [Claim],
    ) -> LocalBoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        at_once(self.rows_mut().map(|mut rows| {
            let one = |claim| Self::claim_one(&mut rows, owner, manners, claim);
            claims.iter().map(one).collect()
        }))
    }

    fn load<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Option<Row>, StoreError>> {
        at_once(self.rows().map(|rows| {
            rows.get(session).filter(|entry| entry.epoch == epoch).map(|entry| entry.row())
        }))
    }

    fn save<'a>(
        &'a self,
        owner: &'a Owner,
        saves: &'a [Save],
    ) -> LocalBoxFuture<'a, Result<Vec<Saved>, StoreError>> {
        at_once(self.rows_mut().map(|mut rows| {
            saves.iter().map(|save| self.save_one(&mut rows, owner, save)).collect()
        }))
    }

    fn confirm<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<Vec<Standing>, StoreError>> {
        at_once(self.rows().map(|rows| {
            let one = |(session, epoch): &(SessionId, Epoch)| match rows.get(session) {
                Some(entry) if entry.epoch == *epoch => Standing::Owned,
                Some(entry) if entry.epoch > *epoch => Standing::Fenced,
                _ => Standing::Absent,
            };
            sessions.iter().map(one).collect()
        }))
    }

    fn strike<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        at_once(self.rows_mut().map(|mut rows| {
            for_each_owned(&mut rows, sessions, |entry| {
                entry.strikes = entry.strikes.saturating_add(1);
            });
        }))
    }

    fn release<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
        keep_strikes: bool,
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        at_once(self.rows_mut().map(|mut rows| {
            for_each_owned(&mut rows, sessions, |entry| {
                entry.owner = None;
                entry.updated_at = SystemTime::now();
                if !keep_strikes {
                    entry.strikes = 0;
                }
            });
        }))
    }

    fn delete<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Saved, StoreError>> {
        at_once(self.rows_mut().map(|mut rows| match rows.get_mut(session) {
            Some(entry) if entry.epoch == epoch => {
                entry.empty();
                Saved::Done
            }
            // What an earlier try of the same call left behind.
            Some(entry) if entry.is_tombstone_after(epoch) => Saved::Done,
            Some(entry) if entry.epoch > epoch => Saved::Fenced,
            _ => Saved::Regressed,
        }))
    }

    fn kept<'a>(
        &'a self,
        session: &'a SessionId,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        at_once(self.rows().map(|rows| rows.get(session)?.kept.get(name).cloned()))
    }

    fn due<'a>(
        &'a self,
        owner: &'a Owner,
        down: &'a [WorkerIndex],
        now: SystemTime,
        after: Option<&'a Due>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Due>, StoreError>> {
        let gone = |(index, incarnation)| {
            down.contains(&index) || (index == owner.index && incarnation < owner.incarnation)
        };
        at_once(self.rows().map(|rows| {
            let mut due: Vec<Due> = rows
                .iter()
                .filter(|(_, entry)| entry.owner.is_none_or(gone))
                .filter_map(|(session, entry)| {
                    Some(Due { session: session.clone(), wake_at: entry.wake_at? })
                })
                .filter(|due| due.wake_at <= now)
                .filter(|due| after.is_none_or(|after| place(due) > place(after)))
                .collect();
            due.sort_by(|a, b| place(a).cmp(&place(b)));
            due.truncate(limit);
            due
        }))
    }

    fn expire(
        &self,
        unused_for: Duration,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<usize, StoreError>> {
        let now = SystemTime::now();
        at_once(self.rows_mut().map(|mut rows| {
            let old = rows.iter().filter(|(_, entry)| entry.is_unused(now, unused_for));
            let old: Vec<_> = old.map(|(session, _)| session.clone()).take(limit).collect();
            for session in &old {
                rows.remove(session);
            }
            old.len()
        }))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        at_once(self.rows().map(|rows| {
            rows.iter()
                .filter(|(session, _)| after.is_none_or(|after| *session > after))
                .map(|(session, entry)| entry.listed(session))
                .take(limit)
                .collect()
        }))
    }

    fn show<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<Option<(Listed, Bytes)>, StoreError>> {
        at_once(self.rows().map(|rows| {
            rows.get(session).map(|entry| (entry.listed(session), entry.state.clone()))
        }))
    }

    fn discard<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        at_once(self.rows_mut().map(|mut rows| rows.get_mut(session).map(Entry::empty).is_some()))
    }

    fn free<'a>(&'a self, session: &'a SessionId) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        at_once(self.rows_mut().map(|mut rows| rows.get_mut(session).map(Entry::free).is_some()))
    }

    fn parallel_saves(&self) -> usize {
        1
    }
}
