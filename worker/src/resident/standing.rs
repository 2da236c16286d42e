//! A resident session's standing: whether it is still ours, whether it has something to do, and what
//! is suspected of it.

use std::task::{Context, Poll};
use std::time::Duration;

use single_state_proto::frame::ResetCode;
use single_state_proto::id::{ChannelId, InputNumber};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::state::State;
use super::{ChannelKey, Resident};
use crate::message;
use crate::output::Leaves;

/// After a message of the session to itself has panicked, each message is committed by itself for
/// so long.
const SUSPICION: Duration = Duration::from_secs(10);

/// Something that panicked, and took the session's memory with it: it is not called again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Poison {
    pub(crate) kind: PoisonKind,
    /// What to tell the user.
    pub(crate) error: String,
    pub(crate) details: String,
}

/// Names a message across a reload of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PoisonKind {
    Input(ChannelId, InputNumber),
    /// A scheduled message, by number and epoch.
    Timer(u64, u64),
    /// A message of spawned work, which does not come again.
    Post,
}

/// What a session will do by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plans {
    /// When its next scheduled message is due.
    pub(crate) next_due: Option<std::time::Instant>,
    /// Work runs beside it.
    pub(crate) jobs: bool,
}

impl Resident {
    // --- ownership ------------------------------------------------------------------------------

    /// When the session was last known to be ours.
    pub(crate) fn confirmed(&self) -> Instant {
        self.state.borrow().confirmed
    }

    /// It is ours now.
    pub(crate) fn confirm(&self) {
        self.state.borrow_mut().confirmed = Instant::now();
    }

    /// The session's memory is lost: its channels are to come again, to whoever has it then.
    pub(crate) fn reset_channels(&self, code: ResetCode) {
        let mut state = self.state.borrow_mut();
        state.stopped = true;
        let channels = std::mem::take(&mut state.channels);
        drop(state);
        for (_, tab) in channels.into_iter().filter_map(|channel| channel.tab) {
            tab.reset(code);
        }
    }

    /// The session has left this memory with everything committed: its channels are to come again,
    /// to whoever has it next.
    pub(crate) fn moved(&self) {
        let channels = std::mem::take(&mut self.state.borrow_mut().channels);
        for (_, tab) in channels.into_iter().filter_map(|channel| channel.tab) {
            tab.moved();
        }
    }

    /// The session is deleted, for good: what was handled is acknowledged, and what was said leaves.
    pub(crate) fn say_last_words(&self) {
        let mut state = self.state.borrow_mut();
        state.log.number_held();
        state.gate = None;
        let gate = state.gate();
        let State { log, channels, .. } = &mut *state;
        for channel in channels {
            channel.ack_due |= channel.durable != channel.applied;
            channel.durable = channel.applied;
            channel.pump(log, gate);
        }
    }

    /// The app could not read what was saved, and the session starts from nothing.
    pub(crate) fn tell_reset(&self, error: &str) {
        let text = "this session's saved state could not be read, so it starts from nothing";
        let body = message::error(text, error);
        self.with_log(|log| log.event(false, body, Leaves::Unconfirmed));
    }

    /// Whether the app's state has left memory.
    pub(crate) fn is_asleep(&self) -> bool {
        self.state.borrow().asleep
    }

    /// The app's state may leave memory, if nothing is to be done.
    /// Returns when its commit is due, if that is news to the committer.
    pub(crate) fn want_sleep(&self) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        state.sleep_wanted = true;
        if !state.saving.is_clean() {
            state.saving.settle(Instant::now());
        }
        state.wake();
        state.news()
    }

    /// The coroutine waits, and has planned this.
    pub(crate) fn set_plans(&self, plans: Plans) {
        self.state.borrow_mut().plans = plans;
    }

    /// Ready when no save is in flight.
    pub(crate) fn poll_settled(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if !state.saving.is_in_flight() {
            return Poll::Ready(());
        }
        state.wait(context);
        Poll::Pending
    }

    /// Ready when there is something to do for which the session must be awake, or it is to leave.
    pub(crate) fn poll_awake(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.has_work() || state.leaving.is_some() {
            return Poll::Ready(());
        }
        state.wait(context);
        Poll::Pending
    }

    /// Since when the session has had nothing to do; `None` while it has, or will soon.
    pub(crate) fn idle_since(&self, soon: Duration) -> Option<Instant> {
        let state = self.state.borrow();
        let soon = Instant::now().into_std() + soon;
        let planned = state.plans.jobs || state.plans.next_due.is_some_and(|due| due < soon);
        // One sender is the session's own.
        let posters = state.posts.as_ref().is_some_and(|posts| posts.sender.strong_count() > 1);
        let busy =
            state.has_work() || state.leaving.is_some() || state.in_call || planned || posters;
        (!busy).then_some(state.active)
    }

    /// Whether a death of the owner before is still to be counted; asked once.
    pub(crate) fn take_strike(&self) -> bool {
        let past = &mut self.state.borrow_mut().past;
        past.as_mut().is_some_and(|past| std::mem::take(&mut past.strike_due))
    }

    /// Deaths of owners on its account, with the one that is counted before its first message.
    pub(crate) fn strikes(&self) -> u16 {
        self.state.borrow().past.as_ref().map_or(0, |past| past.strikes)
    }

    /// It is fed while other sessions that have killed owners wait: until a commit has succeeded, or
    /// its life in memory ends.
    pub(crate) fn begin_turn(&self, turn: OwnedSemaphorePermit) {
        self.state.borrow_mut().past().turn = Some(turn);
    }

    /// Others may be fed.
    pub(crate) fn end_turn(&self) {
        if let Some(past) = &mut self.state.borrow_mut().past {
            past.turn = None;
        }
    }

    /// Messages are committed one at a time until a commit has succeeded.
    pub(crate) fn be_careful(&self) {
        self.state.borrow_mut().careful = true;
    }

    /// What panicked before the session was loaded again: it will be told, not called.
    pub(crate) fn set_poison(&self, poison: Poison) {
        let mut state = self.state.borrow_mut();
        // What planned the session's own message may not have been committed, and would plan it
        // anew: this time it is committed before that can panic again.
        let own = !matches!(poison.kind, PoisonKind::Input(..));
        state.careful = own;
        let past = state.past();
        // No owner has died: there is no strike to count.
        past.strike_due = false;
        past.careful_until = own.then(|| Instant::now() + SUSPICION);
        past.poison = Some(poison);
    }

    /// Whether this message is what panicked before.
    pub(crate) fn take_poison(&self, kind: &PoisonKind) -> Option<Poison> {
        let mut state = self.state.borrow_mut();
        state.past.as_mut()?.poison.take_if(|poison| poison.kind == *kind)
    }

    /// Whether anything that panicked is expected to come again.
    pub(crate) fn has_poison(&self) -> bool {
        self.state.borrow().past.as_ref().is_some_and(|past| past.poison.is_some())
    }

    /// What a channel's input is called across reloads.
    pub(crate) fn poison_of(&self, key: ChannelKey, number: InputNumber) -> PoisonKind {
        self.channel_id(key).map_or(PoisonKind::Post, |id| PoisonKind::Input(id, number))
    }
}
