//! How sessions leave this worker: each when everything of it is committed, and where many go, a few
//! at a time.

use std::rc::{Rc, Weak};
use std::time::Duration;

use single_state_proto::frame::Durability;
use tokio::time::Instant;

use super::{Entry, Registry};
use crate::resident::{Leave, Resident};

/// A session that could not be committed within this time does not leave memory.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// How often it is looked whether a handler has returned.
const STEP: Duration = Duration::from_millis(10);

/// Sessions that are on their way out at a time, …
const AT_ONCE: usize = 64;
/// … and bytes of their snapshots, unless one alone has more (R21).
const BYTES_AT_ONCE: usize = 64 * 1024 * 1024;

/// What could not be committed is asked again after so long (R18).
const PAUSE: Duration = Duration::from_millis(500);

impl Registry {
    /// The session leaves memory as soon as everything is committed. One that cannot be committed
    /// soon goes on, and may be asked again (R18). While it is under way, asking again changes
    /// nothing.
    pub(crate) fn passivate(self: &Rc<Self>, resident: &Rc<Resident>, why: Leave) {
        if resident.leaving().is_some() {
            return;
        }
        if let Some(due) = resident.retire(why) {
            self.host.committer.schedule(resident, due);
        }
        tokio::task::spawn_local(self.clone().see_off(Rc::downgrade(resident)));
    }

    /// A gateway wants the session on another worker. It does not wait for its turn in a drain. What
    /// ends with this process has nowhere to go (R14).
    pub(crate) fn recall(self: &Rc<Self>, resident: &Rc<Resident>) {
        if !self.host.rules.ephemeral {
            self.passivate(resident, Leave::Recall);
        }
    }

    /// A handler that runs is waited for; then there is a while to commit.
    async fn see_off(self: Rc<Self>, resident: Weak<Resident>) {
        let deadline = Instant::now() + self.host.rules.handler_grace;
        let in_call = || resident.upgrade().is_some_and(|resident| resident.is_in_call());
        while in_call() && Instant::now() < deadline {
            tokio::time::sleep(STEP.min(deadline - Instant::now())).await;
        }
        if !in_call() {
            tokio::time::sleep(GIVEN_UP_AFTER).await;
        }
        let Some(resident) = resident.upgrade() else { return };
        if resident.is_in_call() && self.can_go_back() {
            tracing::warn!(
                session.id = resident.id.as_str(),
                "a handler runs on while its session is wanted elsewhere: it is given up, and its \
                 message is handled there"
            );
            self.host.metrics.handlers_dropped.inc();
            resident.interrupt();
        } else {
            resident.stay();
            self.left.notify_waiters();
        }
    }

    /// Whether there is a last commit to which a session can return. In memory there is none that
    /// has what was acknowledged.
    fn can_go_back(&self) -> bool {
        self.host.rules.policy.durability != Durability::Memory && !self.host.committer.is_failing()
    }

    /// Hands over the sessions that `choose` wants to go, until none of them is left or the time is
    /// over.
    pub(crate) async fn hand_over(
        self: &Rc<Self>,
        why: Leave,
        deadline: Option<Instant>,
        choose: impl Fn(&Resident) -> bool,
    ) {
        let mut convoy = Convoy { registry: self.clone(), deadline, under_way: Vec::new() };
        loop {
            let chosen = self.residents().into_iter().filter(|resident| choose(resident));
            let chosen: Vec<_> = chosen.collect();
            if chosen.is_empty() || convoy.is_late() {
                return;
            }
            let began = Instant::now();
            for resident in &chosen {
                convoy.wait_for_room(resident.bytes()).await;
                if convoy.is_late() {
                    return;
                }
                if self.has(resident) {
                    self.passivate(resident, why);
                    convoy.under_way.push(resident.clone());
                }
            }
            convoy.wait_for_all().await;
            if chosen.iter().any(|resident| self.has(resident)) {
                convoy.pause(began + PAUSE).await;
            }
        }
    }

    /// Whether it is this one that is in memory, and not one that was loaded since.
    pub(crate) fn has(&self, resident: &Rc<Resident>) -> bool {
        let sessions = self.sessions.borrow();
        matches!(sessions.get(&resident.id), Some(Entry::Resident(here)) if Rc::ptr_eq(here, resident))
    }
}

/// Sessions that are on their way out.
struct Convoy {
    registry: Rc<Registry>,
    deadline: Option<Instant>,
    under_way: Vec<Rc<Resident>>,
}

impl Convoy {
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    async fn wait_for_room(&mut self, bytes: usize) {
        self.wait_until(|under_way| {
            let all: usize = under_way.iter().map(|resident| resident.bytes()).sum();
            under_way.len() < AT_ONCE && (under_way.is_empty() || all + bytes <= BYTES_AT_ONCE)
        })
        .await;
    }

    async fn wait_for_all(&mut self) {
        self.wait_until(|under_way| under_way.is_empty()).await;
    }

    async fn wait_until(&mut self, done: impl Fn(&[Rc<Resident>]) -> bool) {
        let registry = self.registry.clone();
        loop {
            // Before the look, so that nothing is missed in between.
            let left = registry.left.notified();
            self.under_way
                .retain(|resident| registry.has(resident) && resident.leaving().is_some());
            if done(&self.under_way) || self.is_late() {
                return;
            }
            match self.deadline {
                Some(deadline) => {
                    let _ = tokio::time::timeout_at(deadline, left).await;
                }
                None => left.await,
            }
        }
    }

    async fn pause(&self, until: Instant) {
        tokio::time::sleep_until(self.deadline.map_or(until, |deadline| deadline.min(until))).await;
    }
}
