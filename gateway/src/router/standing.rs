//! Whether a worker takes sessions, as far as this gateway can tell. Pure: `now` is an argument.
//!
//! ```text
//!                 HELLO             link ends                not back in time, or refused
//!   Unknown ───────────────▶ Up ─────────────────▶ Lost ──────────────────────────────────┐
//!      │                    │ ▲ │                  │ HELLO: Up                            ▼
//!      │ not reached        │ │ └ silence ─────────┼────────────────────────────────────▶ Down
//!      └────────────────────┼─┼──────────────────▶ │            HELLO: Up                  ▲
//!                    GOAWAY ▼ └────────────────────┘                                      │
//!                        Draining ── link ends ────────────────────────────────────────────┘
//! ```
//!
//! Sessions wait for a worker that is Unknown or Lost, which does not last; placement passes over
//! one that is Draining or Down.

use std::time::{Duration, Instant};

/// A link that has lived so long was no failure.
const STABLE: Duration = Duration::from_secs(60);
/// A worker that is back after its link was lost gets its sessions home when the link has lived so
/// long; twice as long after each further loss …
const FIRST_PROOF: Duration = Duration::from_millis(250);
/// … and at most so long: so a link that comes and goes moves few sessions (R16).
const LAST_PROOF: Duration = Duration::from_secs(60);

/// What this gateway knows of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was not dialled yet.
    Unknown,
    /// A link is up.
    Up,
    /// The link has just ended: it may be back at once.
    Lost,
    /// It has said that it is going away.
    Draining,
    /// It cannot be reached. `refused`: nothing listens there, so its process is gone.
    Down { refused: bool },
}

/// A worker's standing and how often it was lost of late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Health {
    standing: Standing,
    since: Instant,
    losses: u32,
}

impl Health {
    pub(crate) fn new(now: Instant) -> Self {
        Self { standing: Standing::Unknown, since: now, losses: 0 }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether a link is up over which sessions may be asked for.
    pub(crate) fn is_up(&self) -> bool {
        self.standing == Standing::Up
    }

    /// Whether placement passes over the worker. A session that is kept in its memory only is waited
    /// for until its process is known to be gone (R14).
    pub(crate) fn is_skipped(&self, in_memory: bool) -> bool {
        match self.standing {
            Standing::Unknown | Standing::Up | Standing::Lost => false,
            Standing::Draining => !in_memory,
            Standing::Down { refused } => refused || !in_memory,
        }
    }

    /// From when on sessions that are elsewhere may be called home; `None` while it is not up.
    pub(crate) fn takes_home_from(&self) -> Option<Instant> {
        let proof = match self.losses {
            0 => Duration::ZERO,
            n => LAST_PROOF.min(FIRST_PROOF * 2_u32.saturating_pow((n - 1).min(16))),
        };
        self.is_up().then_some(self.since + proof)
    }

    pub(crate) fn up(&mut self, now: Instant) {
        self.set(Standing::Up, now);
    }

    /// It goes away in good order, which is no failure.
    pub(crate) fn drains(&mut self, now: Instant) {
        if self.is_up() {
            self.set(Standing::Draining, now);
        }
    }

    /// Its link has ended; after a silence nobody waits for it.
    pub(crate) fn lost(&mut self, now: Instant, silent: bool) {
        if self.standing == Standing::Draining {
            return self.set(Standing::Down { refused: true }, now);
        }
        let lived = now.saturating_duration_since(self.since);
        self.losses = if lived >= STABLE { 1 } else { self.losses.saturating_add(1) };
        let next = if silent { Standing::Down { refused: false } } else { Standing::Lost };
        self.set(next, now);
    }

    /// It could not be reached, or was not back in time.
    pub(crate) fn unreached(&mut self, now: Instant, refused: bool) {
        let refused = refused || self.standing == Standing::Down { refused: true };
        self.set(Standing::Down { refused }, now);
    }

    fn set(&mut self, standing: Standing, now: Instant) {
        (self.standing, self.since) = (standing, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_MEMORY: bool = true;

    #[test]
    fn sessions_wait_for_a_worker_until_it_is_known_to_be_away() {
        let now = Instant::now();
        let mut health = Health::new(now);
        assert!(!health.is_skipped(false), "not dialled yet");
        health.up(now);
        health.lost(now, false);
        assert!(!health.is_skipped(false), "it may be back at once");
        health.unreached(now, false);
        assert!(health.is_skipped(false));
        health.up(now);
        health.lost(now, true);
        assert!(health.is_skipped(false), "a silent one was waited for already");
    }

    #[test]
    fn what_lives_in_memory_only_waits_until_the_process_is_gone() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.up(now);
        health.lost(now, true);
        assert!(!health.is_skipped(IN_MEMORY), "it may be frozen");
        health.unreached(now, false);
        assert!(!health.is_skipped(IN_MEMORY));
        health.unreached(now, true);
        assert!(health.is_skipped(IN_MEMORY));
        health.unreached(now, false);
        assert!(health.is_skipped(IN_MEMORY), "what is gone stays gone");
    }

    #[test]
    fn a_worker_that_drains_is_passed_over_and_gone_when_its_link_ends() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.up(now);
        health.drains(now);
        assert!(health.is_skipped(false) && !health.is_skipped(IN_MEMORY));
        health.lost(now, false);
        assert_eq!(health.standing(), Standing::Down { refused: true });
        health.up(now);
        assert_eq!(health.takes_home_from(), Some(now), "that was no failure");
    }

    #[test]
    fn a_link_that_comes_and_goes_gets_its_sessions_home_later_each_time() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.up(start);
        assert_eq!(health.takes_home_from(), Some(start));
        let mut waits = Vec::new();
        for _ in 0..20 {
            health.lost(start, false);
            assert_eq!(health.takes_home_from(), None);
            health.up(start);
            waits.push(health.takes_home_from().unwrap() - start);
        }
        assert_eq!(waits[..3], [FIRST_PROOF, 2 * FIRST_PROOF, 4 * FIRST_PROOF]);
        assert!(waits.is_sorted() && waits[19] == LAST_PROOF);
        health.lost(start + STABLE, false);
        health.up(start + STABLE);
        assert_eq!(health.takes_home_from(), Some(start + STABLE + FIRST_PROOF));
    }
}
