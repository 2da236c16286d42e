//! The end of a gateway: its browsers are sent away one after another, evenly, so that they do not all
//! come to the other gateways in the same moment. Until its own moment each is served as ever.
//!
//! ```text
//!   SIGTERM ─▶ not ready, listener closed ─▶ one browser each 1/rate s ─▶ last answers ─▶ end
//!                                            (faster if --drain-timeout        │
//!                                             would not be enough)       at most CLOSE_TIMEOUT
//! ```
//!
//! The moments are dealt out here and not by each browser's own task: so they are even instead of
//! random, and a browser that waits for its socket does not have to wait for the drain as well.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use single_state_faults::{self as faults, Point};
use slab::Slab;
use tokio::time::Instant;

use crate::channel::Channel;
use crate::throttle::Rate;
use crate::websocket::Closing;

/// How long browsers have to answer the close that a draining gateway sends them.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How browsers are sent away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainOptions {
    /// After so long the last one is gone.
    pub(crate) timeout: Duration,
    /// So many a second, or more where the timeout demands it; 0 is all at once.
    pub(crate) rate: Rate,
}

impl DrainOptions {
    /// All at once.
    pub(crate) const AT_ONCE: Self = Self { timeout: Duration::ZERO, rate: Rate(0) };

    /// Over how long so many browsers are sent away: the last of them still has time to answer.
    pub(crate) fn window(&self, browsers: usize) -> Duration {
        let longest = self.timeout.saturating_sub(CLOSE_TIMEOUT).max(self.timeout / 2);
        self.rate.time(browsers).min(longest)
    }
}

/// Everybody who is connected and has a channel.
#[derive(Debug, Default)]
pub(crate) struct Roster(RefCell<Slab<Rc<Channel>>>);

/// A place in the roster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat(usize);

impl Roster {
    pub(crate) fn enter(&self, channel: Rc<Channel>) -> Seat {
        Seat(self.0.borrow_mut().insert(channel))
    }

    /// Gives a seat back, once.
    pub(crate) fn leave(&self, seat: Seat) {
        self.0.borrow_mut().remove(seat.0);
    }

    /// How many have not been told to go.
    pub(crate) fn untold(&self) -> usize {
        self.0.borrow().iter().filter(|(_, channel)| channel.closing().is_none()).count()
    }

    /// Sends everybody away, over so long. Nobody may enter any more, so a seat that is given back
    /// meanwhile stays empty.
    pub(crate) async fn send_away(&self, window: Duration, Closing { code, reason }: Closing) {
        let seats: Vec<usize> = self.0.borrow().iter().map(|(seat, _)| seat).collect();
        let began = Instant::now();
        for (seat, after) in seats.iter().zip(moments(window, seats.len())) {
            if began + after > Instant::now() {
                tokio::time::sleep_until(began + after).await;
            }
            if let Some(channel) = self.0.borrow().get(*seat) {
                channel.close(code, reason);
                faults::point(Point::SendingAway);
            }
        }
    }
}

/// When each of so many browsers is sent away.
fn moments(window: Duration, browsers: usize) -> impl Iterator<Item = Duration> {
    (0..browsers).map(move |i| window.mul_f64(i as f64 / browsers as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: DrainOptions =
        DrainOptions { timeout: Duration::from_secs(120), rate: Rate(200) };

    #[test]
    fn a_few_go_at_once_and_many_take_the_whole_time_but_for_their_last_answers() {
        assert_eq!(MINUTES.window(0), Duration::ZERO);
        assert_eq!(MINUTES.window(3), Duration::from_millis(15));
        assert_eq!(MINUTES.window(2000), Duration::from_secs(10));
        assert_eq!(MINUTES.window(50_000), Duration::from_secs(117));
        assert_eq!(DrainOptions::AT_ONCE.window(50_000), Duration::ZERO);
    }

    #[test]
    fn half_of_a_short_time_is_left_to_go_in() {
        let short = DrainOptions { timeout: Duration::from_secs(2), ..MINUTES };
        assert_eq!(short.window(50_000), Duration::from_secs(1));
    }

    #[test]
    fn no_second_sees_more_than_twice_the_mean() {
        for browsers in [1000, 10_000, 100_000] {
            let window = MINUTES.window(browsers);
            let mut seconds = vec![0_usize; window.as_secs() as usize];
            for moment in moments(window, browsers) {
                seconds[moment.as_secs() as usize] += 1;
            }
            let (most, mean) = (seconds.iter().max().unwrap(), browsers / seconds.len());
            assert!(*most <= mean + 1, "{browsers} over {window:?}: {seconds:?}");
        }
    }
}
