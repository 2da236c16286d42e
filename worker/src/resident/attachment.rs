//! What a tab's client does to its channel.

use std::rc::Rc;

use single_state_proto::channel::Input;
use single_state_proto::id::Revision;
use tokio::time::Instant;

use super::state::State;
use super::{ChannelKey, Resident, Waiting};
use crate::metrics::Arrival;

/// A tab's hold on its channel: what its client does goes through here. Of two attachments of one
/// channel only the newer has an effect.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) resident: Rc<Resident>,
    pub(super) channel: ChannelKey,
    pub(super) serial: u32,
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
    pub(crate) fn receive(&self, input: Input, arrival: Arrival) {
        self.with(|state, channel| state.receive(Waiting { channel, arrival, input }));
    }

    /// The client has taken all outputs up to `revision`; one that was never sent is a fault.
    pub(crate) fn taken(&self, revision: Revision) {
        self.with(|state, key| {
            let newest = state.log.revision();
            if let Some(channel) = state.channel(key) {
                channel.taken = channel.taken.max(revision.min(newest));
                state.trim();
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
            state.active = Instant::now();
            state.stop_if_unused();
        });
    }

    /// The channel is over; what it has sent is still handled.
    pub(crate) fn end(&self) {
        self.with(|state, key| {
            let Some(at) = state.channels.iter().position(|c| c.key == key) else { return };
            let channel = state.channels.remove(at);
            state.mailbox.extend(channel.waiting);
            // The snapshot knows the channel, and would keep its place.
            state.saving.hint();
            state.active = Instant::now();
            state.trim();
            state.stop_if_unused();
        });
    }
}
