//! One session in memory: mailbox, output log and channels, shared by its coroutine and by the
//! links of one thread. Knows no app types and no sockets.
//!
//! Inputs go from a channel into the mailbox; what the mailbox cannot take waits at its channel,
//! bounded by the credit of its stream. Outputs go into the log and from there to each channel as
//! far as its stream takes them, and no further than the output gate.

mod attachment;
mod channel;
mod durable;
mod leaving;
mod saving;
mod standing;
mod state;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use single_state_proto::channel::Input;
use single_state_proto::frame::{CloseCode, Open, Opened, Refused, ResetCode};
use single_state_proto::id::{ChannelId, Epoch, InputNumber, Revision, SessionId};
use single_state_proto::limits::WINDOW;
use single_state_store::Version;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use self::attachment::Attachment;
pub(crate) use self::durable::Snapshot;
pub(crate) use self::leaving::{Cut, Leave};
pub(crate) use self::saving::Policy;
pub(crate) use self::standing::{Plans, Poison, PoisonKind};
use self::state::{Denied, Posts, State};
use crate::metrics::Arrival;
use crate::output::{Cursor, Leaves, OutputLog};

/// Messages of spawned work that wait for the session; who posts more waits.
const MAX_POSTS: usize = 256;

/// The connection of an attached channel, as its session sees it.
pub(crate) trait Tab {
    /// The channel is attached; what comes from its client goes to `attachment`.
    fn opened(&self, opened: Opened, attachment: Attachment);
    /// Whether its client is still there: it may have left while the session was loaded.
    fn is_wanted(&self) -> bool;
    /// It is not.
    fn refused(&self, refused: Refused);
    /// Takes an output, or returns `false` and calls [`Attachment::writable`] when it can again.
    fn send(&self, revision: Revision, binary: bool, body: &Bytes) -> bool;
    /// This input was handled, which does not mean that it is committed.
    fn applied(&self, _: InputNumber) {}
    /// Inputs up to this one are applied for good.
    fn acked(&self, number: InputNumber);
    /// An input of so many bytes has left the stream's buffer.
    fn consumed(&self, length: usize);
    /// The session ends the stream.
    fn closed(&self, code: CloseCode);
    /// The session leaves this memory; its client is to come again.
    fn moved(&self);
    /// The session cannot serve the channel from where it is; its client needs a new full picture.
    fn reset(&self, code: ResetCode);
}

/// What a session has to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// A channel was attached: the app's hook runs.
    Attached,
    /// A channel's input.
    Input(Waiting),
    /// A message that spawned work has posted, with its number.
    Post(u64, Bytes),
    /// The session is to be saved.
    Snapshot,
    /// The app's state leaves memory until there is work.
    Sleep,
    /// The session leaves memory.
    Stop,
}

/// An input that waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) channel: ChannelKey,
    pub(crate) arrival: Arrival,
    pub(crate) input: Input,
}

const _: () = assert!(
    size_of::<Waiting>() == size_of::<(ChannelKey, Input)>(),
    "a mailbox is no larger for what its messages know of their arrival"
);

/// Names a channel within its session for as long as the session is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelKey(u32);

/// A session in memory.
pub(crate) struct Resident {
    pub(crate) id: SessionId,
    pub(crate) epoch: Epoch,
    state: RefCell<State>,
}

impl Resident {
    /// A session that begins with nothing. `version`: of its row, if there is one.
    pub(crate) fn new(
        id: SessionId,
        epoch: Epoch,
        policy: Policy,
        version: Option<Version>,
    ) -> Rc<Self> {
        let state = State::new(policy, version.unwrap_or_default(), version.is_some());
        Rc::new(Self { id, epoch, state: RefCell::new(state) })
    }

    // --- channels -------------------------------------------------------------------------------

    /// Attaches a channel by the rules of R1: the newest pair of attach and connection has it.
    pub(crate) fn attach(self: &Rc<Self>, open: &Open, tab: Rc<dyn Tab>) {
        let mut state = self.state.borrow_mut();
        let key = match state.admit(open) {
            Ok(key) => key,
            Err(Denied::Refused(refused)) => return tab.refused(refused),
            Err(Denied::Closed(code)) => return tab.closed(code),
        };
        state.last_serial += 1;
        state.active = Instant::now();
        let serial = state.last_serial;
        let resumed = open.seen.filter(|seen| state.resumes(self.epoch, *seen));
        // What its client has seen of an earlier owner's log need not be told again, even when
        // something else has to.
        let shared = open.seen.and_then(|(epoch, seen)| {
            state.shared_with(self.epoch, epoch).map(|shared| shared.min(seen))
        });
        let durability = state.saving.durability();
        let State { log, channels, .. } = &mut *state;
        let Some(channel) = channels.iter_mut().find(|channel| channel.key == key) else { return };
        if let Some((_, seen)) = resumed {
            channel.cursor = Cursor { sent: seen, events_after: seen };
            channel.taken = seen;
        } else {
            channel.taken = channel.taken.max(shared.unwrap_or_default());
            channel.cursor = Cursor { sent: Revision(0), events_after: channel.taken };
        }
        if let Some((_, older)) = channel.tab.replace((serial, tab.clone())) {
            older.closed(CloseCode::Superseded);
        }
        let opened = Opened {
            epoch: self.epoch,
            applied: channel.durable,
            revision: log.revision(),
            resumed: resumed.is_some(),
            window: WINDOW,
            durability,
        };
        tab.opened(opened, Attachment { resident: self.clone(), channel: key, serial });
        state.attached += 1;
        state.pump(key);
        state.wake();
    }

    /// Number of channels with a connection.
    pub(crate) fn tabs(&self) -> usize {
        self.state.borrow().channels.iter().filter(|channel| channel.tab.is_some()).count()
    }

    // --- the coroutine's side -------------------------------------------------------------------

    /// What to do next; registers the coroutine to be woken when there is nothing.
    pub(crate) fn poll_work(&self, context: &mut Context<'_>) -> Poll<Work> {
        let mut state = self.state.borrow_mut();
        match state.next_work(context) {
            Some(work) => Poll::Ready(work),
            None => {
                state.wait(context);
                Poll::Pending
            }
        }
    }

    /// Whether there is more to do at once.
    pub(crate) fn has_work(&self) -> bool {
        self.state.borrow().has_work()
    }

    /// A handler begins: what it sends belongs together.
    pub(crate) fn begin_call(&self) {
        let mut state = self.state.borrow_mut();
        state.in_call = true;
        state.leaves = Leaves::WithItsCause;
        state.call = state.log.revision();
    }

    /// A hook begins. What it says has no message as its cause: it leaves at once, unless it may be
    /// about changes that are not committed.
    pub(crate) fn begin_hook(&self) {
        let mut state = self.state.borrow_mut();
        state.in_call = true;
        let settled = !state.saving.is_dirty();
        state.leaves = if settled { Leaves::Unconfirmed } else { Leaves::WithItsCause };
    }

    /// When what is said now may leave.
    pub(crate) fn leaves(&self) -> Leaves {
        self.state.borrow().leaves
    }

    /// A handler has returned: channels that cannot keep up with events start over. What nobody
    /// could have been sent yet is not held against them.
    pub(crate) fn end_call(&self) {
        let mut state = self.state.borrow_mut();
        state.in_call = false;
        state.leaves = Leaves::WithItsCause;
        state.trim();
        let call = state.call.min(state.gate());
        if let Some(lost) = state.log.overflow(call) {
            state.reset_laggards(lost);
            state.log.trim(lost);
        }
    }

    /// Drops events that everybody has taken.
    pub(crate) fn trim(&self) {
        self.state.borrow_mut().trim();
    }

    /// An input's number is consumed, whether its handler succeeded or not.
    pub(crate) fn applied(&self, key: ChannelKey, number: InputNumber, bytes: usize) {
        self.state.borrow_mut().applied(key, number, bytes);
    }

    /// Whether the session's own messages may be handled now.
    pub(crate) fn takes_timers(&self) -> bool {
        self.state.borrow().takes_timers()
    }

    /// Sends to all channels what the log has for them.
    pub(crate) fn pump_all(&self) {
        let mut state = self.state.borrow_mut();
        let gate = state.gate();
        let State { log, channels, .. } = &mut *state;
        channels.iter_mut().for_each(|channel| channel.pump(log, gate));
    }

    /// The id that a channel's client chose; `None` when the channel is over.
    pub(crate) fn channel_id(&self, key: ChannelKey) -> Option<ChannelId> {
        self.state.borrow_mut().channel(key).map(|channel| channel.id.clone())
    }

    /// Changes the output log.
    pub(crate) fn with_log<R>(&self, action: impl FnOnce(&mut OutputLog) -> R) -> R {
        action(&mut self.state.borrow_mut().log)
    }

    /// The session has done something that cannot be repeated from nothing.
    pub(crate) fn touch(&self) {
        self.state.borrow_mut().touched = true;
    }

    /// Nobody needs the session: its coroutine ends at its next turn.
    pub(crate) fn stop(&self) {
        let mut state = self.state.borrow_mut();
        state.stopped = true;
        state.wake();
    }

    /// The session ends: all its channels are closed, and none is attached any more.
    pub(crate) fn close_channels(&self, code: CloseCode) {
        let mut state = self.state.borrow_mut();
        // Whoever comes now is asked to come again, and finds a new session.
        state.stopped = true;
        let channels = std::mem::take(&mut state.channels);
        drop(state);
        for (_, tab) in channels.into_iter().filter_map(|channel| channel.tab) {
            tab.closed(code);
        }
    }

    // --- spawned work's side --------------------------------------------------------------------

    /// Where work beside the session posts messages for it.
    pub(crate) fn poster(&self) -> mpsc::Sender<Bytes> {
        let mut state = self.state.borrow_mut();
        if let Some(posts) = &state.posts {
            return posts.sender.clone();
        }
        // Few sessions need it, so it is made when the first one asks.
        let (sender, queue) = mpsc::channel(MAX_POSTS);
        state.posts = Some(Box::new(Posts { sender: sender.clone(), queue, handled: 0 }));
        state.wake();
        sender
    }
}
