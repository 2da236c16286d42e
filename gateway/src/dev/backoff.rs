//! When a worker that ended is started again. Pure: the caller brings times and randomness.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
/// A worker that lived this long was well; what ends it then is a new story.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// 0.5 s · 2^5 is the first delay above `LONGEST`.
const MOST_DOUBLINGS: u32 = 5;

const _: () = assert!(FIRST.as_millis() << MOST_DOUBLINGS >= LONGEST.as_millis());

/// How often in a row one worker ended too soon.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    soon_ended: u32,
}

impl Backoff {
    /// The delay before the next start of a worker that has just ended after it `lived` so long:
    /// none the first time, then 0.5 s · 2^i up to 10 s, less up to a quarter of it. `random` is
    /// from 0 to 1 and keeps workers that died together from starting in step.
    pub(crate) fn next(&mut self, lived: Duration, random: f64) -> Duration {
        if lived >= WELL_AFTER {
            self.soon_ended = 0;
        }
        let before = self.soon_ended;
        self.soon_ended = before.saturating_add(1);
        match before.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let full = (FIRST * (1 << doublings.min(MOST_DOUBLINGS))).min(LONGEST);
                full.mul_f64(1.0 - random.clamp(0.0, 1.0) / 4.0)
            }
        }
    }
}

/// A random number from 0 to 1; without entropy the delays are merely in step.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_double_up_to_ten_seconds() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.next(SOON, 0.0).as_millis()).collect();
        assert_eq!(delays, [0, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn a_worker_that_lived_ten_seconds_is_restarted_at_once_again() {
        let mut backoff = Backoff::default();
        backoff.next(SOON, 0.0);
        assert_eq!(backoff.next(WELL_AFTER - Duration::from_millis(1), 0.0), FIRST);
        assert_eq!(backoff.next(WELL_AFTER, 0.0), Duration::ZERO);
        assert_eq!(backoff.next(SOON, 0.0), FIRST);
    }

    #[test]
    fn jitter_takes_at_most_a_quarter_of_the_delay() {
        let delay = |random| {
            let mut backoff = Backoff { soon_ended: 1 };
            backoff.next(SOON, random).as_millis()
        };
        assert_eq!((delay(0.0), delay(0.5), delay(1.0)), (500, 437, 375));
    }

    #[test]
    fn a_worker_that_never_starts_is_retried_for_ever() {
        let mut backoff = Backoff { soon_ended: u32::MAX };
        assert_eq!(backoff.next(SOON, 0.0), LONGEST);
        assert_eq!(backoff.next(SOON, 0.0), LONGEST);
    }
}
