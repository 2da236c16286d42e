//! Credit arithmetic of one direction of a stream, and nothing else.
//!
//! A sender may send what it was granted. A receiver grants a window at first and tops up when
//! messages are *consumed* (the session took them, the browser's socket took them), so what waits
//! for a slow consumer is bounded. A message longer than the window gets what it still needs once
//! its first part has stated its length (R2); that extra is not granted again.

use crate::limits::MESSAGE_COST;

/// What a message of `length` bytes takes of the window.
pub fn message_cost(length: usize) -> u64 {
    u64::from(MESSAGE_COST) + length as u64
}

/// The sender's half.
#[derive(Debug)]
pub(crate) struct SendCredit {
    available: u64,
}

impl SendCredit {
    pub(crate) fn new(window: u32) -> Self {
        Self { available: u64::from(window) }
    }

    /// Bytes of a message that may go now; `None` if the first part cannot even pay for the message's
    /// bookkeeping.
    pub(crate) fn room(&self, first: bool) -> Option<u64> {
        if first {
            self.available.checked_sub(u64::from(MESSAGE_COST))
        } else {
            Some(self.available)
        }
    }

    /// Takes what a part of `length` bytes costs; at most [`Self::room`] of them.
    pub(crate) fn take(&mut self, first: bool, length: usize) {
        let cost = if first { message_cost(length) } else { length as u64 };
        debug_assert!(cost <= self.available);
        self.available = self.available.saturating_sub(cost);
    }

    /// Adds a grant; `false` when the sum is beyond any honest receiver's.
    #[must_use]
    pub(crate) fn grant(&mut self, bytes: u32) -> bool {
        self.available += u64::from(bytes);
        self.available <= u64::from(u32::MAX)
    }
}

/// The receiver's half. Counts from the stream's beginning; 2^64 bytes never pass.
#[derive(Debug)]
pub(crate) struct ReceiveCredit {
    window: u64,
    granted: u64,
    received: u64,
    consumed: u64,
    /// Where the message that is being put together ends.
    needed: u64,
}

impl ReceiveCredit {
    pub(crate) fn new(window: u32) -> Self {
        let window = u64::from(window);
        Self { window, granted: window, received: 0, consumed: 0, needed: 0 }
    }

    /// Counts a part that arrived; `false` when it was not granted.
    #[must_use]
    pub(crate) fn receive(&mut self, first: bool, length: usize) -> bool {
        self.received += if first { message_cost(length) } else { length as u64 };
        self.received <= self.granted
    }

    /// Bytes beyond what is granted that the message just begun still needs, `rest` being what has
    /// not arrived of it.
    pub(crate) fn lacks(&self, rest: usize) -> u64 {
        (self.received + rest as u64).saturating_sub(self.granted)
    }

    /// Decides that the message just begun may come in whole.
    pub(crate) fn need(&mut self, rest: usize) {
        self.needed = self.received + rest as u64;
    }

    /// Bytes that have arrived and were not consumed.
    pub(crate) fn held(&self) -> u64 {
        self.received - self.consumed
    }

    /// Counts a message that was consumed.
    pub(crate) fn consume(&mut self, cost: u64) {
        self.consumed = (self.consumed + cost).min(self.received);
    }

    /// The grant that is due now, if one is: at once for what a message needs, else only when half
    /// a window has gathered, so that short messages do not each cost a frame.
    pub(crate) fn due(&mut self) -> Option<u32> {
        let target = (self.consumed + self.window).max(self.needed);
        let due = target.saturating_sub(self.granted);
        if due == 0 || (self.needed <= self.granted && due < self.window / 2) {
            return None;
        }
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.granted += u64::from(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WINDOW;

    #[test]
    fn short_messages_return_credit_in_halves_of_a_window() {
        let mut credit = ReceiveCredit::new(WINDOW);
        for _ in 0..511 {
            assert!(credit.receive(true, 0));
            credit.consume(message_cost(0));
            assert_eq!(credit.due(), None);
        }
        assert!(credit.receive(true, 0));
        credit.consume(message_cost(0));
        assert_eq!(credit.due(), Some(WINDOW / 2));
    }

    #[test]
    fn nothing_is_granted_before_it_is_consumed() {
        let mut credit = ReceiveCredit::new(WINDOW);
        assert!(credit.receive(true, (WINDOW - MESSAGE_COST) as usize));
        assert_eq!(credit.due(), None);
        assert_eq!(credit.held(), u64::from(WINDOW));
        assert!(!credit.receive(false, 1), "a full window takes no byte more");
    }

    #[test]
    fn a_long_message_gets_what_it_needs_once_and_not_again_when_consumed() {
        let mut credit = ReceiveCredit::new(WINDOW);
        let (length, first) = (1_000_000, (WINDOW - MESSAGE_COST) as usize);
        assert!(credit.receive(true, first));
        let rest = length - first;
        assert_eq!(credit.lacks(rest), rest as u64);
        credit.need(rest);
        assert_eq!(credit.due(), Some(rest as u32));
        assert!(credit.receive(false, rest));
        credit.consume(message_cost(length));
        assert_eq!(credit.due(), Some(WINDOW));
    }

    #[test]
    fn an_endless_grant_is_noticed() {
        let mut credit = SendCredit::new(WINDOW);
        assert!(!credit.grant(u32::MAX));
    }
}
