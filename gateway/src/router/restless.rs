//! Sessions that were called home or refused lately, so that none is sent back and forth without end
//! (R16). Pure: `now` is an argument. Empty most of the time.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use single_state_proto::id::{Incarnation, SessionId, WorkerIndex};

/// After a session was called home it is left where it is for so long, …
const FIRST_REST: Duration = Duration::from_secs(2);
/// … each further time twice as long, up to this.
const LAST_REST: Duration = Duration::from_secs(60);
/// A worker that cannot read a session is passed over for so long, unless it is started again.
pub(super) const TOO_NEW: Duration = Duration::from_secs(5);
/// That it cannot is remembered for so long: nothing is called home to it.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What is remembered of sessions that move.
#[derive(Debug, Default)]
pub(super) struct Restless {
    calls: FxHashMap<SessionId, Calls>,
    too_new: FxHashMap<SessionId, Vec<Refusal>>,
}

/// A worker's process: its app is of one version for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) index: WorkerIndex,
    pub(super) incarnation: Incarnation,
}

/// A process cannot read a session: a newer version of the app has saved it.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    by: Process,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Calls {
    count: u32,
    rests_until: Instant,
}

impl Restless {
    /// Until when the session stays where it is; `None` when it may be called home.
    pub(super) fn rests_until(&self, session: &SessionId, now: Instant) -> Option<Instant> {
        self.calls.get(session).map(|calls| calls.rests_until).filter(|until| *until > now)
    }

    /// The session is called home.
    pub(super) fn called(&mut self, session: &SessionId, now: Instant) {
        let calls = self.calls.entry(session.clone());
        let calls = calls.or_insert(Calls { count: 0, rests_until: now });
        let rest = FIRST_REST * 2_u32.saturating_pow(calls.count.min(16));
        *calls = Calls { count: calls.count + 1, rests_until: now + rest.min(LAST_REST) };
    }

    /// This process cannot read the session.
    pub(super) fn is_too_new_for(&mut self, session: &SessionId, by: Process, now: Instant) {
        let refusals = self.too_new.entry(session.clone()).or_default();
        refusals.retain(|refusal| refusal.by.index != by.index);
        refusals.push(Refusal { by, at: now });
    }

    /// Who cannot read the session, as far as is remembered.
    pub(super) fn unable(&self, session: &SessionId) -> impl Iterator<Item = Process> {
        self.refusals(session).map(|refusal| refusal.by)
    }

    /// Who has said so lately, and is not asked again now.
    pub(super) fn avoided(
        &self,
        session: &SessionId,
        now: Instant,
    ) -> impl Iterator<Item = Process> {
        let lately = move |refusal: &&Refusal| now < refusal.at + TOO_NEW;
        self.refusals(session).filter(lately).map(|refusal| refusal.by)
    }

    fn refusals(&self, session: &SessionId) -> impl Iterator<Item = &Refusal> {
        self.too_new.get(session).into_iter().flatten()
    }

    /// Sessions belong elsewhere now: each may be called at once.
    pub(super) fn forget_calls(&mut self) {
        self.calls.clear();
    }

    /// Drops what is long over.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.calls.retain(|_, calls| now < calls.rests_until + LAST_REST);
        self.too_new.retain(|_, all| all.iter().any(|refusal| now < refusal.at + REMEMBERED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        "anna".parse().unwrap()
    }

    #[test]
    fn a_session_that_goes_back_and_forth_is_called_home_ever_more_rarely() {
        let (mut restless, session, mut now) = (Restless::default(), session(), Instant::now());
        assert_eq!(restless.rests_until(&session, now), None);
        let mut rests = Vec::new();
        for _ in 0..10 {
            restless.called(&session, now);
            let until = restless.rests_until(&session, now).unwrap();
            rests.push((until - now).as_secs());
            now = until;
            restless.forget_old(now);
            assert_eq!(restless.rests_until(&session, now), None);
        }
        assert_eq!(rests, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
        restless.forget_old(now + 2 * LAST_REST);
        assert!(restless.calls.is_empty());
    }

    #[test]
    fn a_worker_that_cannot_read_a_session_is_passed_over_for_a_while() {
        let (mut restless, session, now) = (Restless::default(), session(), Instant::now());
        let process =
            |index, start| Process { index: WorkerIndex(index), incarnation: Incarnation(start) };
        let avoided =
            |restless: &Restless, now| restless.avoided(&session, now).collect::<Vec<_>>();
        let (one, other) = (process(1, 1), process(2, 1));
        restless.is_too_new_for(&session, one, now);
        restless.is_too_new_for(&session, other, now + TOO_NEW / 2);
        assert_eq!(avoided(&restless, now), [one, other]);
        assert_eq!(avoided(&restless, now + TOO_NEW), [other]);
        restless.forget_old(now + 2 * TOO_NEW);
        assert_eq!(avoided(&restless, now + 2 * TOO_NEW), []);
        assert!(restless.unable(&session).eq([one, other]), "nothing is called home to them");
        restless.is_too_new_for(&session, process(1, 2), now);
        assert!(restless.unable(&session).eq([other, process(1, 2)]), "it was started again");
        restless.forget_old(now + 2 * REMEMBERED);
        assert!(restless.too_new.is_empty());
    }
}
