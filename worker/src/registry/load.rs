//! How a session comes into memory: claimed, read, and made a coroutine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use single_state_proto::frame::{Open, Refused, Skipped};
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};
use single_state_store::{Claim, Claimed, Holder, MAX_STRIKES, Row, StoreError, fresh_epoch};
use tokio::time::Instant;

use super::{CLAIM_RETRY_MS, Entry, LEAVING_RETRY_MS, Loading, Registry};
use crate::actor::{Coroutine, Loaded};
use crate::history::Deed;
use crate::host::{Host, OnUnreadable};
use crate::resident::{Resident, Tab};
use crate::snapshot::{self, Saved, Unreadable};

/// When a gateway asks again for a session that only a newer worker can read.
const NEWER_RETRY_MS: u32 = 2000;

/// A session that another owner has not released is taken from it after so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Until then it is asked for at first after so long, then after twice as long each time.
const FIRST_POLL: Duration = Duration::from_millis(20);

impl Registry {
    /// Claims a session: politely at first, by force when its owner does not give it up.
    pub(super) async fn load(
        self: Rc<Self>,
        session: SessionId,
        min_epoch: Epoch,
        Skipped { down, passed_over }: Skipped,
    ) {
        let began = Instant::now();
        let mut pause = FIRST_POLL;
        loop {
            let claim = Claim { session: session.clone(), at_least: fresh_epoch(min_epoch) };
            let force = began.elapsed() >= PATIENCE;
            let asked = self.host.history.now();
            match self.host.ownership.claim(claim, down.clone(), force).await {
                Ok(Claimed::Owned(row)) => {
                    let reason = if row.unreleased { "steal" } else { "stored" };
                    self.host.metrics.claimed(reason);
                    self.host.history.record(&session, row.epoch, || {
                        let numbers =
                            |list: &[WorkerIndex]| list.iter().map(|index| index.0).collect();
                        let (down, passed_over) = (numbers(&down), numbers(&passed_over));
                        Deed::Claim { asked, version: row.version.0, reason, down, passed_over }
                    });
                    return self.claimed(&session, row).await;
                }
                Ok(Claimed::Held(holder)) if self.is_newer(&session, &holder) => {
                    return self.refuse_waiting(&session, NEWER_RETRY_MS);
                }
                Ok(Claimed::Held(_)) if force => {
                    return self.refuse_waiting(&session, CLAIM_RETRY_MS);
                }
                Ok(Claimed::Held(_)) => {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PATIENCE.saturating_sub(began.elapsed()));
                }
                Err(error) => {
                    self.log_away(&session, &error);
                    return self.refuse_waiting(&session, CLAIM_RETRY_MS);
                }
            }
        }
    }

    /// A newer version of the app has saved it: an upgraded worker will have it.
    fn is_newer(&self, session: &SessionId, holder: &Holder) -> bool {
        let ours = self.host.ownership.owner().app_version;
        let is_newer = holder.app_version > ours;
        if is_newer {
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
                Ok(None) => return self.refuse_waiting(session, LEAVING_RETRY_MS),
                Err(error) => {
                    self.log_away(session, &error);
                    return self.refuse_waiting(session, CLAIM_RETRY_MS);
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
        let (kept, app) = snapshot::decode(row.codec, state)?;
        let app = Saved::new(state.slice_ref(app));
        let Host { clock, rules, .. } = *self.host;
        let (resident, timers) =
            Resident::restore(session.clone(), row, &kept, rules.policy, clock);
        let loaded = Loaded { app, app_version: row.app_version, timers };
        self.prepare(session, &resident);
        let coroutine = (self.start)(resident.clone(), self.host.clone(), Some(loaded))?;
        self.settle(session, resident, coroutine);
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
        let start = || (self.start)(resident.clone(), self.host.clone(), loaded);
        match catch_unwind(AssertUnwindSafe(start)) {
            Ok(Ok(coroutine)) => self.settle(session, resident.clone(), coroutine),
            // `Default` of the app: there is nothing without it.
            Ok(Err(_)) | Err(_) => {
                tracing::error!(session.id = session.as_str(), "a new session cannot be made");
                self.host.metrics.quarantined("default");
                for (_, tab) in self.take_waiting(session) {
                    tab.refused(Refused::Quarantined);
                }
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
    fn settle(self: &Rc<Self>, session: &SessionId, resident: Rc<Resident>, coroutine: Coroutine) {
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
        tokio::task::spawn_local(self.clone().live(resident.clone(), coroutine));
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
        for (_, tab) in self.take_waiting(session) {
            tab.refused(Refused::Quarantined);
        }
    }

    fn refuse_waiting(&self, session: &SessionId, after_ms: u32) {
        for (_, tab) in self.take_waiting(session) {
            tab.refused(Refused::Retry { after_ms, owner: None });
        }
    }

    /// Those who waited for a session that is not coming.
    fn take_waiting(&self, session: &SessionId) -> Vec<(Box<Open>, Rc<dyn Tab>)> {
        match self.sessions.borrow_mut().remove(session) {
            Some(Entry::Loading(loading)) => loading.waiting,
            _ => Vec::new(),
        }
    }
}
