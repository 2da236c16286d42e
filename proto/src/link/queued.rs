//! What waits at one end of a link, for whoever watches it. Counted when it is asked for.

use super::Link;

/// Bytes that wait at one end of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queued {
    /// For the peer to take them.
    pub unsent: u64,
    /// For their consumer: the session, or the browser's socket. Each message counts
    /// [`MESSAGE_COST`](crate::limits::MESSAGE_COST) more.
    pub unconsumed: u64,
}

impl std::ops::AddAssign for Queued {
    fn add_assign(&mut self, other: Self) {
        self.unsent += other.unsent;
        self.unconsumed += other.unconsumed;
    }
}

impl Link {
    /// What waits at this end; looks at all streams.
    pub fn queued(&self) -> Queued {
        let whole = Queued { unsent: (self.urgent.len() + self.out.len()) as u64, unconsumed: 0 };
        self.streams.values().fold(whole, |queued, stream| Queued {
            unsent: queued.unsent + stream.unsent() as u64,
            unconsumed: queued.unconsumed + stream.receive.held(),
        })
    }

    /// How often a stream that had something to send had to wait for credit since the last call.
    pub fn take_stalls(&mut self) -> u64 {
        std::mem::take(&mut self.stalls)
    }
}
