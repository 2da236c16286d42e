//! PING, PONG and silence: when to ask whether the peer is alive, and when to give it up.

use std::time::{Duration, Instant};

use crate::limits::{DEAD_AFTER, HELLO_TIMEOUT, PING_INTERVAL};

/// PING, PONG and silence.
#[derive(Debug)]
pub(super) struct Pulse {
    pub(super) hello_deadline: Instant,
    pub(super) last_arrival: Instant,
    next_ping: Instant,
    pings: u64,
    sent_at: Option<Instant>,
    pub(super) round_trip: Option<Duration>,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hello_deadline: now + HELLO_TIMEOUT,
            last_arrival: now,
            next_ping: now,
            pings: 0,
            sent_at: None,
            round_trip: None,
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.last_arrival = now;
        self.next_ping = now + PING_INTERVAL;
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.next_ping.min(self.last_arrival + DEAD_AFTER)
    }

    pub(super) fn ping_due(&mut self, now: Instant) -> Option<u64> {
        if now < self.next_ping {
            return None;
        }
        self.next_ping = now + PING_INTERVAL;
        self.pings += 1;
        self.sent_at = Some(now);
        Some(self.pings)
    }

    pub(super) fn pong(&mut self, number: u64, now: Instant) {
        if number == self.pings
            && let Some(sent_at) = self.sent_at.take()
        {
            self.round_trip = Some(now - sent_at);
        }
    }
}
