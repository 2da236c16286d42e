//! What operators want to know of all channels. Counted when somebody asks, which looks at each of
//! them: to keep count would cost each message something.

use std::time::Duration;

use rustc_hash::FxHashSet;
use single_state_proto::link::Queued;

use super::Router;

/// How the channels of a gateway are doing.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Bytes of outputs that sockets have not taken.
    pub(crate) for_browsers: u64,
    /// Bytes of inputs that no worker has, and what else links have not sent.
    pub(crate) for_workers: u64,
    /// Bytes of inputs that a worker has, kept until it acknowledges them.
    pub(crate) for_acknowledgements: u64,
    /// Sessions that are not where placement wants them.
    pub(crate) misplaced: usize,
    /// The slowest link's last round trip; zero without a link.
    pub(crate) round_trip: Duration,
}

impl Router {
    pub(crate) fn measure(&self) -> Measured {
        let mut measured = Measured { misplaced: self.misplaced(), ..Measured::default() };
        for worker in self.links() {
            let Queued { unsent, unconsumed } = worker.queued();
            measured.for_workers += unsent;
            measured.for_browsers += unconsumed;
            let round_trip = worker.round_trip().unwrap_or_default();
            measured.round_trip = measured.round_trip.max(round_trip);
        }
        self.for_each(|channel| {
            let (unsent, unacknowledged) = channel.inputs();
            measured.for_workers += unsent as u64;
            measured.for_acknowledgements += (unacknowledged - unsent) as u64;
        });
        measured
    }

    /// How many sessions are not where placement wants them while all workers are there. Those that
    /// live in memory only stay where they are (R14).
    fn misplaced(&self) -> usize {
        let mut misplaced = FxHashSet::default();
        for worker in self.links() {
            for channel in worker.channels() {
                let is_strange = || !self.is_home(&worker, &channel.session);
                if channel.open_stream().is_some() && !channel.is_in_memory() && is_strange() {
                    // Several tabs may have one session.
                    misplaced.insert(channel.session.clone());
                }
            }
        }
        misplaced.len()
    }
}
