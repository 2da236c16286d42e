//! A resident session as its snapshot has it, and what it does when a save of it has ended.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use single_state_faults::{self as faults, Mutant};
use single_state_proto::channel::SessionHalf;
use single_state_proto::frame::Durability;
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, InputNumber, Revision, SessionId, WorkerIndex,
};
use single_state_store::{Row, Save, Version};
use tokio::time::Instant;

use super::channel::Channel;
use super::saving::Policy;
use super::state::{Past, State};
use super::{ChannelKey, Resident};
use crate::clock::Clock;
use crate::output::{Entry, OutputLog};
use crate::snapshot::{self, Kept, Unsaveable};
use crate::timers::Timers;

/// So many owners before this one are remembered (R13).
const OWNERS: usize = 15;

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
        let mut owners: Vec<_> = owners.filter(|(epoch, _)| *epoch < row.epoch).collect();
        owners.drain(..owners.len().saturating_sub(OWNERS));
        *state.past() = Past {
            owners,
            inherited: row.unreleased.then(Instant::now),
            strike_due: row.unreleased,
            strikes: row.strikes + u16::from(row.unreleased),
            ..Past::default()
        };
        state.dropped = kept.expired;
        state.saving.bytes = row.state.as_ref().map_or(0, Bytes::len);
        state.channels.reserve_exact(kept.channels.len());
        for channel in &kept.channels {
            state.restore_channel(channel);
        }
        // It is worth keeping, whoever looks at it.
        state.touched = true;
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
        by: WorkerIndex,
    ) -> Result<Snapshot, Unsaveable> {
        let mut state = self.state.borrow_mut();
        let began = std::time::Instant::now();
        let encoded = snapshot::encode(
            &Kept { by: Some(by.0), ..state.kept(self.epoch, timers, clock) },
            app,
        );
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
        }
        state.log.begin_snapshot();
        for channel in &mut state.channels {
            channel.saving = channel.applied;
            channel.unsaved_bytes = 0;
        }
        state.saving.bytes = bytes.len();
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
        state.log.committed();
        (state.holding, state.careful) = (false, false);
        if let Some(past) = &mut state.past {
            (past.strikes, past.turn) = (0, None);
            state.careful = past.careful_until.is_some_and(|until| until > Instant::now());
        }
        if state.saving.durability() != Durability::Memory {
            for channel in &mut state.channels {
                let of_memory = faults::mutant(Mutant::AckOfMemory);
                let saved = if of_memory { channel.applied } else { channel.saving };
                channel.ack_due |= channel.durable != saved;
                channel.durable = saved;
            }
        }
        let gate = state.gate();
        let State { log, channels, .. } = &mut *state;
        channels.iter_mut().for_each(|channel| channel.pump(log, gate));
        if state.mailbox.is_empty() {
            // The session may be quiet from now on.
            state.mailbox = VecDeque::new();
        }
        state.wake();
        state.saving.due()
    }

    /// The last input of each channel in the newest snapshot.
    pub(crate) fn saved_inputs(&self) -> BTreeMap<String, u64> {
        let state = self.state.borrow();
        let last = |channel: &Channel| Some((channel.id.to_string(), channel.saving?.0));
        state.channels.iter().filter_map(last).collect()
    }

    /// Of the newest snapshot.
    pub(crate) fn version(&self) -> Version {
        self.state.borrow().saving.version()
    }

    /// How its changes are committed.
    pub(crate) fn durability(&self) -> Durability {
        self.state.borrow().saving.durability()
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

    /// A message was handled, `recently`. Returns when its commit is due, if that is news to the
    /// committer.
    pub(crate) fn handled(&self, recently: Instant) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        state.active = recently;
        state.sleep_wanted = false;
        state.saving.handled(Instant::now);
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

    /// Since when there is something that is not committed.
    pub(crate) fn changed_since(&self) -> Option<Instant> {
        self.state.borrow().saving.changed_since()
    }

    /// Since when what it says waits for the save that is on its way, in the mode durable.
    pub(crate) fn waits_at_gate(&self) -> Option<Instant> {
        let state = self.state.borrow();
        state.saving.changed_since().filter(|_| state.saving.is_gated())
    }

    /// Whether it must not be saved yet, because its last snapshot took long (R21).
    pub(crate) fn rests(&self, now: Instant) -> bool {
        self.state.borrow().saving.rests(now)
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
        state.saving.keep(name, bytes);
    }

    /// What is not in the store yet of a large input; `None` when the store knows.
    pub(crate) fn unsaved_input(&self, name: &str) -> Option<Option<Bytes>> {
        self.state.borrow().saving.unsaved_input(name)
    }
}

impl State {
    /// When the next commit is due, if the committer does not expect it as early.
    pub(super) fn news(&self) -> Option<Instant> {
        let due = self.saving.due()?;
        self.saving.queued.is_none_or(|(expected, _)| due < expected).then_some(due)
    }

    /// What a snapshot has of all this.
    fn kept<'a>(&'a self, epoch: Epoch, timers: &'a Timers, clock: Clock) -> Kept<'a> {
        let outputs: Vec<_> =
            self.log.entries().map(|(revision, entry)| output(revision, entry)).collect();
        let this = (epoch.0, self.base.0);
        let earlier = self.owners().iter().map(|(epoch, base)| (epoch.0, base.0));
        Kept {
            revision: outputs.last().map_or(0, |output| output.rev).max(self.log.revision().0),
            dropped: self.log.dropped().0,
            epochs: earlier.chain([this]).collect(),
            outputs,
            channels: self.channels.iter().map(Channel::kept).collect(),
            expired: self.dropped,
            timers: timers.kept(clock),
            scheduled: timers.scheduled(),
            by: None,
        }
    }

    fn restore_log(&mut self, kept: &Kept<'_>) {
        let entries = kept.outputs.iter().map(|output| {
            let key = output.key.as_ref().map(|(key, at)| (key.as_ref().into(), *at as usize));
            (Revision(output.rev), Entry::new(output.body.clone(), output.binary, key))
        });
        let (revision, dropped) = (Revision(kept.revision), Revision(kept.dropped));
        self.log = OutputLog::restore(self.saving.is_gated(), revision, dropped, entries);
    }

    fn restore_channel(&mut self, channel: &snapshot::Channel<'_>) {
        // Ids were checked before they were saved.
        let Ok(id) = channel.id.parse() else { return };
        let applied = channel.applied.map(InputNumber);
        self.last_key += 1;
        let key = ChannelKey(self.last_key);
        let mut restored = Channel::new(key, id, SessionHalf::resume(applied));
        restored.attach = Attach(channel.attach);
        restored.connection = ConnectionId(channel.connection);
        restored.taken = Revision(channel.taken);
        self.channels.push(restored);
    }
}

impl Channel {
    fn kept(&self) -> snapshot::Channel<'_> {
        snapshot::Channel {
            id: self.id.as_str().into(),
            attach: self.attach.0,
            connection: self.connection.0,
            applied: self
                .applied
                .map(|number| number.0)
                .filter(|_| !faults::mutant(Mutant::DedupNotSaved)),
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
