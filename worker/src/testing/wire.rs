//! A tab's end of its connection. It outlives workers, as a gateway's end does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::{Map, Value};
use single_state_proto::channel::ClientHalf;
use single_state_proto::frame::{CloseCode, Open, Opened, Refused, ResetCode, Skipped};
use single_state_proto::id::{Attach, ConnectionId, Epoch, Generation, InputNumber, Revision};
use single_state_proto::limits::WINDOW;
use tokio::sync::Notify;

use super::World;
use crate::Bytes;
use crate::metrics::Arrival;
use crate::resident::{Attachment, Tab};

/// A tab's end of its connection, which outlives workers.
pub(super) struct Wire {
    this: Weak<Self>,
    world: Weak<World>,
    number: u64,
    pub(super) state: RefCell<WireState>,
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct WireState {
    pub(super) client: ClientHalf,
    pub(super) attachment: Option<Attachment>,
    /// It was attached before.
    recovered: bool,
    seen: Option<(Epoch, Revision)>,
    pub(super) applied: InputNumber,
    pub(super) outputs: VecDeque<Value>,
    pub(super) mirror: Map<String, Value>,
    pub(super) closed: bool,
}

impl Wire {
    /// Of the tab with this number; not attached yet.
    pub(super) fn new(world: &Rc<World>, number: u64) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            world: Rc::downgrade(world),
            number,
            state: RefCell::default(),
            changed: Notify::new(),
        })
    }

    /// Asks the worker of now for the session.
    pub(super) fn open(self: &Rc<Self>) {
        let Some(world) = self.world.upgrade() else { return };
        let state = self.state.borrow();
        let open = Open {
            session: "test".parse().expect("an id"),
            channel: format!("test-tab-{}", self.number).parse().expect("an id"),
            attach: Attach(1),
            connection: ConnectionId(self.number),
            generation: Generation(1),
            skipped: Skipped::default(),
            seen: state.seen,
            min_epoch: state.seen.map_or(Epoch(0), |(epoch, _)| epoch),
            fresh: self.number == 1 && !state.recovered,
            recovered: state.recovered,
            window: WINDOW,
            identity: None,
        };
        drop(state);
        world.registry().open(Box::new(open), self.clone());
    }

    /// Attaches again, after a while.
    fn open_later(&self, after: Duration) {
        self.change(|state| state.attachment = None);
        let this = self.this.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            if let Some(this) = this.upgrade().filter(|wire| !wire.state.borrow().closed) {
                this.open();
            }
        });
    }

    /// Hands the session what it has not got on this connection.
    pub(super) fn forward(&self) {
        loop {
            let mut state = self.state.borrow_mut();
            let Some(attachment) = state.attachment.clone() else { return };
            let Some(input) = state.client.next_to_send().cloned() else { return };
            state.client.sent();
            drop(state);
            attachment.receive(input, Arrival::default());
        }
    }

    fn change(&self, change: impl FnOnce(&mut WireState)) {
        change(&mut self.state.borrow_mut());
        self.changed.notify_one();
    }
}

impl Tab for Wire {
    fn opened(&self, opened: Opened, attachment: Attachment) {
        self.change(|state| {
            let known = state.client.attached(opened.applied);
            known.expect("the session has applied what was never sent");
            let seen = match state.seen {
                Some((_, revision)) if opened.resumed => revision,
                _ => {
                    state.mirror.clear();
                    Revision(0)
                }
            };
            state.seen = Some((opened.epoch, seen));
            state.attachment = Some(attachment);
            state.recovered = true;
        });
        let this = self.this.clone();
        tokio::task::spawn_local(async move {
            if let Some(this) = this.upgrade() {
                this.forward();
            }
        });
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn refused(&self, refused: Refused) {
        match refused {
            Refused::Retry { after_ms, .. } => {
                self.open_later(Duration::from_millis(after_ms.into()));
            }
            refused => panic!("the session refuses a tab: {refused:?}"),
        }
    }

    fn send(&self, revision: Revision, binary: bool, body: &Bytes) -> bool {
        let output = if binary {
            Value::from(body.to_vec())
        } else {
            serde_json::from_slice(body).expect("outputs are JSON")
        };
        self.change(|state| {
            if output["tag"] == "assign"
                && let Some(key) = output["key"].as_str()
            {
                state.mirror.insert(key.to_owned(), output["value"].clone());
            }
            state.outputs.push_back(output);
            state.seen = state.seen.map(|(epoch, _)| (epoch, revision));
        });
        true
    }

    fn applied(&self, number: InputNumber) {
        self.change(|state| state.applied = state.applied.max(number));
    }

    fn acked(&self, number: InputNumber) {
        self.change(|state| {
            state.client.acked(number).expect("an acknowledgement of what was never sent");
        });
    }

    fn consumed(&self, _: usize) {}

    fn closed(&self, _: CloseCode) {
        self.change(|state| state.closed = true);
    }

    fn moved(&self) {
        self.open_later(Duration::ZERO);
    }

    fn reset(&self, _: ResetCode) {
        self.open_later(Duration::ZERO);
    }
}
