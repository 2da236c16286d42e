//! How a session comes into memory: claimed, read, and made a coroutine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use single_state_faults::{self as faults, Point};
use single_state_proto::frame::{Open, Refused, Skipped, Taken};
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};
use single_state_store::{
    Claim, Claimed, Holder, MAX_STRIKES, Manners, Row, StoreError, fresh_epoch,
};
use tokio::time::Instant;

use super::contest::PATIENCE;
use super::live::Life;
use super::{CLAIM_RETRY_MS, DRAINING_RETRY_MS, Entry, LEAVING_RETRY_MS, Loading, Registry};
use crate::actor::Loaded;
use crate::history::Deed;
use crate::host::{Host, OnUnreadable};
use crate::resident::Resident;
use crate::snapshot::{self, Saved, Unreadable};

/// A session that is about to be given up is asked for at first after so long, …
const FIRST_POLL: Duration = Duration::from_millis(20);
/// … and later each time after this.
const LAST_POLL: Duration = Duration::from_millis(100);

impl Registry {
    /// Claims a session: politely at first, by force when its owner neither serves it nor gives it
    /// up.
    pub(super) async fn load(
        self: Rc<Self>,
        session: SessionId,
        min_epoch: Epoch,
        skipped: Skipped,
    ) {
        let (began, mut pause) = (Instant::now(), FIRST_POLL);
        while let Some(since) = self.wanted_since(&session, began) {
            let manners = self.manners(&session, &skipped, since);
            let claim = Claim { session: session.clone(), at_least: fresh_epoch(min_epoch) };
            let asked = self.host.history.now();
            match self.host.ownership.claim(claim, manners).await {
                Ok(Claimed::Owned(row)) => {
                    faults::point(Point::Claimed);
                    self.note_claim(&session, &row, asked, &skipped);
                    return self.claimed(&session, row).await;
                }
                Ok(Claimed::Held(holder)) if self.is_newer(&session, &holder) => {
                    return self.refuse_waiting(&session, |_| Refused::TooNew);
                }
                Ok(Claimed::Held(_)) if self.draining.get() => {
                    return self.retry_waiting(&session, DRAINING_RETRY_MS);
                }
                Ok(Claimed::Held(holder)) => {
                    if let Some(owner) = self.live_owner(&holder, &skipped, &session) {
                        return self.send_on(&session, owner);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 3 / 2).min(LAST_POLL);
                }
                Err(error) => {
                    self.log_away(&session, &error);
                    return self.retry_waiting(&session, CLAIM_RETRY_MS);
                }
            }
        }
    }

    /// Since when somebody has been waiting for the session; `None` when nobody does any more, and
    /// it is not loaded.
    fn wanted_since(&self, session: &SessionId, began: Instant) -> Option<Instant> {
        let (mut sessions, mut contest) = (self.sessions.borrow_mut(), self.contest.borrow_mut());
        let Some(Entry::Loading(loading)) = sessions.get_mut(session) else { return None };
        loading.waiting.retain(|(_, tab)| tab.is_wanted());
        let now = Instant::now();
        let asked = loading.waiting.iter();
        let asked = asked.map(|(open, _)| contest.asks(session, open.connection, now));
        let since = asked.min().or(loading.wanted.then_some(began));
        if since.is_none() {
            sessions.remove(session);
        }
        since
    }

    /// Of workers that are gone a session is taken at once, of others after a while, and of nobody
    /// while it would only go back and forth (R16).
    fn manners(&self, session: &SessionId, skipped: &Skipped, since: Instant) -> Manners {
        if self.contest.borrow().rests_for(session, Instant::now()).is_some() {
            return Manners::default();
        }
        Manners { down: skipped.down.clone(), force: since.elapsed() >= PATIENCE }
    }

    /// Who has the session and can serve it. One that is going away gives it up any moment, one that
    /// is gone does not have it; what else keeps it is the generation in its row.
    fn live_owner(
        &self,
        holder: &Holder,
        skipped: &Skipped,
        session: &SessionId,
    ) -> Option<WorkerIndex> {
        let rests = || self.contest.borrow().rests_for(session, Instant::now()).is_some();
        holder.owner.filter(|owner| {
            *owner != self.host.index
                && !skipped.passed_over.contains(owner)
                && (!skipped.down.contains(owner) || rests())
        })
    }

    /// Those who wait try its owner first, and come back when it does not serve them.
    fn send_on(&self, session: &SessionId, owner: WorkerIndex) {
        let now = Instant::now();
        self.refuse_waiting(session, |open| {
            let after = self.contest.borrow_mut().put_off(session, open.connection, now);
            Refused::Retry { after_ms: after.as_millis() as u32, owner: Some(owner) }
        });
    }

    fn note_claim(&self, session: &SessionId, row: &Row, asked: u64, skipped: &Skipped) {
        let reason = if row.unreleased { "steal" } else { "stored" };
        // Pages that another gateway has at that owner must not go on with it (R16).
        if let Some(tell) = self.on_taken.get().filter(|_| row.unreleased) {
            tell(Taken { session: session.clone(), epoch: row.epoch });
        }
        self.host.history.record(session, row.epoch, || {
            let numbers = |list: &[WorkerIndex]| list.iter().map(|index| index.0).collect();
            let (down, passed_over) = (numbers(&skipped.down), numbers(&skipped.passed_over));
            Deed::Claim { asked, version: row.version.0, reason, down, passed_over }
        });
    }

    /// `last`: whose snapshot it is. A session that another worker gave up comes home to its first
    /// choice.
    fn count_claim(&self, session: &SessionId, row: &Row, last: Option<u16>) {
        let was_away = last.is_some_and(|last| last != self.host.index.0);
        self.host.metrics.claimed(match () {
            () if row.unreleased => "steal",
            () if was_away && self.map.is_home(session) => "home",
            () => "stored",
        });
    }

    /// A newer version of the app has saved it: an upgraded worker will have it.
    fn is_newer(&self, session: &SessionId, holder: &Holder) -> bool {
        let ours = self.host.ownership.owner().app_version;
        let is_newer = holder.app_version > ours;
        if is_newer && self.contest.borrow_mut().is_newer(session) {
            tracing::warn!(
                session.id = session.as_str(),
                saved = holder.app_version,
                ours,
                "a newer version of the app has saved this session; this worker leaves it alone"
            );
        }
        is_newer
    }

    /// While the store is away this happens again and again: it is told where saves fail.
    fn log_away(&self, session: &SessionId, error: &StoreError) {
        tracing::debug!(session.id = session.as_str(), %error, "claim a session");
    }

    async fn claimed(self: &Rc<Self>, session: &SessionId, mut row: Row) {
        let state = match row.state.take() {
            Some(state) => state,
            // Too long to come with the claim.
            None => match self.host.store.load(session, row.epoch).await {
                Ok(Some(row)) => row.state.unwrap_or_default(),
                Ok(None) => return self.retry_waiting(session, LEAVING_RETRY_MS),
                Err(error) => {
                    self.log_away(session, &error);
                    return self.retry_waiting(session, CLAIM_RETRY_MS);
                }
            },
        };
        row.state = Some(state.clone());
        if row.strikes >= MAX_STRIKES {
            tracing::error!(
                session.id = session.as_str(),
                strikes = row.strikes,
                "quarantined: the session has ended its worker each time; `sessions release` \
                 forgives it, `sessions discard` empties it"
            );
            return self.quarantine(session, &row, "strikes").await;
        }
        if row.version.0 == 0 {
            self.count_claim(session, &row, None);
            let resident = self.empty(session, row.epoch, Some(&row));
            return self.enter(session, &resident, None);
        }
        match self.restore(session, &row, &state) {
            Ok(()) => {}
            Err(error) if self.host.rules.on_unreadable == OnUnreadable::Reset => {
                tracing::error!(session.id = session.as_str(), %error, "reset: it starts anew");
                self.reset(session, &row, &error);
            }
            Err(error) => {
                tracing::error!(
                    session.id = session.as_str(),
                    %error,
                    "quarantined: its saved state is kept as it is (--on-unreadable)"
                );
                self.quarantine(session, &row, "unreadable").await;
            }
        }
    }

    fn restore(
        self: &Rc<Self>,
        session: &SessionId,
        row: &Row,
        state: &Bytes,
    ) -> Result<(), Unreadable> {
        let decoded = snapshot::decode(row.codec, state);
        let last = decoded.as_ref().ok().and_then(|(kept, _)| kept.by);
        self.count_claim(session, row, last);
        let (kept, app) = decoded?;
        let app = Saved::new(state.slice_ref(app));
        let Host { clock, rules, .. } = *self.host;
        let (resident, timers) =
            Resident::restore(session.clone(), row, &kept, rules.policy, clock);
        let loaded = Loaded { app, app_version: row.app_version, timers };
        self.prepare(session, &resident);
        let life = (self.start)(self, resident.clone(), Some(loaded))?;
        self.settle(session, &resident, life);
        Ok(())
    }

    /// What cannot be read is replaced by nothing.
    fn reset(self: &Rc<Self>, session: &SessionId, row: &Row, error: &Unreadable) {
        let resident = self.empty(session, row.epoch, Some(row));
        self.enter(session, &resident, None);
        // To those who are attached by now.
        resident.tell_reset(&error.to_string());
    }

    /// A session of which nobody knows anything yet.
    pub(super) fn begin(self: &Rc<Self>, session: &SessionId, epoch: Epoch) {
        let asked = self.host.history.now();
        self.host.history.record(session, epoch, || Deed::Claim {
            asked,
            version: 0,
            reason: "fresh",
            down: Vec::new(),
            passed_over: Vec::new(),
        });
        let resident = self.empty(session, epoch, None);
        self.enter(session, &resident, None);
    }

    fn empty(&self, session: &SessionId, epoch: Epoch, row: Option<&Row>) -> Rc<Resident> {
        let policy = self.host.rules.policy;
        Resident::new(session.clone(), epoch, policy, row.map(|row| row.version))
    }

    fn enter(
        self: &Rc<Self>,
        session: &SessionId,
        resident: &Rc<Resident>,
        loaded: Option<Loaded>,
    ) {
        self.prepare(session, resident);
        let start = || (self.start)(self, resident.clone(), loaded);
        match catch_unwind(AssertUnwindSafe(start)) {
            Ok(Ok(life)) => self.settle(session, resident, life),
            // `Default` of the app: there is nothing without it.
            Ok(Err(_)) | Err(_) => {
                tracing::error!(session.id = session.as_str(), "a new session cannot be made");
                self.host.metrics.quarantined("default");
                self.refuse_waiting(session, |_| Refused::Quarantined);
            }
        }
    }

    /// What is known of the session from before it was loaded again.
    fn prepare(&self, session: &SessionId, resident: &Resident) {
        if let Some(Entry::Loading(loading)) = self.sessions.borrow_mut().get_mut(session)
            && let Some(poison) = loading.poison.take()
        {
            resident.set_poison(poison);
        }
    }

    /// The session is in memory: it lives, and those who waited attach.
    fn settle(&self, session: &SessionId, resident: &Rc<Resident>, life: Life) {
        let Some(Entry::Loading(loading)) = self.sessions.borrow_mut().remove(session) else {
            return;
        };
        let Loading { waiting, wanted, .. } = *loading;
        let waiting: Vec<_> = waiting.into_iter().filter(|(_, tab)| tab.is_wanted()).collect();
        if waiting.is_empty() && !wanted {
            // Whoever asked for it has left: it ends at its first turn.
            resident.stop();
        }
        self.host.history.record(session, resident.epoch, || Deed::Activate {
            version: resident.version().0,
            durability: resident.durability().into(),
            applied: resident.saved_inputs(),
        });
        let entry = Entry::Resident(resident.clone());
        self.sessions.borrow_mut().insert(session.clone(), entry);
        self.host.metrics.resident.inc();
        tokio::task::spawn_local(life);
        for (open, tab) in waiting {
            resident.attach(&open, tab);
        }
    }

    async fn quarantine(&self, session: &SessionId, row: &Row, reason: &'static str) {
        self.host.metrics.quarantined(reason);
        let released = [(session.clone(), row.epoch)];
        if let Err(error) = self.host.store.release(&released, true).await {
            tracing::debug!(session.id = session.as_str(), %error, "release a session");
        }
        self.refuse_waiting(session, |_| Refused::Quarantined);
    }

    fn retry_waiting(&self, session: &SessionId, after_ms: u32) {
        self.refuse_waiting(session, |_| Refused::Retry { after_ms, owner: None });
    }

    /// The session is not coming.
    fn refuse_waiting(&self, session: &SessionId, refused: impl Fn(&Open) -> Refused) {
        let loading = self.sessions.borrow_mut().remove(session);
        if let Some(Entry::Loading(loading)) = loading {
            for (open, tab) in loading.waiting {
                tab.refused(refused(&open));
            }
        }
    }
}
