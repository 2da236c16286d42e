//! What a resident session keeps beside the app's state, and the rules for it: who may attach, in
//! which order work is done, what each channel is sent and what is kept for it.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use single_state_faults::{self as faults, Mutant};
use single_state_proto::channel::{SessionHalf, Verdict};
use single_state_proto::frame::{CloseCode, Durability, Open, Refused, ResetCode};
use single_state_proto::id::{Attach, Epoch, InputNumber, Revision};
use single_state_proto::limits::{MAILBOX, MAX_CHANNELS, UNACKED_BYTES, UNACKED_MESSAGES};
use single_state_store::Version;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::channel::Channel;
use super::saving::{Policy, Saving};
use super::{ChannelKey, Cut, Leave, Plans, Poison, Waiting, Work};
use crate::output::{Leaves, OutputLog};

/// Events are kept so long for a channel that is away (R12).
const EVENTS_FOR_AWAY: Duration = Duration::from_secs(120);

/// Room for so many messages stays with a mailbox that has become empty.
const MAILBOX_KEPT: usize = 8;

/// So long a channel that is away does not make room for another one …
const RETURNING: Duration = Duration::from_secs(10);
/// … and so long none does after a session was loaded whose owner had died: all are away (R7).
const ALL_RETURNING: Duration = Duration::from_secs(60);

/// Everything of a resident session that is not its app's.
pub(super) struct State {
    pub(super) log: OutputLog,
    /// Revision at which the handler that runs now began.
    pub(super) call: Revision,
    pub(super) in_call: bool,
    /// When what is said now may leave.
    pub(super) leaves: Leaves,
    pub(super) plans: Plans,
    pub(super) channels: Vec<Channel>,
    pub(super) last_key: u32,
    pub(super) last_serial: u32,
    pub(super) mailbox: VecDeque<Waiting>,
    pub(super) posts: Option<Box<Posts>>,
    /// Attached hooks that have not run.
    pub(super) attached: usize,
    /// Whether the next turn is the mailbox's, so that neither inputs nor posts starve.
    pub(super) mailbox_first: bool,
    pub(super) stopped: bool,
    /// The session leaves memory as soon as everything is committed, and takes no more work: since
    /// when, and why.
    pub(super) leaving: Option<(Instant, Leave)>,
    /// A snapshot is to be taken when no handler runs.
    pub(super) snapshot_wanted: bool,
    /// The app's state and the log are to leave memory, the channels are to stay.
    pub(super) sleep_wanted: bool,
    pub(super) asleep: bool,
    /// What is handled next may kill the worker: it is committed before anything follows.
    pub(super) careful: bool,
    /// It was handled.
    pub(super) holding: bool,
    pub(super) told_large: bool,
    pub(super) past: Option<Box<Past>>,
    pub(super) saving: Saving,
    /// The revision at which this owner began.
    pub(super) base: Revision,
    /// While a save is in flight and outputs wait for it: those up to here do not.
    pub(super) gate: Option<Revision>,
    /// When the session was last known to be ours (R5).
    pub(super) confirmed: Instant,
    /// When something last happened.
    pub(super) active: Instant,
    /// A channel was dropped that may have applied inputs: who is unknown now may be it (R7).
    pub(super) dropped: bool,
    /// Whether the app has handled or planned something: an untouched session is not worth keeping.
    pub(super) touched: bool,
    /// The task of the session's life.
    pub(super) task: Option<Waker>,
    /// The coroutine waits for work.
    waits: bool,
    /// The coroutine is to be dropped.
    pub(super) cut: Option<Cut>,
}

/// What owners before have left, in this memory or another; a session that began here has none.
#[derive(Default)]
pub(super) struct Past {
    /// Those that made snapshots: epoch, and the revision at which each began (R13).
    pub(super) owners: Vec<(Epoch, Revision)>,
    /// When the session was loaded, if its owner before had died.
    pub(super) inherited: Option<Instant>,
    /// That death is to be counted before anything is handled (R10).
    pub(super) strike_due: bool,
    pub(super) strikes: u16,
    /// The session has killed owners: while it has this, no other such session is fed (R10).
    pub(super) turn: Option<OwnedSemaphorePermit>,
    /// What panicked before the session was loaded again.
    pub(super) poison: Option<Poison>,
    /// So long every message is committed before another follows.
    pub(super) careful_until: Option<Instant>,
}

/// Messages of work beside the session.
pub(super) struct Posts {
    pub(super) sender: mpsc::Sender<Bytes>,
    pub(super) queue: mpsc::Receiver<Bytes>,
    /// How many were handled.
    pub(super) handled: u64,
}

impl State {
    pub(super) fn new(policy: Policy, version: Version, has_row: bool) -> Self {
        let saving = Saving::new(policy, version, has_row);
        let now = Instant::now();
        Self {
            log: OutputLog::new(saving.is_gated()),
            call: Revision(0),
            in_call: false,
            leaves: Leaves::WithItsCause,
            plans: Plans::default(),
            channels: Vec::new(),
            last_key: 0,
            last_serial: 0,
            mailbox: VecDeque::new(),
            posts: None,
            dropped: false,
            attached: 0,
            mailbox_first: true,
            stopped: false,
            leaving: None,
            snapshot_wanted: false,
            sleep_wanted: false,
            asleep: false,
            careful: false,
            holding: false,
            told_large: false,
            past: None,
            saving,
            base: Revision(0),
            gate: None,
            confirmed: now,
            active: now,
            touched: false,
            task: None,
            waits: false,
            cut: None,
        }
    }

    pub(super) fn channel(&mut self, key: ChannelKey) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.key == key)
    }

    /// The coroutine waits until it is woken.
    pub(super) fn wait(&mut self, context: &Context<'_>) {
        self.register(context);
        self.waits = true;
    }

    /// Whoever polls is the task that is to be woken.
    pub(super) fn register(&mut self, context: &Context<'_>) {
        // Most often it is the same task as before.
        if !self.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            self.task = Some(context.waker().clone());
        }
    }

    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    /// What owners before have left, to be changed.
    pub(super) fn past(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    /// The channel that `open` may attach to, a new one if need be.
    pub(super) fn admit(&mut self, open: &Open) -> Result<ChannelKey, Denied> {
        if self.stopped || self.leaving.is_some() {
            return Err(Denied::Refused(Refused::Retry { after_ms: 50, owner: None }));
        }
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == open.channel) {
            let same = open.attach == channel.attach && open.connection == channel.connection;
            if open.attach <= channel.attach && !same && !faults::mutant(Mutant::OlderAttachWins) {
                return Err(Denied::Refused(Refused::Superseded));
            }
            channel.attach = open.attach;
            channel.connection = open.connection;
            return Ok(channel.key);
        }
        let begins = open.attach == Attach(1) && !open.recovered;
        if self.dropped && !begins {
            return Err(Denied::Closed(CloseCode::ChannelExpired));
        }
        if self.channels.len() >= MAX_CHANNELS {
            self.make_room()?;
        }
        self.last_key += 1;
        let key = ChannelKey(self.last_key);
        let half = SessionHalf::new(begins);
        // Most sessions have one tab; a vector would begin with room for four.
        self.channels.reserve_exact(1);
        let mut channel = Channel::new(key, open.channel.clone(), half);
        (channel.attach, channel.connection) = (open.attach, open.connection);
        channel.taken = self.log.revision();
        self.channels.push(channel);
        Ok(key)
    }

    /// Drops the channel that has been away for longest. One that has only just lost its link is
    /// about to return.
    fn make_room(&mut self) -> Result<(), Denied> {
        let detached = self.channels.iter().enumerate().filter(|(_, c)| c.tab.is_none());
        let longest_away = detached.min_by_key(|(_, c)| c.away_since);
        let (at, away_since) = match longest_away {
            Some((at, channel)) => (at, channel.away_since),
            None => return Err(Denied::Refused(Refused::TooManyChannels)),
        };
        let inherited = self.past.as_ref().and_then(|past| past.inherited);
        let returning = inherited.is_some_and(|loaded| loaded.elapsed() < ALL_RETURNING);
        if returning || away_since.elapsed() < RETURNING {
            return Err(Denied::Refused(Refused::Retry { after_ms: 1000, owner: None }));
        }
        self.channels.remove(at);
        self.dropped = true;
        Ok(())
    }

    /// The next thing to do. Of posts the context is woken by their queue.
    pub(super) fn next_work(&mut self, context: &mut Context<'_>) -> Option<Work> {
        if self.stopped || (self.leaving.is_some() && self.may_leave()) {
            // Whoever attaches from now on comes too late.
            self.stopped = true;
            return Some(Work::Stop);
        }
        if std::mem::take(&mut self.snapshot_wanted) {
            return Some(Work::Snapshot);
        }
        if self.leaving.is_some() {
            return None;
        }
        if self.attached > 0 {
            self.attached -= 1;
            return Some(Work::Attached);
        }
        if self.must_wait() {
            return None;
        }
        self.mailbox_first = !self.mailbox_first;
        let work = if self.mailbox_first {
            self.next_input().or_else(|| self.next_post(context))
        } else {
            self.next_post(context).or_else(|| self.next_input())
        };
        let sleeps = work.is_none() && self.sleep_wanted && self.saving.is_clean();
        work.or_else(|| sleeps.then_some(Work::Sleep))
    }

    /// Whether a commit must come before the next message.
    pub(super) fn must_wait(&self) -> bool {
        self.holding || self.saving.is_too_far_ahead()
    }

    /// Whether the session's own messages may be handled now.
    pub(super) fn takes_timers(&self) -> bool {
        let ahead = self.saving.is_gated() && self.saving.is_too_far_ahead();
        !(self.stopped || self.leaving.is_some() || self.snapshot_wanted || self.holding || ahead)
    }

    pub(super) fn has_work(&self) -> bool {
        let posted = self.posts.as_ref().is_some_and(|posts| !posts.queue.is_empty());
        let waiting = !self.must_wait() && (posted || !self.mailbox.is_empty());
        self.stopped || self.snapshot_wanted || self.attached > 0 || waiting
    }

    /// Whether the store has all that another owner must find.
    fn may_leave(&self) -> bool {
        self.saving.is_clean() || faults::mutant(Mutant::MovedBeforeCommit)
    }

    fn next_post(&mut self, context: &mut Context<'_>) -> Option<Work> {
        let posts = self.posts.as_mut()?;
        // Never closed: a sender is kept beside it.
        let Poll::Ready(Some(post)) = posts.queue.poll_recv(context) else { return None };
        posts.handled += 1;
        Some(Work::Post(posts.handled, post))
    }

    fn next_input(&mut self) -> Option<Work> {
        let next = self.mailbox.pop_front()?;
        self.touched = true;
        if self.mailbox.is_empty() && self.mailbox.capacity() > MAILBOX_KEPT {
            self.mailbox = VecDeque::new();
        }
        // One leaves, one comes: from the channel that has waited, each in its turn.
        if let Some(i) = self.channels.iter().position(|channel| !channel.waiting.is_empty()) {
            let channel = &mut self.channels[i];
            self.mailbox.extend(channel.waiting.pop_front());
            if self.channels.len() > 1 {
                self.channels[i..].rotate_left(1);
            }
        }
        let channel = self.channel(next.channel);
        if let Some((_, tab)) = channel.and_then(|channel| channel.tab.as_ref()) {
            tab.consumed(next.input.body.len());
        }
        Some(Work::Input(next))
    }

    pub(super) fn receive(&mut self, came: Waiting) {
        let room = self.mailbox.len() < MAILBOX;
        let key = came.channel;
        let Some(channel) = self.channel(key) else { return };
        let number = came.input.number;
        match channel.half.receive(number) {
            Verdict::Apply if room && channel.waiting.is_empty() => {
                if self.mailbox.capacity() == 0 {
                    // Most sessions never have two messages that wait.
                    self.mailbox.reserve_exact(1);
                }
                self.mailbox.push_back(came);
                self.wake();
            }
            Verdict::Apply => channel.waiting.push_back(came),
            Verdict::Duplicate if faults::mutant(Mutant::NoDedup) => {
                self.mailbox.push_back(came);
                self.wake();
            }
            Verdict::Duplicate => {
                // Applied is not enough: its commit may be on its way.
                channel.ack_due |= channel.durable.is_some_and(|durable| number <= durable);
                if let Some((_, tab)) = &channel.tab {
                    tab.consumed(came.input.body.len());
                }
                self.pump(key);
            }
            Verdict::Gap => {
                channel.away_since = Instant::now();
                if let Some((_, tab)) = channel.tab.take() {
                    tab.closed(CloseCode::Protocol);
                }
            }
        }
    }

    /// Sends a channel what the log has for it.
    pub(super) fn pump(&mut self, key: ChannelKey) {
        let gate = self.gate();
        let Self { log, channels, .. } = self;
        if let Some(channel) = channels.iter_mut().find(|channel| channel.key == key) {
            channel.pump(log, gate);
        }
    }

    /// Outputs up to here may leave.
    pub(super) fn gate(&self) -> Revision {
        self.gate.unwrap_or(self.log.revision())
    }

    /// An input's number is consumed. Half of what its client keeps unacknowledged is a reason to
    /// commit at once: it must not have to stop.
    pub(super) fn applied(&mut self, key: ChannelKey, number: InputNumber, bytes: usize) {
        let at_once = self.saving.durability() == Durability::Memory
            || faults::mutant(Mutant::AckBeforeCommit);
        let Some(channel) = self.channel(key) else { return };
        channel.applied = Some(number);
        channel.unsaved_bytes += bytes;
        let before = channel.saving.map_or(0, |number| number.0);
        let unsaved = number.0.saturating_sub(before) as usize;
        let half = unsaved >= UNACKED_MESSAGES / 2 || channel.unsaved_bytes >= UNACKED_BYTES / 2;
        if at_once {
            (channel.durable, channel.saving) = (channel.applied, channel.applied);
            channel.ack_due = true;
        }
        if let Some((_, tab)) = &channel.tab {
            tab.applied(number);
        }
        if half {
            self.saving.hurry();
        }
    }

    /// Whether a tab that saw everything up to `seen` can go on from there (R13).
    pub(super) fn resumes(&self, epoch: Epoch, (seen_epoch, seen): (Epoch, Revision)) -> bool {
        self.log.can_resume(seen)
            && (seen_epoch == epoch
                || self.shared_with(epoch, seen_epoch).is_some_and(|shared| seen <= shared))
    }

    /// Up to which revision the log of an earlier owner is also this one's; `None` when that owner
    /// is not known any more.
    pub(super) fn shared_with(&self, epoch: Epoch, earlier: Epoch) -> Option<Revision> {
        let owners = self.owners();
        owners.first().filter(|(first, _)| *first <= earlier)?;
        let this = (epoch, self.base);
        let next = owners.iter().chain([&this]).find(|(next, _)| *next > earlier);
        next.map(|(_, base)| *base)
    }

    /// The owners before that made snapshots: epoch, and the revision at which each began.
    pub(super) fn owners(&self) -> &[(Epoch, Revision)] {
        self.past.as_ref().map_or(&[], |past| &past.owners)
    }

    /// A session in which nothing has happened is not worth keeping when nobody is there.
    pub(super) fn stop_if_unused(&mut self) {
        let nobody = self.channels.iter().all(|channel| channel.tab.is_none());
        if nobody && self.mailbox.is_empty() && !self.touched {
            self.stopped = true;
            self.wake();
        }
    }

    /// Drops events that everybody has taken for whom they are kept.
    pub(super) fn trim(&mut self) {
        let kept_for = |channel: &&Channel| {
            channel.tab.is_some() || channel.away_since.elapsed() < EVENTS_FOR_AWAY
        };
        let taken = self.channels.iter().filter(kept_for).map(|channel| channel.taken).min();
        self.log.trim(taken.unwrap_or(self.log.revision()));
    }

    /// Channels that have not taken the events up to `lost` need a new full picture.
    pub(super) fn reset_laggards(&mut self, lost: Revision) {
        for channel in self.channels.iter_mut().filter(|channel| channel.taken < lost) {
            channel.taken = self.log.revision();
            channel.away_since = Instant::now();
            if let Some((_, tab)) = channel.tab.take() {
                tab.reset(ResetCode::Overflow);
            }
        }
        self.trim();
    }
}

/// Why a channel is not attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Refused(Refused),
    Closed(CloseCode),
}
