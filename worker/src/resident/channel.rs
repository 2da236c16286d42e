//! One client's conversation with a session: how far its inputs are applied, and how far it has been
//! sent the outputs. Knows nothing of other channels.

use std::collections::VecDeque;
use std::rc::Rc;

use single_state_proto::channel::SessionHalf;
use single_state_proto::id::{Attach, ChannelId, ConnectionId, InputNumber, Revision};
use tokio::time::Instant;

use super::{ChannelKey, Tab, Waiting};
use crate::output::{Cursor, OutputLog};

/// One client's conversation with the session.
pub(super) struct Channel {
    pub(super) key: ChannelKey,
    pub(super) id: ChannelId,
    pub(super) attach: Attach,
    pub(super) connection: ConnectionId,
    pub(super) half: SessionHalf,
    /// Last input applied; the same as the half's last once the mailbox is empty.
    pub(super) applied: Option<InputNumber>,
    /// Bytes of the inputs that were applied since the newest snapshot.
    pub(super) unsaved_bytes: usize,
    /// Last input in the snapshot that is on its way.
    pub(super) saving: Option<InputNumber>,
    /// Last input that is applied for good: it may be acknowledged.
    pub(super) durable: Option<InputNumber>,
    pub(super) ack_due: bool,
    /// Inputs that the mailbox had no room for.
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) cursor: Cursor,
    /// Newest output that its client has taken.
    pub(super) taken: Revision,
    pub(super) tab: Option<(u32, Rc<dyn Tab>)>,
    pub(super) away_since: Instant,
}

impl Channel {
    /// One that has no connection yet, and has applied for good what its half knows.
    pub(super) fn new(key: ChannelKey, id: ChannelId, half: SessionHalf) -> Self {
        Self {
            key,
            id,
            attach: Attach(0),
            connection: ConnectionId(0),
            half,
            applied: half.last(),
            unsaved_bytes: 0,
            saving: half.last(),
            durable: half.last(),
            ack_due: false,
            waiting: VecDeque::new(),
            cursor: Cursor::default(),
            taken: Revision(0),
            tab: None,
            away_since: Instant::now(),
        }
    }

    /// Sends what the log has for it, as far as its stream takes it.
    pub(super) fn pump(&mut self, log: &OutputLog, gate: Revision) {
        let Some((_, tab)) = &self.tab else { return };
        while let Some((revision, entry)) = log.next(self.cursor, gate) {
            if !tab.send(revision, entry.binary, &entry.body) {
                break;
            }
            self.cursor.sent = revision;
        }
        if std::mem::take(&mut self.ack_due)
            && let Some(durable) = self.durable
        {
            tab.acked(durable);
        }
    }
}
