//! Rates: how much may come in a second, with a burst of one second. Pure: time is an argument.

use std::time::{Duration, Instant};

/// A second's worth may come at once.
const BURST: Duration = Duration::from_secs(1);

/// How much may come in a second; 0 is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u32);

impl Rate {
    /// How long so much takes at this rate; no time at all at any rate.
    pub(crate) fn time(self, amount: usize) -> Duration {
        match self.0 {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(amount as f64 / f64::from(rate)),
        }
    }
}

/// When what has come would have come at the rate: one moment in place of a bucket of tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throttle(Instant);

impl Throttle {
    /// Nothing has come yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Counts what has come.
    pub(crate) fn count(&mut self, rate: Rate, amount: usize, now: Instant) {
        if rate.0 > 0 {
            self.0 = self.0.max(now) + rate.time(amount);
        }
    }

    /// Until when nothing more may come; `None` when it may now.
    pub(crate) fn pause(&self, now: Instant) -> Option<Instant> {
        let until = self.0.checked_sub(BURST)?;
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_worth_may_come_at_once_and_then_so_much_in_each_second() {
        let now = Instant::now();
        let (rate, mut throttle) = (Rate(100), Throttle::new(now));
        throttle.count(rate, 100, now);
        assert_eq!(throttle.pause(now), None);
        throttle.count(rate, 50, now);
        assert_eq!(throttle.pause(now), Some(now + Duration::from_millis(500)));
        assert_eq!(throttle.pause(now + Duration::from_millis(500)), None);
    }

    #[test]
    fn quiet_time_saves_no_more_than_one_burst() {
        let begin = Instant::now();
        let (rate, mut throttle) = (Rate(100), Throttle::new(begin));
        let now = begin + Duration::from_secs(3600);
        throttle.count(rate, 200, now);
        assert_eq!(throttle.pause(now), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_rate_of_0_is_any() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        throttle.count(Rate(0), usize::MAX, now);
        assert_eq!(throttle.pause(now), None);
    }
}
