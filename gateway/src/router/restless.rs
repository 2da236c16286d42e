//! Sessions that were called home or refused lately, so that none is sent back and forth without end
//! (R16). Pure: `now` is an argument. Empty most of the time.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use single_state_proto::id::{SessionId, WorkerIndex};

/// After a session was called home it is left where it is for so long, …
const FIRST_REST: Duration = Duration::from_secs(2);
/// … each further time twice as long, up to this.
const LAST_REST: Duration = Duration::from_secs(60);
/// A worker that cannot read a session is passed over for so long.
const TOO_NEW: Duration = Duration::from_secs(5);

/// What is remembered of sessions that move.
#[derive(Debug, Default)]
pub(super) struct Restless {
    calls: FxHashMap<SessionId, Calls>,
    too_new: FxHashMap<SessionId, Vec<(WorkerIndex, Instant)>>,
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

    /// This worker cannot read the session.
    pub(super) fn is_too_new_for(&mut self, session: &SessionId, index: WorkerIndex, now: Instant) {
        let workers = self.too_new.entry(session.clone()).or_default();
        workers.retain(|(other, _)| *other != index);
        workers.push((index, now + TOO_NEW));
    }

    /// The workers that cannot read the session.
    pub(super) fn avoided(&self, session: &SessionId, now: Instant) -> Vec<WorkerIndex> {
        let workers = self.too_new.get(session).into_iter().flatten();
        workers.filter(|(_, until)| *until > now).map(|(index, _)| *index).collect()
    }

    /// Sessions belong elsewhere now: each may be called at once.
    pub(super) fn forget_calls(&mut self) {
        self.calls.clear();
    }

    /// Drops what is long over.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.calls.retain(|_, calls| now < calls.rests_until + LAST_REST);
        self.too_new.retain(|_, workers| workers.iter().any(|(_, until)| now < *until));
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
        restless.is_too_new_for(&session, WorkerIndex(1), now);
        restless.is_too_new_for(&session, WorkerIndex(2), now + TOO_NEW / 2);
        assert_eq!(restless.avoided(&session, now), [WorkerIndex(1), WorkerIndex(2)]);
        assert_eq!(restless.avoided(&session, now + TOO_NEW), [WorkerIndex(2)]);
        restless.forget_old(now + 2 * TOO_NEW);
        assert!(restless.too_new.is_empty());
    }
}
