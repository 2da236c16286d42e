//! The worker's end of its gateways' links: which attachment each stream belongs to, and the words
//! with which a worker leaves. Decides nothing about sessions.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use single_state_faults::{self as faults, Mutant, Point};
use single_state_node::link::{LinkEnd, LinkHandle};
use single_state_proto::channel::Input;
use single_state_proto::frame::{CloseCode, GoAway, Hello, Opened, Refused, ResetCode};
use single_state_proto::id::{InputNumber, Revision, StreamId};
use single_state_proto::key::LinkKeys;
use single_state_proto::link::{Event, Message, Queued, Side};
use single_state_proto::topology::Topology;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::map::{GatewayNumber, Learned};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::resident::{Attachment, Tab};
use crate::watchdog::Links;

/// A gateway that is refused may take so long to hang up.
const HANGS_UP_WITHIN: Duration = Duration::from_secs(1);

/// The gateways that are linked, or about to be.
pub(crate) struct Gateways {
    registry: Rc<Registry>,
    metrics: Rc<Metrics>,
    /// Those that the watchdog keeps alive.
    kept_alive: Arc<Links>,
    links: Rc<RefCell<Vec<Rc<LinkHandle>>>>,
    /// The worker goes away, and has said so.
    leaving: Cell<bool>,
    ended: Notify,
}

/// One gateway.
struct GatewayLink {
    link: Rc<LinkHandle>,
    /// What the map calls it; `None` until it is connected.
    number: Cell<Option<GatewayNumber>>,
    /// By stream; `None` while its session is loaded.
    attachments: RefCell<FxHashMap<StreamId, Option<Attachment>>>,
    metrics: Rc<Metrics>,
    /// Why nothing more is heard of it.
    rejected: Cell<Option<GoAway>>,
    rejection: Notify,
}

/// A channel that reaches this worker over a stream.
struct StreamTab {
    gateway: Rc<GatewayLink>,
    stream: StreamId,
}

impl Gateways {
    pub(crate) fn new(
        registry: Rc<Registry>,
        metrics: Rc<Metrics>,
        kept_alive: Arc<Links>,
    ) -> Self {
        let (leaving, ended) = Default::default();
        let links: Rc<RefCell<Vec<Rc<LinkHandle>>>> = Rc::default();
        let told = links.clone();
        registry.on_taken(move |taken| {
            for link in told.borrow().iter() {
                link.with(|link| link.taken(taken.clone()));
            }
        });
        Self { registry, metrics, kept_alive, links, leaving, ended }
    }

    /// Serves one gateway until its link ends.
    pub(crate) async fn serve(
        &self,
        stream: TcpStream,
        hello: Hello,
        keys: Option<&LinkKeys>,
    ) -> LinkEnd {
        let link = match LinkHandle::new(Side::Worker, hello, keys) {
            Ok(link) => link,
            Err(end) => return end,
        };
        let _kept_alive = match link.lifeline(&stream) {
            Ok(lifeline) => self.kept_alive.keep(lifeline),
            Err(error) => return error.into(),
        };
        if self.leaving.get() {
            link.with(|link| link.go_away(GoAway::Draining));
        }
        self.links.borrow_mut().push(link.clone());
        let gateway = Rc::new(GatewayLink::new(link.clone(), self.metrics.clone()));
        self.metrics.links.inc();
        let handle = |event| gateway.handle(&self.registry, event);
        let end = tokio::select! {
            end = link.drive(stream, &self.metrics.link, handle) => match gateway.rejected.get() {
                Some(code) => LinkEnd::Rejected(code),
                None => end,
            },
            code = gateway.was_rejected() => LinkEnd::Rejected(code),
        };
        self.metrics.links.dec();
        self.links.borrow_mut().retain(|other| !Rc::ptr_eq(other, &link));
        gateway.end(&self.registry);
        self.ended.notify_waiters();
        end
    }

    /// What waits here for them, and for sessions they are attached to.
    pub(crate) fn queued(&self) -> Queued {
        self.links.borrow().iter().fold(Queued::default(), |mut queued, link| {
            queued += link.queued();
            queued
        })
    }

    /// Tells all of them to open no more streams here.
    pub(crate) fn go_away(&self) {
        self.leaving.set(true);
        for link in self.links.borrow().iter() {
            link.with(|link| link.go_away(GoAway::Draining));
            faults::half_write(Point::GoingAway);
        }
    }

    /// Lets them take all that was said, and waits until they have hung up.
    pub(crate) async fn finish(&self) {
        self.links.borrow().iter().for_each(|link| link.finish());
        loop {
            // Before the look, so that nothing is missed in between.
            let ended = self.ended.notified();
            if self.links.borrow().is_empty() {
                return;
            }
            ended.await;
        }
    }
}

impl GatewayLink {
    fn new(link: Rc<LinkHandle>, metrics: Rc<Metrics>) -> Self {
        let (number, attachments, rejected, rejection) = Default::default();
        Self { link, number, attachments, metrics, rejected, rejection }
    }

    fn handle(self: &Rc<Self>, registry: &Rc<Registry>, event: Event) {
        if self.rejected.get().is_some() {
            return;
        }
        match event {
            Event::Connected(gateway) => {
                self.number.set(Some(registry.map.linked()));
                let incarnation = gateway.incarnation.0;
                tracing::info!(gateway.incarnation = incarnation, "gateway linked");
            }
            Event::Open(stream, open) => {
                faults::point(Point::OpenReceived);
                self.metrics.channels.inc();
                self.attachments.borrow_mut().insert(stream, None);
                registry.open(open, Rc::new(StreamTab { gateway: self.clone(), stream }));
            }
            Event::Message(stream, Message { number, binary, body }) => {
                if let Some(attachment) = self.attachment(stream) {
                    if faults::mutant(Mutant::CreditOnReceive) {
                        self.link.with(|link| link.consumed(stream, body.len()));
                    }
                    let number = InputNumber(number);
                    let arrival = self.metrics.arrival(self.link.last_arrival());
                    attachment.receive(Input { number, binary, body }, arrival);
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
            Event::Topology(topology) => self.learn(registry, topology),
            Event::Recall(stream) => {
                if let Some(attachment) = self.attachment(stream) {
                    registry.recall(&attachment.resident);
                }
            }
            Event::Skipped(skipped) => {
                if let Some(number) = self.number.get() {
                    registry.map.passes_over(number, skipped);
                }
            }
            Event::GoAway(code) => tracing::info!(reason = ?code, "gateway goes away"),
            Event::Opened(..) | Event::Refused(..) | Event::Moved(_) | Event::Taken(_) => {
                unreachable!("the link refuses what only workers send")
            }
        }
    }

    /// Two lists of one generation cannot both be right, and nobody can say which is (R4).
    fn learn(&self, registry: &Registry, topology: Topology) {
        let generation = topology.generation().0;
        if registry.learn(topology) == Learned::Differs {
            tracing::error!(
                generation,
                "a gateway is refused: it has another list of workers, or another placement, under \
                 the generation that this worker knows; give the right one a higher generation"
            );
            self.rejected.set(Some(GoAway::OtherTopology));
            self.rejection.notify_one();
            self.link.with(|link| link.go_away(GoAway::OtherTopology));
            self.link.finish();
        }
    }

    /// Waits until the gateway was refused, and has had time to read it.
    async fn was_rejected(&self) -> GoAway {
        loop {
            self.rejection.notified().await;
            tokio::time::sleep(HANGS_UP_WITHIN).await;
            if let Some(code) = self.rejected.get() {
                return code;
            }
        }
    }

    /// The browsers are still there: their gateway comes back, or they come through another one.
    fn end(&self, registry: &Registry) {
        if let Some(number) = self.number.get() {
            registry.map.unlinked(number);
        }
        let attachments = std::mem::take(&mut *self.attachments.borrow_mut());
        self.metrics.channels.dec_by(attachments.len() as i64);
        attachments.values().flatten().for_each(Attachment::detach);
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
        self.gateway.metrics.refused(&refused);
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
        faults::half_write(Point::AckHalfWritten);
    }

    fn consumed(&self, length: usize) {
        if !faults::mutant(Mutant::CreditOnReceive) {
            self.gateway.link.with(|link| link.consumed(self.stream, length));
        }
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
