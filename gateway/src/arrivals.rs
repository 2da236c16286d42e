//! Browsers that have connected and wait for their turn: how fast they are let in, how long and how
//! many of them wait, and who is turned away. Pure: time is an argument, a browser is anything.
//!
//! ```text
//!   push ──▶ waiting, oldest first ──▶ next: one each 1/rate s (a second's worth at once): Serve
//!     │                           └──▶ next: has waited too long: Shed
//!     └──▶ full: given back, to be shed
//! ```
//!
//! So nobody is served late to whom nobody listens any more: a page that has waited for seconds has
//! given up, or is about to, and comes again after a while of its own choice.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::throttle::{Rate, Throttle};

/// However long they may wait, no more than so many do. Each costs a descriptor, 100 bytes here and
/// some 4 KiB in the kernel: 64 MiB in all. With the default limits they are 10,000.
const MAX_WAITING: usize = 16_384;

/// How fast browsers may come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArrivalLimits {
    /// So many are let in.
    pub(crate) rate: Rate,
    /// The others wait at most so long; 0 is any time.
    pub(crate) wait: Duration,
}

impl ArrivalLimits {
    /// More than can have their turn in time need not begin to wait.
    fn most_waiting(&self) -> usize {
        if self.wait.is_zero() {
            return MAX_WAITING;
        }
        let in_time = f64::from(self.rate.0) * self.wait.as_secs_f64();
        (in_time as usize).clamp(1, MAX_WAITING)
    }
}

/// What becomes of a browser.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<T> {
    /// It is let in.
    Serve(T),
    /// It has waited too long and is turned away.
    Shed(T),
}

/// Those who wait.
#[derive(Debug)]
pub(crate) struct Arrivals<T> {
    limits: ArrivalLimits,
    let_in: Throttle,
    /// Oldest first, and since when.
    waiting: VecDeque<(Instant, T)>,
}

impl<T> Arrivals<T> {
    pub(crate) fn new(limits: ArrivalLimits, now: Instant) -> Self {
        Self { limits, let_in: Throttle::new(now), waiting: VecDeque::new() }
    }

    /// A browser has come, and waits for [`Arrivals::next`]. Given back when too many wait.
    pub(crate) fn push(&mut self, browser: T, now: Instant) -> Option<T> {
        if self.waiting.len() >= self.limits.most_waiting() {
            return Some(browser);
        }
        self.waiting.push_back((now, browser));
        None
    }

    /// Who is let in or turned away now, if anybody is.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Turn<T>> {
        let is_late = self.late_at().is_some_and(|late| late < now);
        if !is_late && self.let_in.pause(now).is_some() {
            return None;
        }
        let (_, browser) = self.waiting.pop_front()?;
        if is_late {
            return Some(Turn::Shed(browser));
        }
        self.let_in.count(self.limits.rate, 1, now);
        Some(Turn::Serve(browser))
    }

    /// When to ask for the next one again; `None` while nobody waits.
    pub(crate) fn next_at(&self, now: Instant) -> Option<Instant> {
        self.waiting.front()?;
        let turn = self.let_in.pause(now).unwrap_or(now);
        Some(self.late_at().map_or(turn, |late| late.min(turn)))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// All who wait: nobody is let in any more.
    pub(crate) fn into_waiting(self) -> impl Iterator<Item = T> {
        self.waiting.into_iter().map(|(_, browser)| browser)
    }

    /// When the one who waits longest has waited too long.
    fn late_at(&self) -> Option<Instant> {
        let (since, _) = self.waiting.front()?;
        (!self.limits.wait.is_zero()).then(|| *since + self.limits.wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(rate: u32, wait: Duration, now: Instant) -> Arrivals<u32> {
        Arrivals::new(ArrivalLimits { rate: Rate(rate), wait }, now)
    }

    /// Everybody whose turn is now: who is let in, and who is turned away.
    fn turns(arrivals: &mut Arrivals<u32>, now: Instant) -> (Vec<u32>, Vec<u32>) {
        let (mut served, mut shed) = (Vec::new(), Vec::new());
        while let Some(turn) = arrivals.next(now) {
            match turn {
                Turn::Serve(browser) => served.push(browser),
                Turn::Shed(browser) => shed.push(browser),
            }
        }
        (served, shed)
    }

    /// Lets so many come at once; who is turned away at once.
    fn come(arrivals: &mut Arrivals<u32>, browsers: u32, now: Instant) -> Vec<u32> {
        (0..browsers).filter_map(|browser| arrivals.push(browser, now)).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);
    /// Who comes in at once at a rate of 10: a second's worth, and the one after which it is used up.
    const BURST: u32 = 11;

    #[test]
    fn a_second_worth_comes_in_at_once_and_the_others_in_their_order_at_the_rate() {
        let begin = Instant::now();
        let mut arrivals = arrivals(10, 5 * SECOND, begin);
        assert_eq!(come(&mut arrivals, 30, begin), [0; 0]);
        assert_eq!(turns(&mut arrivals, begin).0, (0..BURST).collect::<Vec<_>>());
        for browser in BURST..30 {
            let at = arrivals.next_at(begin).unwrap();
            assert_eq!(turns(&mut arrivals, at - Duration::from_millis(1)), (vec![], vec![]));
            assert_eq!(turns(&mut arrivals, at), (vec![browser], vec![]));
        }
        assert_eq!(arrivals.next_at(begin), None, "nobody waits any more");
    }

    #[test]
    fn who_cannot_have_its_turn_in_time_is_turned_away_at_once() {
        let begin = Instant::now();
        let mut arrivals = arrivals(10, 2 * SECOND, begin);
        // Each that comes finds the ones before it let in or waiting, as in the accept loop.
        let (mut served, mut shed) = (Vec::new(), Vec::new());
        for browser in 0..100 {
            shed.extend(arrivals.push(browser, begin));
            served.extend(turns(&mut arrivals, begin).0);
        }
        assert_eq!(served, (0..BURST).collect::<Vec<_>>());
        assert_eq!(shed, (BURST + 20..100).collect::<Vec<_>>(), "20 have their turn within 2 s");
        assert_eq!(arrivals.len(), 20);
    }

    #[test]
    fn who_has_waited_too_long_is_turned_away_and_takes_nobody_s_turn() {
        let begin = Instant::now();
        let mut arrivals = arrivals(10, SECOND, begin);
        for browser in 0..BURST {
            assert_eq!(arrivals.push(browser, begin), None);
            assert_eq!(arrivals.next(begin), Some(Turn::Serve(browser)));
        }
        come(&mut arrivals, 10, begin);
        // The process was stopped for a while, and others have come.
        let woken = begin + 3 * SECOND;
        assert_eq!(arrivals.push(77, woken), Some(77), "it was full when this one came");
        let (served, shed) = turns(&mut arrivals, woken);
        assert_eq!((served, shed), (vec![], (0..10).collect()));
        assert_eq!(arrivals.push(78, woken), None);
        assert_eq!(turns(&mut arrivals, woken), (vec![78], vec![]));
    }

    #[test]
    fn without_a_bound_of_age_they_wait_for_as_long_as_it_takes_but_never_without_number() {
        let begin = Instant::now();
        let mut arrivals = arrivals(1, Duration::ZERO, begin);
        let browsers = MAX_WAITING as u32 + 3;
        assert_eq!(come(&mut arrivals, browsers, begin).len(), 3);
        let later = begin + 3600 * SECOND;
        assert_eq!(turns(&mut arrivals, later).1, [0; 0]);
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let now = Instant::now();
        let mut arrivals = arrivals(0, 5 * SECOND, now);
        for browser in 0..1000 {
            assert_eq!(arrivals.push(browser, now), None);
            assert_eq!(arrivals.next(now), Some(Turn::Serve(browser)));
        }
    }
}
