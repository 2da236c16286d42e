//! Numbering of a channel's inputs, in both halves: the client half keeps what is not acknowledged
//! and sends it again to the next owner, the session half applies each number once and in order.
//!
//! The client half is the browser's own, or the gateway on behalf of a plain page. Numbers stand in
//! every message: nothing is counted on both sides.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::id::InputNumber;
use crate::limits::{MAX_INPUT_NUMBER, UNACKED_BYTES, UNACKED_MESSAGES};

/// One input with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// 1, 2, 3 … within its channel.
    pub number: InputNumber,
    /// Binary message; else text.
    pub binary: bool,
    /// What the page sent.
    pub body: Bytes,
}

/// The peer acknowledged an input that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("input {acked} was acknowledged, the last one sent is {sent}")]
pub struct AckOfTheFuture {
    /// What was acknowledged.
    pub acked: InputNumber,
    /// The last number given.
    pub sent: InputNumber,
}

/// What a client half says to an input that its page has numbered itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// It is the next one, and is kept.
    Kept,
    /// It was kept before, and is on its way.
    Known,
    /// It is acknowledged, which the page has not heard.
    Acknowledged,
    /// Numbers are missing before it: the page broke its promise.
    Gap,
}

/// The half that keeps inputs until they are acknowledged. It numbers them itself, on behalf of a
/// plain page, or relays what a page has numbered.
///
/// Holds at most [`UNACKED_MESSAGES`] messages or [`UNACKED_BYTES`] bytes, or one message if that
/// is larger: its owner does not read more from the page while [`ClientHalf::is_full`].
#[derive(Debug, Default)]
pub struct ClientHalf {
    last: InputNumber,
    /// The page numbers its messages itself, and other connections may have brought some of them.
    relays: bool,
    /// The next number is taken as it is: the session does not know what came before.
    any_next: bool,
    unacked: VecDeque<Input>,
    bytes: usize,
    /// How many of `unacked` the stream that is open now has taken.
    taken: usize,
}

impl ClientHalf {
    /// A channel that has sent nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next message must wait.
    pub fn is_full(&self) -> bool {
        self.unacked.len() >= UNACKED_MESSAGES || self.bytes >= UNACKED_BYTES
    }

    /// Numbers a message and keeps it.
    pub fn push(&mut self, binary: bool, body: Bytes) -> InputNumber {
        self.last = self.last.next();
        self.bytes += body.len();
        self.unacked.push_back(Input { number: self.last, binary, body });
        self.last
    }

    /// Relays a channel that a session has attached for the first time here: what it has `applied`
    /// is done. `None`: it takes the next number as it is.
    pub fn begin(&mut self, applied: Option<InputNumber>) {
        self.relays = true;
        self.last = applied.unwrap_or_default();
        self.any_next = applied.is_none();
    }

    /// Keeps an input that its page has numbered.
    pub fn relay(&mut self, input: Input) -> Relayed {
        let InputNumber(number) = input.number;
        if !(1..=MAX_INPUT_NUMBER).contains(&number) {
            return Relayed::Gap;
        }
        if !self.any_next && input.number <= self.last {
            let first = self.unacked.front().map(|input| input.number);
            let is_known = first.is_some_and(|first| first <= input.number);
            return if is_known { Relayed::Known } else { Relayed::Acknowledged };
        }
        if !self.any_next && input.number != self.last.next() {
            return Relayed::Gap;
        }
        self.any_next = false;
        self.last = input.number;
        self.bytes += input.body.len();
        self.unacked.push_back(input);
        Relayed::Kept
    }

    /// The next input that the open stream has not taken.
    pub fn next_to_send(&self) -> Option<&Input> {
        self.unacked.get(self.taken)
    }

    /// The stream took it.
    pub fn sent(&mut self) {
        self.taken += 1;
        debug_assert!(self.taken <= self.unacked.len());
    }

    /// All inputs up to `number` are in the session's state for good. Of a relayed channel they may
    /// have come over an earlier connection, of which this half has heard nothing.
    pub fn acked(&mut self, number: InputNumber) -> Result<(), AckOfTheFuture> {
        if number > self.last && !self.relays {
            return Err(AckOfTheFuture { acked: number, sent: self.last });
        }
        if number > self.last {
            (self.last, self.any_next) = (number, false);
        }
        while self.unacked.front().is_some_and(|input| input.number <= number) {
            if let Some(input) = self.unacked.pop_front() {
                self.bytes -= input.body.len();
                self.taken = self.taken.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// A stream was opened: what its session has applied is done, all else goes again. `None`: the
    /// session does not know this channel and takes the next number as it is.
    pub fn attached(&mut self, applied: Option<InputNumber>) -> Result<(), AckOfTheFuture> {
        if let Some(applied) = applied {
            self.acked(applied)?;
        }
        self.taken = 0;
        Ok(())
    }

    /// Inputs that are not acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Bytes of inputs that are not acknowledged.
    pub fn unacked_bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of those of them that the open stream has not taken.
    pub fn unsent_bytes(&self) -> usize {
        self.unacked.range(self.taken..).map(|input| input.body.len()).sum()
    }
}

/// What a session does with an input, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one: apply it.
    Apply,
    /// It was applied before: drop it and acknowledge again.
    Duplicate,
    /// Numbers are missing before it: the channel broke its promise.
    Gap,
}

/// The half that applies inputs: one integer for each channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionHalf {
    last: Option<InputNumber>,
}

impl SessionHalf {
    /// A channel of which nothing was applied. `first`: whether its numbers must begin with 1; else
    /// the first one is taken as it is, because the session has lost nothing that came before.
    pub fn new(first: bool) -> Self {
        Self { last: first.then_some(InputNumber(0)) }
    }

    /// A channel as a snapshot has it: the last number that was applied.
    pub fn resume(last: Option<InputNumber>) -> Self {
        Self { last }
    }

    /// Last number taken; `None` if the next is taken as it is.
    pub fn last(&self) -> Option<InputNumber> {
        self.last
    }

    /// Judges the next input, and counts it if it is to be applied.
    pub fn receive(&mut self, number: InputNumber) -> Verdict {
        if !(1..=MAX_INPUT_NUMBER).contains(&number.0) {
            return Verdict::Gap;
        }
        match self.last {
            Some(last) if number <= last => Verdict::Duplicate,
            Some(last) if number != last.next() => Verdict::Gap,
            _ => {
                self.last = Some(number);
                Verdict::Apply
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(messages: u64) -> ClientHalf {
        let mut half = ClientHalf::new();
        for i in 1..=messages {
            assert_eq!(half.push(false, Bytes::from(i.to_string())), InputNumber(i));
        }
        half
    }

    fn send_all(half: &mut ClientHalf) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(input) = half.next_to_send() {
            numbers.push(input.number.0);
            half.sent();
        }
        numbers
    }

    #[test]
    fn what_is_not_acknowledged_goes_again_to_the_next_owner_with_the_same_numbers() {
        let mut half = half(5);
        assert_eq!(send_all(&mut half), [1, 2, 3, 4, 5]);
        half.acked(InputNumber(2)).unwrap();
        assert_eq!(send_all(&mut half), [0_u64; 0]);
        half.attached(Some(InputNumber(3))).unwrap();
        assert_eq!(send_all(&mut half), [4, 5]);
    }

    #[test]
    fn a_session_that_forgot_the_channel_gets_all_that_is_kept() {
        let mut half = half(4);
        half.acked(InputNumber(2)).unwrap();
        half.attached(None).unwrap();
        assert_eq!(send_all(&mut half), [3, 4]);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_an_error() {
        assert!(half(2).acked(InputNumber(3)).is_err());
        assert!(half(2).attached(Some(InputNumber(3))).is_err());
    }

    #[test]
    fn a_client_half_is_full_at_its_limits_and_takes_one_larger_message() {
        let mut many = half(UNACKED_MESSAGES as u64 - 1);
        assert!(!many.is_full());
        many.push(false, Bytes::new());
        assert!(many.is_full());
        many.acked(InputNumber(1)).unwrap();
        assert!(!many.is_full());

        let mut large = ClientHalf::new();
        large.push(true, Bytes::from(vec![0; UNACKED_BYTES + 1]));
        assert!(large.is_full());
        large.acked(InputNumber(1)).unwrap();
        assert!(!large.is_full());
    }

    #[test]
    fn a_session_applies_each_number_once_and_in_order() {
        let mut half = SessionHalf::new(true);
        assert_eq!(half.receive(InputNumber(1)), Verdict::Apply);
        assert_eq!(half.receive(InputNumber(1)), Verdict::Duplicate);
        assert_eq!(half.receive(InputNumber(3)), Verdict::Gap);
        assert_eq!(half.receive(InputNumber(2)), Verdict::Apply);
        assert_eq!(half.last(), Some(InputNumber(2)));
    }

    #[test]
    fn a_session_that_lost_nothing_takes_the_first_number_as_it_is() {
        let mut half = SessionHalf::new(false);
        assert_eq!(half.receive(InputNumber(7)), Verdict::Apply);
        assert_eq!(half.receive(InputNumber(9)), Verdict::Gap);
        for never in [0, MAX_INPUT_NUMBER + 1, u64::MAX] {
            assert_eq!(SessionHalf::new(false).receive(InputNumber(never)), Verdict::Gap);
        }
    }

    fn input(number: u64) -> Input {
        Input { number: InputNumber(number), binary: false, body: Bytes::from_static(b"x") }
    }

    #[test]
    fn a_relayed_channel_goes_on_where_the_session_is() {
        let mut half = ClientHalf::new();
        half.begin(Some(InputNumber(3)));
        assert_eq!(half.relay(input(3)), Relayed::Acknowledged);
        assert_eq!(half.relay(input(5)), Relayed::Gap);
        assert_eq!(half.relay(input(4)), Relayed::Kept);
        assert_eq!(half.relay(input(5)), Relayed::Kept);
        assert_eq!(half.relay(input(4)), Relayed::Known);
        assert_eq!(send_all(&mut half), [4, 5]);
        half.acked(InputNumber(4)).unwrap();
        assert_eq!(half.relay(input(4)), Relayed::Acknowledged);
        half.attached(Some(InputNumber(4))).unwrap();
        assert_eq!(send_all(&mut half), [5], "the next owner gets what is not acknowledged");
    }

    #[test]
    fn what_an_earlier_connection_brought_may_be_acknowledged_before_the_page_repeats_it() {
        let mut half = ClientHalf::new();
        half.begin(Some(InputNumber(3)));
        half.acked(InputNumber(5)).unwrap();
        assert_eq!(half.relay(input(4)), Relayed::Acknowledged);
        assert_eq!(half.relay(input(5)), Relayed::Acknowledged);
        assert_eq!(half.relay(input(7)), Relayed::Gap);
        assert_eq!(half.relay(input(6)), Relayed::Kept);
        half.attached(Some(InputNumber(8))).unwrap();
        assert_eq!(half.relay(input(9)), Relayed::Kept);
        assert_eq!(send_all(&mut half), [9]);
    }

    #[test]
    fn a_channel_that_the_session_forgot_is_relayed_from_any_number() {
        let mut half = ClientHalf::new();
        half.begin(None);
        assert_eq!(half.relay(input(41)), Relayed::Kept);
        assert_eq!(half.relay(input(43)), Relayed::Gap);
        assert_eq!(half.relay(input(42)), Relayed::Kept);
        for never in [0, MAX_INPUT_NUMBER + 1, u64::MAX] {
            assert_eq!(half.relay(input(never)), Relayed::Gap);
        }
    }
}
