//! What a worker remembers of sessions that others have: who has been asking for them here and for
//! how long, which ones were taken from it, and which ones only a newer app can read. Pure, `now` is
//! an argument; everything is forgotten soon.

use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use single_state_proto::id::{ConnectionId, SessionId};
use tokio::time::Instant;

/// Who asks for a session in vain for so long gets it by force.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A gateway that is told to ask again does so at first after this time, then after twice as long
/// each time …
const FIRST_RETRY: Duration = Duration::from_millis(25);
/// … up to this.
const LAST_RETRY: Duration = Duration::from_millis(400);

/// Who has not come back for so long was served elsewhere.
const SERVED_AFTER: Duration = Duration::from_secs(1);

/// A session that was taken from this worker is not taken back by force before this time, …
const FIRST_REST: Duration = Duration::from_secs(2);
/// … twice as much each time that this happens again, up to this (R16).
const LAST_REST: Duration = Duration::from_secs(60);

/// More than this is not remembered: what is forgotten costs time, never data.
const MOST: usize = 100_000;

const _: () = assert!(LAST_RETRY.as_millis() * 2 < SERVED_AFTER.as_millis());

#[derive(Debug, Default)]
pub(super) struct Contest {
    asked: FxHashMap<(SessionId, ConnectionId), Asked>,
    robbed: FxHashMap<SessionId, Robbed>,
    newer: FxHashSet<SessionId>,
}

/// A browser's connection that wants a session which another worker has.
#[derive(Debug)]
struct Asked {
    since: Instant,
    last: Instant,
    retry: Duration,
}

/// A session that another worker has taken from this one.
#[derive(Debug)]
struct Robbed {
    at: Instant,
    rest: Duration,
}

impl Contest {
    /// Since when this connection has been asking for the session.
    pub(super) fn asks(
        &mut self,
        session: &SessionId,
        connection: ConnectionId,
        now: Instant,
    ) -> Instant {
        self.entry(session, connection, now).since
    }

    /// When the connection is to ask again.
    pub(super) fn put_off(
        &mut self,
        session: &SessionId,
        connection: ConnectionId,
        now: Instant,
    ) -> Duration {
        let asked = self.entry(session, connection, now);
        let retry = asked.retry;
        asked.retry = (2 * retry).min(LAST_RETRY);
        retry
    }

    fn entry(&mut self, session: &SessionId, connection: ConnectionId, now: Instant) -> &mut Asked {
        if self.asked.len() >= MOST {
            self.asked.retain(|_, asked| now - asked.last < SERVED_AFTER);
        }
        if self.asked.len() >= MOST {
            self.asked.clear();
        }
        let new = || Asked { since: now, last: now, retry: FIRST_RETRY };
        let asked = self.asked.entry((session.clone(), connection)).or_insert_with(new);
        if now - asked.last >= SERVED_AFTER {
            *asked = new();
        }
        asked.last = now;
        asked
    }

    /// Forgets what is over; to be called now and then.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.asked.retain(|_, asked| now - asked.last < SERVED_AFTER);
        self.robbed.retain(|_, robbed| now - robbed.at < 2 * robbed.rest);
    }

    // --- back and forth -------------------------------------------------------------------------

    /// Another worker has taken the session from this one.
    pub(super) fn was_robbed(&mut self, session: &SessionId, now: Instant) {
        if self.robbed.len() >= MOST {
            self.robbed.clear();
        }
        let before = self.robbed.get(session).filter(|robbed| now - robbed.at < 2 * robbed.rest);
        let rest = before.map_or(FIRST_REST, |robbed| (2 * robbed.rest).min(LAST_REST));
        self.robbed.insert(session.clone(), Robbed { at: now, rest });
    }

    /// For how long the session must not be taken from whoever has it.
    pub(super) fn rests_for(&self, session: &SessionId, now: Instant) -> Option<Duration> {
        let robbed = self.robbed.get(session)?;
        (robbed.at + robbed.rest).checked_duration_since(now).filter(|rest| !rest.is_zero())
    }

    // --- newer apps -----------------------------------------------------------------------------

    /// Whether it is news that only a newer app can read the session.
    pub(super) fn is_newer(&mut self, session: &SessionId) -> bool {
        if self.newer.len() >= MOST {
            self.newer.clear();
        }
        self.newer.insert(session.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ConnectionId = ConnectionId(1);
    const OTHER: ConnectionId = ConnectionId(2);

    fn session() -> SessionId {
        "a".parse().unwrap()
    }

    #[test]
    fn who_comes_back_again_and_again_has_waited_since_the_first_time() {
        let (mut contest, session, began) = (Contest::default(), session(), Instant::now());
        let mut now = began;
        let mut waits = Vec::new();
        while now - began < PATIENCE {
            assert_eq!(contest.asks(&session, ONE, now), began);
            let wait = contest.put_off(&session, ONE, now);
            waits.push(wait.as_millis());
            // It has tried the owner meanwhile.
            now += wait + Duration::from_millis(5);
            contest.tidy(now);
        }
        assert_eq!(waits[..6], [25, 50, 100, 200, 400, 400]);
    }

    #[test]
    fn who_was_served_by_the_owner_has_not_waited_and_nobody_waits_for_another() {
        let (mut contest, session, began) = (Contest::default(), session(), Instant::now());
        assert_eq!(contest.asks(&session, ONE, began), began);
        let soon = began + SERVED_AFTER / 2;
        assert_eq!(contest.asks(&session, OTHER, soon), soon);
        let later = began + SERVED_AFTER;
        assert_eq!(contest.asks(&session, ONE, later), later, "it had been served");
        assert_eq!(contest.asks(&session, OTHER, later), soon);
    }

    #[test]
    fn a_session_that_goes_back_and_forth_rests_longer_each_time_and_a_quiet_one_is_forgotten() {
        let (mut contest, session, mut now) = (Contest::default(), session(), Instant::now());
        assert_eq!(contest.rests_for(&session, now), None);
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            contest.was_robbed(&session, now);
            let rest = Duration::from_secs(seconds);
            assert_eq!(contest.rests_for(&session, now), Some(rest));
            now += rest;
            assert_eq!(contest.rests_for(&session, now), None, "it is taken back");
            contest.tidy(now);
        }
        now += LAST_REST * 2;
        contest.was_robbed(&session, now);
        assert_eq!(contest.rests_for(&session, now), Some(FIRST_REST));
    }

    #[test]
    fn that_a_session_is_of_a_newer_app_is_news_once() {
        let mut contest = Contest::default();
        assert!(contest.is_newer(&session()));
        assert!(!contest.is_newer(&session()));
    }
}
