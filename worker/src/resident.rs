//! One session in memory: mailbox, output log and channels, shared by its coroutine and by the
//! links of one thread. Knows no app types and no sockets.
//!
//! Inputs go from a channel into the mailbox; what the mailbox cannot take waits at its channel,
//! bounded by the credit of its stream. Outputs go into the log and from there to each channel as
//! far as its stream takes them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use single_state_proto::channel::{Input, SessionHalf, Verdict};
use single_state_proto::frame::{CloseCode, Durability, Open, Opened, Refused, ResetCode};
use single_state_proto::id::{
    Attach, ChannelId, ConnectionId, Epoch, InputNumber, Revision, SessionId,
};
use single_state_proto::limits::{MAILBOX, MAX_CHANNELS, WINDOW};
use tokio::time::Instant;

use crate::output::{Cursor, OutputLog};

/// Messages of spawned work that wait for the session; who posts more waits.
const MAX_POSTS: usize = 256;

/// Events are kept so long for a channel that is away (R12).
const EVENTS_FOR_AWAY: Duration = Duration::from_secs(120);

/// The connection of an attached channel, as its session sees it.
pub(crate) trait Tab {
    /// The channel is attached; what comes from its client goes to `attachment`.
    fn opened(&self, opened: Opened, attachment: Attachment);
    /// It is not.
    fn refused(&self, refused: Refused);
    /// Takes an output, or returns `false` and calls [`Attachment::writable`] when it can again.
    fn send(&self, revision: Revision, binary: bool, body: &Bytes) -> bool;
    /// Inputs up to this one are applied for good.
    fn acked(&self, number: InputNumber);
    /// An input of so many bytes has left the stream's buffer.
    fn consumed(&self, length: usize);
    /// The session ends the stream.
    fn closed(&self, code: CloseCode);
    /// The session cannot serve the channel from where it is; its client needs a new full picture.
    fn reset(&self, code: ResetCode);
}

/// What a session has to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// A channel was attached: the app's hook runs.
    Attached,
    /// A channel's input.
    Input(ChannelKey, Input),
    /// A message that spawned work has posted, with its number.
    Post(u64, Bytes),
    /// The session leaves memory.
    Stop,
}

/// Names a channel within its session for as long as the session is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelKey(u32);

/// A session in memory.
pub(crate) struct Resident {
    pub(crate) id: SessionId,
    pub(crate) epoch: Epoch,
    state: RefCell<State>,
}

struct State {
    log: OutputLog,
    /// Revision at which the handler that runs now began.
    call: Revision,
    channels: Vec<Channel>,
    last_key: u32,
    last_serial: u32,
    mailbox: VecDeque<(ChannelKey, Input)>,
    posts: VecDeque<Bytes>,
    /// How many of them were handled.
    posted: u64,
    posters: Vec<Waker>,
    /// Attached hooks that have not run.
    attached: usize,
    /// Whether the next turn is the mailbox's, so that neither inputs nor posts starve.
    mailbox_first: bool,
    stopped: bool,
    /// Whether the app has handled or planned something: an untouched session is not worth keeping.
    touched: bool,
    coroutine: Option<Waker>,
}

struct Channel {
    key: ChannelKey,
    id: ChannelId,
    attach: Attach,
    connection: ConnectionId,
    half: SessionHalf,
    /// Last input applied; the same as the half's last once the mailbox is empty.
    applied: Option<InputNumber>,
    ack_due: bool,
    /// Inputs that the mailbox had no room for.
    waiting: VecDeque<Input>,
    cursor: Cursor,
    /// Newest output that its client has taken.
    taken: Revision,
    tab: Option<(u32, Rc<dyn Tab>)>,
    away_since: Instant,
}

impl Resident {
    pub(crate) fn new(id: SessionId, epoch: Epoch) -> Rc<Self> {
        let state = State {
            log: OutputLog::default(),
            call: Revision(0),
            channels: Vec::new(),
            last_key: 0,
            last_serial: 0,
            mailbox: VecDeque::new(),
            posts: VecDeque::new(),
            posted: 0,
            posters: Vec::new(),
            attached: 0,
            mailbox_first: true,
            stopped: false,
            touched: false,
            coroutine: None,
        };
        Rc::new(Self { id, epoch, state: RefCell::new(state) })
    }

    // --- channels -------------------------------------------------------------------------------

    /// Attaches a channel by the rules of R1: the newest pair of attach and connection has it.
    pub(crate) fn attach(self: &Rc<Self>, open: &Open, tab: Rc<dyn Tab>) {
        let mut state = self.state.borrow_mut();
        let key = match state.admit(open) {
            Ok(key) => key,
            Err(refused) => return tab.refused(refused),
        };
        state.last_serial += 1;
        let serial = state.last_serial;
        let State { log, channels, .. } = &mut *state;
        let Some(channel) = channels.iter_mut().find(|channel| channel.key == key) else { return };
        let seen = open.seen.filter(|(epoch, seen)| *epoch == self.epoch && log.can_resume(*seen));
        if let Some((_, seen)) = seen {
            channel.cursor = Cursor { sent: seen, events_after: seen };
            channel.taken = seen;
        } else {
            channel.cursor = Cursor { sent: Revision(0), events_after: channel.taken };
        }
        if let Some((_, older)) = channel.tab.replace((serial, tab.clone())) {
            older.closed(CloseCode::Superseded);
        }
        let opened = Opened {
            epoch: self.epoch,
            applied: channel.applied,
            revision: log.revision(),
            resumed: seen.is_some(),
            window: WINDOW,
            durability: Durability::Memory,
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
        match state.next_work() {
            Some(work) => Poll::Ready(work),
            None => {
                state.coroutine = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// A handler begins: what it sends belongs together.
    pub(crate) fn begin_call(&self) {
        let mut state = self.state.borrow_mut();
        state.call = state.log.revision();
    }

    /// A handler has returned: channels that cannot keep up with events start over.
    pub(crate) fn end_call(&self) {
        let mut state = self.state.borrow_mut();
        state.trim();
        if let Some(lost) = state.log.overflow(state.call) {
            state.reset_laggards(lost);
            state.log.trim(lost);
        }
    }

    /// An input's number is consumed, whether its handler succeeded or not.
    pub(crate) fn applied(&self, key: ChannelKey, number: InputNumber) {
        if let Some(channel) = self.state.borrow_mut().channel(key) {
            channel.applied = Some(number);
            channel.ack_due = true;
        }
    }

    /// Sends to all channels what the log has for them.
    pub(crate) fn pump_all(&self) {
        let mut state = self.state.borrow_mut();
        for i in 0..state.channels.len() {
            let key = state.channels[i].key;
            state.pump(key);
        }
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

    /// The app has ended the session: all its channels are closed.
    pub(crate) fn close_channels(&self, code: CloseCode) {
        let channels = std::mem::take(&mut self.state.borrow_mut().channels);
        for (_, tab) in channels.into_iter().filter_map(|channel| channel.tab) {
            tab.closed(code);
        }
    }

    // --- spawned work's side --------------------------------------------------------------------

    /// Takes a message for the session, or registers the poster to be woken when there is room.
    pub(crate) fn poll_post(&self, message: &Bytes, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.posts.len() >= MAX_POSTS {
            state.posters.push(context.waker().clone());
            return Poll::Pending;
        }
        state.posts.push_back(message.clone());
        state.wake();
        Poll::Ready(())
    }
}

impl State {
    fn channel(&mut self, key: ChannelKey) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.key == key)
    }

    fn wake(&mut self) {
        if let Some(coroutine) = self.coroutine.take() {
            coroutine.wake();
        }
    }

    /// The channel that `open` may attach to, a new one if need be.
    fn admit(&mut self, open: &Open) -> Result<ChannelKey, Refused> {
        if self.stopped {
            return Err(Refused::Retry { after_ms: 50, owner: None });
        }
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == open.channel) {
            let same = open.attach == channel.attach && open.connection == channel.connection;
            if open.attach <= channel.attach && !same {
                return Err(Refused::Superseded);
            }
            channel.attach = open.attach;
            channel.connection = open.connection;
            return Ok(channel.key);
        }
        if self.channels.len() >= MAX_CHANNELS {
            let detached = self.channels.iter().enumerate().filter(|(_, c)| c.tab.is_none());
            let longest_away = detached.min_by_key(|(_, c)| c.away_since).map(|(i, _)| i);
            self.channels.remove(longest_away.ok_or(Refused::TooManyChannels)?);
        }
        self.last_key += 1;
        let key = ChannelKey(self.last_key);
        let half = SessionHalf::new(open.attach == Attach(1) && !open.recovered);
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

    fn next_work(&mut self) -> Option<Work> {
        if self.stopped {
            return Some(Work::Stop);
        }
        if self.attached > 0 {
            self.attached -= 1;
            return Some(Work::Attached);
        }
        self.mailbox_first = !self.mailbox_first;
        if self.mailbox_first {
            self.next_input().or_else(|| self.next_post())
        } else {
            self.next_post().or_else(|| self.next_input())
        }
    }

    fn next_post(&mut self) -> Option<Work> {
        let post = self.posts.pop_front()?;
        self.posters.drain(..).for_each(Waker::wake);
        self.posted += 1;
        Some(Work::Post(self.posted, post))
    }

    fn next_input(&mut self) -> Option<Work> {
        let (key, input) = self.mailbox.pop_front()?;
        self.touched = true;
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

    fn receive(&mut self, key: ChannelKey, input: Input) {
        let room = self.mailbox.len() < MAILBOX;
        let Some(channel) = self.channel(key) else { return };
        match channel.half.receive(input.number) {
            Verdict::Apply if room && channel.waiting.is_empty() => {
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

    /// Sends a channel what the log has for it, as far as its stream takes it.
    fn pump(&mut self, key: ChannelKey) {
        let Self { log, channels, .. } = self;
        let Some(channel) = channels.iter_mut().find(|channel| channel.key == key) else { return };
        let Some((_, tab)) = &channel.tab else { return };
        while let Some((revision, entry)) = log.next(channel.cursor) {
            if !tab.send(revision, entry.binary, &entry.body) {
                break;
            }
            channel.cursor.sent = revision;
        }
        if std::mem::take(&mut channel.ack_due)
            && let Some(applied) = channel.applied
        {
            tab.acked(applied);
        }
    }

    /// Drops events that everybody has taken for whom they are kept.
    fn trim(&mut self) {
        let kept_for = |channel: &&Channel| {
            channel.tab.is_some() || channel.away_since.elapsed() < EVENTS_FOR_AWAY
        };
        let taken = self.channels.iter().filter(kept_for).map(|channel| channel.taken).min();
        self.log.trim(taken.unwrap_or(self.log.revision()));
    }

    /// Channels that have not taken the events up to `lost` need a new full picture.
    fn reset_laggards(&mut self, lost: Revision) {
        for channel in self.channels.iter_mut().filter(|channel| channel.taken < lost) {
            channel.taken = self.log.revision();
            channel.away_since = Instant::now();
            if let Some((_, tab)) = channel.tab.take() {
                tab.reset(ResetCode::Overflow);
            }
        }
    }
}

/// A tab's hold on its channel: what its client does goes through here. Of two attachments of one
/// channel only the newer has an effect.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) resident: Rc<Resident>,
    channel: ChannelKey,
    serial: u32,
}

impl Attachment {
    fn with(&self, action: impl FnOnce(&mut State, ChannelKey)) {
        let mut state = self.resident.state.borrow_mut();
        let serial = state.channel(self.channel).and_then(|c| c.tab.as_ref()).map(|(s, _)| *s);
        if serial == Some(self.serial) {
            action(&mut state, self.channel);
        }
    }

    /// An input has arrived.
    pub(crate) fn receive(&self, input: Input) {
        self.with(|state, key| state.receive(key, input));
    }

    /// The client has taken all outputs up to `revision`; one that was never sent is a fault.
    pub(crate) fn taken(&self, revision: Revision) {
        self.with(|state, key| {
            let newest = state.log.revision();
            if let Some(channel) = state.channel(key) {
                channel.taken = channel.taken.max(revision.min(newest));
            }
        });
    }

    /// The tab takes outputs again.
    pub(crate) fn writable(&self) {
        self.with(State::pump);
    }

    /// The connection is gone; its client may come back to the channel.
    pub(crate) fn detach(&self) {
        self.with(|state, key| {
            if let Some(channel) = state.channel(key) {
                channel.tab = None;
                channel.away_since = Instant::now();
            }
        });
    }

    /// The channel is over; what it has sent is still handled.
    pub(crate) fn end(&self) {
        self.with(|state, key| {
            let Some(at) = state.channels.iter().position(|c| c.key == key) else { return };
            let channel = state.channels.remove(at);
            state.mailbox.extend(channel.waiting.into_iter().map(|input| (key, input)));
            state.trim();
            if state.channels.is_empty() && state.mailbox.is_empty() && !state.touched {
                state.stopped = true;
                state.wake();
            }
        });
    }
}

/// Reaches the session from work beside it, for as long as it is in memory.
pub(crate) type WeakResident = Weak<Resident>;
