//! A channel's stream on a worker's link, and what of it is still to be acknowledged there.

use std::rc::Rc;

use single_state_node::link::LinkHandle;
use single_state_proto::id::{Revision, StreamId};

/// Outputs that the socket has taken are acknowledged at once when so many have gathered, …
const ACK_EVERY: u32 = 64;
/// … or so many bytes of them; fewer with the next tick of the link.
const ACK_EVERY_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) link: Rc<LinkHandle>,
    pub(super) id: StreamId,
    pub(super) opened: bool,
    /// Newest output taken, and how many since the last acknowledgement.
    taken: Revision,
    unreported: u32,
    unreported_bytes: usize,
}

impl Stream {
    /// A stream that was asked for, by a client that has everything up to `taken`.
    pub(super) fn opening(link: Rc<LinkHandle>, id: StreamId, taken: Revision) -> Self {
        Self { link, id, opened: false, taken, unreported: 0, unreported_bytes: 0 }
    }

    /// Outputs that were taken and not acknowledged.
    pub(super) fn unreported(&self) -> u32 {
        self.unreported
    }

    /// An output is on its way to the socket.
    pub(super) fn saw(&mut self, revision: Revision) {
        self.taken = revision;
    }

    /// An output of so many bytes has left the gateway: there is room for as much.
    pub(super) fn consumed(&self, length: usize) {
        self.link.with(|link| link.consumed(self.id, length));
    }

    /// It counts as taken by the page, too.
    pub(super) fn count_taken(&mut self, length: usize) {
        self.unreported += 1;
        self.unreported_bytes += length;
        if self.unreported >= ACK_EVERY || self.unreported_bytes >= ACK_EVERY_BYTES {
            self.report_taken();
        }
    }

    /// Acknowledges what was taken since the last time.
    pub(super) fn report_taken(&mut self) {
        if self.unreported > 0 {
            self.unreported = 0;
            self.unreported_bytes = 0;
            self.link.with(|link| link.ack(self.id, self.taken.0));
        }
    }

    /// The client itself says what it has taken.
    pub(super) fn report(&self, taken: Revision) {
        self.link.with(|link| link.ack(self.id, taken.0));
    }
}
