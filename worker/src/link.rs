//! The worker's end of one gateway's link: which attachment each stream belongs to. Decides
//! nothing about sessions.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use single_state_node::link::{LinkEnd, LinkHandle};
use single_state_proto::channel::Input;
use single_state_proto::frame::{CloseCode, Hello, Opened, Refused, ResetCode};
use single_state_proto::id::{InputNumber, Revision, StreamId};
use single_state_proto::key::LinkKeys;
use single_state_proto::link::{Event, Message, Side};
use tokio::net::TcpStream;

use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::resident::{Attachment, Tab};
use crate::watchdog::Links;

/// One gateway.
struct GatewayLink {
    link: Rc<LinkHandle>,
    /// By stream; `None` while its session is loaded.
    attachments: RefCell<FxHashMap<StreamId, Option<Attachment>>>,
    metrics: Rc<Metrics>,
}

/// A channel that reaches this worker over a stream.
struct StreamTab {
    gateway: Rc<GatewayLink>,
    stream: StreamId,
}

/// Serves one gateway until its link ends.
pub(crate) async fn serve(
    stream: TcpStream,
    hello: Hello,
    keys: Option<&LinkKeys>,
    registry: &Rc<Registry>,
    metrics: &Rc<Metrics>,
    links: &Links,
) -> LinkEnd {
    let link = match LinkHandle::new(Side::Worker, hello, keys) {
        Ok(link) => link,
        Err(end) => return end,
    };
    let gateway =
        Rc::new(GatewayLink { link, attachments: RefCell::default(), metrics: metrics.clone() });
    let _kept_alive = match gateway.link.lifeline(&stream) {
        Ok(lifeline) => links.keep(lifeline),
        Err(error) => return error.into(),
    };
    metrics.links.inc();
    let end =
        gateway.link.drive(stream, &metrics.link, |event| gateway.handle(registry, event)).await;
    metrics.links.dec();
    let attachments = std::mem::take(&mut *gateway.attachments.borrow_mut());
    metrics.channels.dec_by(attachments.len() as i64);
    // The browsers are still there: their gateway comes back, or they come through another one.
    attachments.values().flatten().for_each(Attachment::detach);
    end
}

impl GatewayLink {
    fn handle(self: &Rc<Self>, registry: &Rc<Registry>, event: Event) {
        match event {
            Event::Connected(gateway) => {
                let incarnation = gateway.incarnation.0;
                tracing::info!(gateway.incarnation = incarnation, "gateway linked");
            }
            Event::Open(stream, open) => {
                self.metrics.channels.inc();
                self.attachments.borrow_mut().insert(stream, None);
                registry.open(open, Rc::new(StreamTab { gateway: self.clone(), stream }));
            }
            Event::Message(stream, Message { number, binary, body }) => {
                if let Some(attachment) = self.attachment(stream) {
                    let number = InputNumber(number);
                    attachment.receive(Input { number, binary, body });
                }
            }
            Event::Acked(stream, number) => {
                if let Some(attachment) = self.attachment(stream) {
                    attachment.taken(Revision(number));
                }
            }
            Event::Writable(stream) => {
                if let Some(attachment) = self.attachment(stream) {
                    attachment.writable();
                }
            }
            Event::Closed(stream, code) => {
                if let Some(attachment) = self.remove(stream) {
                    match code {
                        CloseCode::Detached => attachment.detach(),
                        _ => attachment.end(),
                    }
                }
            }
            Event::Reset(stream, _) => {
                if let Some(attachment) = self.remove(stream) {
                    attachment.detach();
                }
            }
            Event::Topology(topology) => registry.learn(topology),
            // Gateways ask for sessions back when the number of workers changes, which it cannot yet.
            Event::Recall(_) => {}
            Event::Skipped(_) => {}
            Event::GoAway(code) => tracing::info!(reason = ?code, "gateway goes away"),
            Event::Opened(..) | Event::Refused(..) | Event::Moved(_) => {
                unreachable!("the link refuses what only workers send")
            }
        }
    }

    fn attachment(&self, stream: StreamId) -> Option<Attachment> {
        self.attachments.borrow().get(&stream).cloned().flatten()
    }

    fn remove(&self, stream: StreamId) -> Option<Attachment> {
        let attachment = self.attachments.borrow_mut().remove(&stream);
        if attachment.is_some() {
            self.metrics.channels.dec();
        }
        attachment.flatten()
    }
}

impl Tab for StreamTab {
    fn opened(&self, opened: Opened, attachment: Attachment) {
        self.gateway.attachments.borrow_mut().insert(self.stream, Some(attachment));
        self.gateway.link.with(|link| link.accept(self.stream, opened));
    }

    fn is_wanted(&self) -> bool {
        self.gateway.attachments.borrow().contains_key(&self.stream)
    }

    fn refused(&self, refused: Refused) {
        self.gateway.remove(self.stream);
        self.gateway.link.with(|link| link.refuse(self.stream, refused));
    }

    fn send(&self, revision: Revision, binary: bool, body: &Bytes) -> bool {
        let sent = self.gateway.link.with(|link| {
            let fits = body.len() <= link.max_message() as usize;
            fits.then(|| link.send(self.stream, revision.0, binary, body))
        });
        // A gateway that takes less than we do serves its other browsers on.
        sent.unwrap_or_else(|| {
            self.closed(CloseCode::TooLong);
            false
        })
    }

    fn acked(&self, number: InputNumber) {
        self.gateway.link.with(|link| link.ack(self.stream, number.0));
    }

    fn consumed(&self, length: usize) {
        self.gateway.link.with(|link| link.consumed(self.stream, length));
    }

    fn closed(&self, code: CloseCode) {
        self.gateway.remove(self.stream);
        self.gateway.link.with(|link| link.close(self.stream, code));
    }

    fn moved(&self) {
        self.gateway.remove(self.stream);
        self.gateway.link.with(|link| link.moved(self.stream));
    }

    fn reset(&self, code: ResetCode) {
        self.gateway.remove(self.stream);
        self.gateway.link.with(|link| link.reset(self.stream, code));
    }
}
