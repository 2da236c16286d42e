//! What a resident session keeps beside the app's state, and the rules for it: who may attach, in
//! which order work is done, what each channel is sent and what is kept for it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use single_state_proto::channel::{Input, SessionHalf, Verdict};
use single_state_proto::frame::{CloseCode, Open, Refused, ResetCode};
use single_state_proto::id::{Attach, ChannelId, ConnectionId, InputNumber, Revision};
use single_state_proto::limits::{MAILBOX, MAX_CHANNELS};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{ChannelKey, Tab, Work};
use crate::output::{Cursor, OutputLog};

/// Events are kept so long for a channel that is away (R12).
const EVENTS_FOR_AWAY: Duration = Duration::from_secs(120);

/// Room for so many messages stays with a mailbox that has become empty.
const MAILBOX_KEPT: usize = 8;

/// So long a channel that is away does not make room for another one.
const RETURNING: Duration = Duration::from_secs(10);

/// Everything of a resident session that is not its app's.
pub(super) struct State {
    pub(super) log: OutputLog,
    /// Revision at which the handler that runs now began.
    pub(super) call: Revision,
    pub(super) channels: Vec<Channel>,
    pub(super) last_key: u32,
    pub(super) last_serial: u32,
    pub(super) mailbox: VecDeque<(ChannelKey, Input)>,
    /// Messages of work beside the session.
    pub(super) posts: Option<(mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>)>,
    /// How many of them were handled.
    pub(super) posted: u64,
    /// Attached hooks that have not run.
    pub(super) attached: usize,
    /// Whether the next turn is the mailbox's, so that neither inputs nor posts starve.
    pub(super) mailbox_first: bool,
    pub(super) stopped: bool,
    /// A channel was dropped that may have applied inputs: who is unknown now may be it (R7).
    pub(super) dropped: bool,
    /// Whether the app has handled or planned something: an untouched session is not worth keeping.
    pub(super) touched: bool,
    pub(super) coroutine: Option<Waker>,
}

/// One client's conversation with the session.
pub(super) struct Channel {
    pub(super) key: ChannelKey,
    pub(super) id: ChannelId,
    pub(super) attach: Attach,
    pub(super) connection: ConnectionId,
    pub(super) half: SessionHalf,
    /// Last input applied; the same as the half's last once the mailbox is empty.
    pub(super) applied: Option<InputNumber>,
    pub(super) ack_due: bool,
    /// Inputs that the mailbox had no room for.
    pub(super) waiting: VecDeque<Input>,
    pub(super) cursor: Cursor,
    /// Newest output that its client has taken.
    pub(super) taken: Revision,
    pub(super) tab: Option<(u32, Rc<dyn Tab>)>,
    pub(super) away_since: Instant,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            log: OutputLog::default(),
            call: Revision(0),
            channels: Vec::new(),
            last_key: 0,
            last_serial: 0,
            mailbox: VecDeque::new(),
            posts: None,
            posted: 0,
            dropped: false,
            attached: 0,
            mailbox_first: true,
            stopped: false,
            touched: false,
            coroutine: None,
        }
    }

    pub(super) fn channel(&mut self, key: ChannelKey) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.key == key)
    }

    pub(super) fn wake(&mut self) {
        if let Some(coroutine) = self.coroutine.take() {
            coroutine.wake();
        }
    }

    /// The channel that `open` may attach to, a new one if need be.
    pub(super) fn admit(&mut self, open: &Open) -> Result<ChannelKey, Denied> {
        if self.stopped {
            return Err(Denied::Refused(Refused::Retry { after_ms: 50, owner: None }));
        }
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == open.channel) {
            let same = open.attach == channel.attach && open.connection == channel.connection;
            if open.attach <= channel.attach && !same {
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
        self.channels.push(Channel {
            key,
            id: open.channel.clone(),
            attach: open.attach,
            connection: open.connection,
            half,
            applied: half.last(),
            ack_due: false,
            waiting: VecDeque::new(),
            cursor: Cursor::default(),
            taken: self.log.revision(),
            tab: None,
            away_since: Instant::now(),
        });
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
        if away_since.elapsed() < RETURNING {
            return Err(Denied::Refused(Refused::Retry { after_ms: 1000, owner: None }));
        }
        self.channels.remove(at);
        self.dropped = true;
        Ok(())
    }

    /// The next thing to do. Of posts the context is woken by their queue.
    pub(super) fn next_work(&mut self, context: &mut Context<'_>) -> Option<Work> {
        if self.stopped {
            return Some(Work::Stop);
        }
        if self.attached > 0 {
            self.attached -= 1;
            return Some(Work::Attached);
        }
        self.mailbox_first = !self.mailbox_first;
        if self.mailbox_first {
            self.next_input().or_else(|| self.next_post(context))
        } else {
            self.next_post(context).or_else(|| self.next_input())
        }
    }

    pub(super) fn has_work(&self) -> bool {
        let posted = self.posts.as_ref().is_some_and(|(_, posts)| !posts.is_empty());
        self.stopped || self.attached > 0 || !self.mailbox.is_empty() || posted
    }

    fn next_post(&mut self, context: &mut Context<'_>) -> Option<Work> {
        let (_, posts) = self.posts.as_mut()?;
        // Never closed: a sender is kept beside it.
        let Poll::Ready(Some(post)) = posts.poll_recv(context) else { return None };
        self.posted += 1;
        Some(Work::Post(self.posted, post))
    }

    fn next_input(&mut self) -> Option<Work> {
        let (key, input) = self.mailbox.pop_front()?;
        self.touched = true;
        if self.mailbox.is_empty() && self.mailbox.capacity() > MAILBOX_KEPT {
            self.mailbox = VecDeque::new();
        }
        // One leaves, one comes: from the channel that has waited, each in its turn.
        if let Some(i) = self.channels.iter().position(|channel| !channel.waiting.is_empty()) {
            let channel = &mut self.channels[i];
            if let Some(input) = channel.waiting.pop_front() {
                self.mailbox.push_back((channel.key, input));
            }
            if self.channels.len() > 1 {
                self.channels[i..].rotate_left(1);
            }
        }
        if let Some((_, tab)) = self.channel(key).and_then(|channel| channel.tab.as_ref()) {
            tab.consumed(input.body.len());
        }
        Some(Work::Input(key, input))
    }

    pub(super) fn receive(&mut self, key: ChannelKey, input: Input) {
        let room = self.mailbox.len() < MAILBOX;
        let Some(channel) = self.channel(key) else { return };
        match channel.half.receive(input.number) {
            Verdict::Apply if room && channel.waiting.is_empty() => {
                if self.mailbox.capacity() == 0 {
                    // Most sessions never have two messages that wait.
                    self.mailbox.reserve_exact(1);
                }
                self.mailbox.push_back((key, input));
                self.wake();
            }
            Verdict::Apply => channel.waiting.push_back(input),
            Verdict::Duplicate => {
                channel.ack_due = channel.applied.is_some();
                if let Some((_, tab)) = &channel.tab {
                    tab.consumed(input.body.len());
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
        let Self { log, channels, .. } = self;
        if let Some(channel) = channels.iter_mut().find(|channel| channel.key == key) {
            channel.pump(log);
        }
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

impl Channel {
    /// Sends what the log has for it, as far as its stream takes it.
    pub(super) fn pump(&mut self, log: &OutputLog) {
        let Some((_, tab)) = &self.tab else { return };
        while let Some((revision, entry)) = log.next(self.cursor) {
            if !tab.send(revision, entry.binary, &entry.body) {
                break;
            }
            self.cursor.sent = revision;
        }
        if std::mem::take(&mut self.ack_due)
            && let Some(applied) = self.applied
        {
            tab.acked(applied);
        }
    }
}

/// Why a channel is not attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Refused(Refused),
    Closed(CloseCode),
}
