//! A resident session as its snapshot has it, and what it does when a save of it has ended.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use single_state_proto::channel::SessionHalf;
use single_state_proto::frame::{Durability, ResetCode};
use single_state_proto::id::{
    Attach, ChannelId, ConnectionId, Epoch, InputNumber, Revision, SessionId,
};
use single_state_store::{Row, Save};
use tokio::time::Instant;

use super::saving::{Inputs, Policy};
use super::state::{Channel, State};
use super::{ChannelKey, Resident};
use crate::clock::Clock;
use crate::message;
use crate::output::{Cursor, Entry, Leaves, OutputLog};
use crate::snapshot::{self, Kept, Unsaveable};
use crate::timers::Timers;

/// So many owners before this one are remembered (R13).
const OWNERS: usize = 15;

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

/// A snapshot, ready to be saved.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) save: Save,
    /// How long it took to make.
    pub(crate) took: Duration,
}

impl Resident {
    /// A session as its row has it, and what it had planned.
    pub(crate) fn restore(
        id: SessionId,
        row: &Row,
        kept: &Kept<'_>,
        policy: Policy,
        clock: Clock,
    ) -> (Rc<Self>, Timers) {
        let resident = Self::new(id, row.epoch, policy, Some(row.version));
        let mut state = resident.state.borrow_mut();
        state.restore_log(kept);
        state.base = state.log.revision();
        let owners = kept.epochs.iter().map(|(epoch, base)| (Epoch(*epoch), Revision(*base)));
        state.owners = owners.filter(|(epoch, _)| *epoch < row.epoch).collect();
        let excess = state.owners.len().saturating_sub(OWNERS);
        state.owners.drain(..excess);
        state.dropped = kept.expired;
        state.channels.reserve_exact(kept.channels.len());
        for channel in &kept.channels {
            state.restore_channel(channel);
        }
        // It is worth keeping, whoever looks at it.
        state.touched = true;
        state.inherited = row.unreleased.then(Instant::now);
        state.strike_due = row.unreleased;
        state.strikes = row.strikes + u16::from(row.unreleased);
        state.careful = row.strikes > 0;
        drop(state);
        (resident, Timers::restore(kept, clock))
    }

    /// Fills the log again after a sleep.
    pub(crate) fn refill(&self, kept: &Kept<'_>) {
        let mut state = self.state.borrow_mut();
        state.asleep = false;
        state.restore_log(kept);
    }

    /// The app's state has left memory, and the log goes with it.
    pub(crate) fn fall_asleep(&self) {
        let mut state = self.state.borrow_mut();
        (state.asleep, state.sleep_wanted) = (true, false);
        state.log.clear();
    }

    // --- snapshots ------------------------------------------------------------------------------

    /// Takes a snapshot, which must be saved. To be called between handlers only.
    pub(crate) fn snapshot(
        &self,
        app: &impl Serialize,
        timers: &Timers,
        clock: Clock,
    ) -> Result<Snapshot, Unsaveable> {
        let mut state = self.state.borrow_mut();
        let began = std::time::Instant::now();
        let encoded = snapshot::encode(&state.kept(self.epoch, timers, clock), app);
        let took = began.elapsed();
        state.saving.encoded(Instant::now(), took);
        let bytes = match encoded {
            Ok(bytes) => bytes,
            Err(error) => {
                state.saving.abandon(Instant::now());
                return Err(error);
            }
        };
        if state.saving.is_gated() {
            state.gate = Some(state.log.revision());
            state.log.number_held();
        }
        for channel in &mut state.channels {
            channel.saving = channel.applied;
            channel.unsaved_bytes = 0;
        }
        let first = !state.saving.has_row;
        let (version, kept) = state.saving.begin();
        let wake_at = timers
            .next_due()
            .map(|due| SystemTime::UNIX_EPOCH + Duration::from_millis(clock.unix_millis(due)));
        let save = Save {
            session: self.id.clone(),
            epoch: self.epoch,
            version,
            codec: snapshot::CODEC,
            state: bytes,
            wake_at,
            kept: kept.into_iter().collect(),
            first,
        };
        Ok(Snapshot { save, took })
    }

    /// The snapshot that was taken is committed. Returns when the next one is due, if one is.
    pub(crate) fn saved(&self) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        state.saving.done();
        state.confirmed = Instant::now();
        state.gate = None;
        (state.holding, state.strikes) = (false, 0);
        state.careful = state.careful_until.is_some_and(|until| until > Instant::now());
        if state.saving.durability() != Durability::Memory {
            for channel in &mut state.channels {
                channel.ack_due |= channel.durable != channel.saving;
                channel.durable = channel.saving;
            }
        }
        let gate = state.gate();
        let State { log, channels, .. } = &mut *state;
        channels.iter_mut().for_each(|channel| channel.pump(log, gate));
        state.wake();
        state.saving.due()
    }

    /// A save of it failed, and goes again.
    pub(crate) fn save_failed(&self) {
        self.state.borrow_mut().saving.failed();
    }

    /// The coroutine shall take a snapshot at its next turn.
    pub(crate) fn want_snapshot(&self) {
        let mut state = self.state.borrow_mut();
        state.saving.queued = None;
        if !state.saving.is_in_flight() {
            state.snapshot_wanted = true;
            state.wake();
        }
    }

    /// A message was handled. Returns when its commit is due, if that is news to the committer.
    pub(crate) fn handled(&self) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        state.active = now;
        state.saving.handled(now);
        if state.careful {
            state.holding = true;
            state.saving.hurry();
        }
        state.news()
    }

    /// A hook was called: it may have changed something.
    pub(crate) fn hinted(&self) {
        self.state.borrow_mut().saving.hint();
    }

    /// Where the committer has it in its queue.
    pub(crate) fn queued(&self) -> Option<(Instant, u64)> {
        self.state.borrow().saving.queued
    }

    /// The committer has it there now.
    pub(crate) fn set_queued(&self, place: (Instant, u64)) {
        self.state.borrow_mut().saving.queued = Some(place);
    }

    /// Since when there is something to commit.
    pub(crate) fn changed_since(&self) -> Option<Instant> {
        self.state.borrow().saving.changed_since()
    }

    /// Whether the session is told for the first time that it cannot be saved.
    pub(crate) fn is_first_unsaveable(&self, unsaveable: bool) -> bool {
        let was = std::mem::replace(&mut self.state.borrow_mut().saving.unsaveable, unsaveable);
        unsaveable && !was
    }

    /// Whether its author hears for the first time that it is large.
    pub(crate) fn is_first_large(&self) -> bool {
        !std::mem::replace(&mut self.state.borrow_mut().told_large, true)
    }

    /// The app's code panicked while a snapshot was taken.
    pub(crate) fn snapshot_failed(&self) {
        self.state.borrow_mut().saving.abandon(Instant::now());
    }

    /// Whether there is a row of it.
    pub(crate) fn has_row(&self) -> bool {
        self.state.borrow().saving.has_row
    }

    // --- large inputs ---------------------------------------------------------------------------

    /// Keeps, or forgets, a large input with the next save.
    pub(crate) fn keep(&self, name: &str, bytes: Option<Bytes>) {
        let mut state = self.state.borrow_mut();
        state.saving.inputs.insert(name.to_owned(), bytes);
    }

    /// What is not in the store yet of a large input; `None` when the store knows.
    pub(crate) fn unsaved_input(&self, name: &str) -> Option<Option<Bytes>> {
        let state = self.state.borrow();
        let find = |inputs: &Inputs| inputs.get(name).cloned();
        find(&state.saving.inputs).or_else(|| find(&state.saving.inputs_in_flight))
    }

    // --- ownership ------------------------------------------------------------------------------

    /// When the session was last known to be ours.
    pub(crate) fn confirmed(&self) -> Instant {
        self.state.borrow().confirmed
    }

    /// It is ours now.
    pub(crate) fn confirm(&self) {
        self.state.borrow_mut().confirmed = Instant::now();
    }

    /// A later owner has the session: nothing more is said or saved.
    pub(crate) fn fence(&self) {
        self.reset_channels(ResetCode::Fenced);
        self.fenced.notify_one();
    }

    /// Waits until a later owner has the session.
    pub(crate) async fn fenced(&self) {
        self.fenced.notified().await;
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

    /// The session is to leave memory once everything is committed. Returns when its commit is due,
    /// if that is news to the committer.
    pub(crate) fn retire(&self) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        let unused = !state.touched && state.mailbox.is_empty() && state.posts.is_none();
        state.stopped |= unused;
        state.retiring = true;
        state.saving.settle(Instant::now());
        state.wake();
        state.news()
    }

    /// It stays after all.
    pub(crate) fn stay(&self) {
        let mut state = self.state.borrow_mut();
        state.retiring = false;
        state.wake();
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

    /// Whether it is about to leave memory.
    pub(crate) fn is_retiring(&self) -> bool {
        let state = self.state.borrow();
        state.retiring || state.stopped
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
        state.coroutine = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when there is something to do for which the session must be awake, or it is to leave.
    pub(crate) fn poll_awake(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.has_work() || state.retiring {
            return Poll::Ready(());
        }
        state.coroutine = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether it leaves memory, and the store has everything.
    pub(crate) fn is_leaving(&self) -> bool {
        let state = self.state.borrow();
        state.stopped || (state.retiring && state.saving.is_clean())
    }

    /// Since when the session has had nothing to do; `None` while it has, or will soon.
    pub(crate) fn idle_since(&self, soon: Duration) -> Option<Instant> {
        let state = self.state.borrow();
        let soon = Instant::now().into_std() + soon;
        let planned = state.plans.jobs || state.plans.next_due.is_some_and(|due| due < soon);
        // One sender is the session's own.
        let posters = state.posts.as_ref().is_some_and(|(sender, _)| sender.strong_count() > 1);
        let busy = state.has_work() || state.retiring || state.in_call || planned || posters;
        (!busy).then_some(state.active)
    }

    /// Whether a death of the owner before is still to be counted; asked once.
    pub(crate) fn take_strike(&self) -> bool {
        std::mem::take(&mut self.state.borrow_mut().strike_due)
    }

    /// Deaths of owners on its account, with the one that is counted before its first message.
    pub(crate) fn strikes(&self) -> u16 {
        self.state.borrow().strikes
    }

    /// Messages are committed one at a time until a commit has succeeded.
    pub(crate) fn be_careful(&self) {
        self.state.borrow_mut().careful = true;
    }

    /// Whether they still are.
    pub(crate) fn is_careful(&self) -> bool {
        self.state.borrow().careful
    }

    /// What panicked before the session was loaded again: it will be told, not called.
    pub(crate) fn set_poison(&self, poison: Poison) {
        let mut state = self.state.borrow_mut();
        // No owner has died: there is no strike to count.
        (state.strike_due, state.careful) = (false, false);
        if !matches!(poison.kind, PoisonKind::Input(..)) {
            // What planned it may not have been committed, and would plan it anew: this time it is
            // committed before that can panic again.
            state.careful = true;
            state.careful_until = Some(Instant::now() + SUSPICION);
        }
        state.poison = Some(Box::new(poison));
    }

    /// Whether this message is what panicked before.
    pub(crate) fn take_poison(&self, kind: &PoisonKind) -> Option<Poison> {
        let mut state = self.state.borrow_mut();
        if state.poison.as_ref()?.kind != *kind {
            return None;
        }
        state.poison.take().map(|poison| *poison)
    }

    /// Whether anything that panicked is expected to come again.
    pub(crate) fn has_poison(&self) -> bool {
        self.state.borrow().poison.is_some()
    }

    /// What a channel's input is called across reloads.
    pub(crate) fn poison_of(&self, key: ChannelKey, number: InputNumber) -> PoisonKind {
        self.channel_id(key).map_or(PoisonKind::Post, |id| PoisonKind::Input(id, number))
    }
}

impl State {
    /// When the next commit is due, if the committer does not expect it as early.
    fn news(&self) -> Option<Instant> {
        let due = self.saving.due()?;
        self.saving.queued.is_none_or(|(expected, _)| due < expected).then_some(due)
    }

    /// What a snapshot has of all this.
    fn kept<'a>(&'a self, epoch: Epoch, timers: &'a Timers, clock: Clock) -> Kept<'a> {
        let outputs: Vec<_> =
            self.log.entries().map(|(revision, entry)| output(revision, entry)).collect();
        let this = (epoch.0, self.base.0);
        let earlier = self.owners.iter().map(|(epoch, base)| (epoch.0, base.0));
        Kept {
            revision: outputs.last().map_or(0, |output| output.rev).max(self.log.revision().0),
            dropped: self.log.dropped().0,
            epochs: earlier.chain([this]).collect(),
            outputs,
            channels: self.channels.iter().map(Channel::kept).collect(),
            expired: self.dropped,
            timers: timers.kept(clock),
            scheduled: timers.scheduled(),
        }
    }

    fn restore_log(&mut self, kept: &Kept<'_>) {
        let entries = kept.outputs.iter().map(|output| {
            let key = output.key.as_ref().map(|(key, at)| (key.as_ref().into(), *at as usize));
            let entry = Entry { body: output.body.clone(), binary: output.binary, key };
            (Revision(output.rev), entry)
        });
        let (revision, dropped) = (Revision(kept.revision), Revision(kept.dropped));
        self.log = OutputLog::restore(self.saving.is_gated(), revision, dropped, entries);
    }

    fn restore_channel(&mut self, channel: &snapshot::Channel<'_>) {
        // Ids were checked before they were saved.
        let Ok(id) = channel.id.parse() else { return };
        let applied = channel.applied.map(InputNumber);
        self.last_key += 1;
        self.channels.push(Channel {
            key: ChannelKey(self.last_key),
            id,
            attach: Attach(channel.attach),
            connection: ConnectionId(channel.connection),
            half: SessionHalf::resume(applied),
            applied,
            unsaved_bytes: 0,
            saving: applied,
            durable: applied,
            ack_due: false,
            waiting: Default::default(),
            cursor: Cursor::default(),
            taken: Revision(channel.taken),
            tab: None,
            away_since: Instant::now(),
        });
    }
}

impl Channel {
    fn kept(&self) -> snapshot::Channel<'_> {
        snapshot::Channel {
            id: self.id.as_str().into(),
            attach: self.attach.0,
            connection: self.connection.0,
            applied: self.applied.map(|number| number.0),
            taken: self.taken.0,
        }
    }
}

fn output(revision: Revision, entry: &Entry) -> snapshot::Output<'_> {
    snapshot::Output {
        rev: revision.0,
        // Far below 4 GiB, as the whole message is.
        key: entry.key.as_ref().map(|(key, at)| (key.as_ref().into(), *at as u32)),
        binary: entry.binary,
        body: entry.body.clone(),
    }
}
