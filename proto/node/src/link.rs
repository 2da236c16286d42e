//! The socket under a link: moves bytes between a TCP connection and `proto`'s state machine, and
//! hands its events to the owner. Decides nothing.
//!
//! Everything of one process runs on one thread. Whoever has something to send calls
//! [`LinkHandle::with`] and goes on; the driver is woken once, runs after all tasks that are ready
//! by then, and writes what they have gathered with one call. So batches deepen by themselves under
//! load, and reading never waits for writing.

mod outgoing;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use single_state_faults as faults;
use single_state_proto::decoder::Decoder;
use single_state_proto::error::LinkError;
use single_state_proto::frame::{GoAway, Hello};
use single_state_proto::id::Incarnation;
use single_state_proto::key::{LinkKeys, Nonce};
use single_state_proto::link::{Event, Link, Queued, Side, goaway_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use self::outgoing::Outgoing;
pub use self::outgoing::{Lifeline, TEND};
use crate::metrics::LinkMetrics;
use crate::turn::give_way;

/// Bytes asked of the socket at once.
const READ_CHUNK: usize = 64 * 1024;

/// A link that several tasks of one thread use.
#[derive(Debug)]
pub struct LinkHandle {
    link: RefCell<Link>,
    flush: Notify,
    outgoing: Arc<Outgoing>,
    finishing: Cell<bool>,
}

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The peer did what it must not, or is dead or not who it should be.
    #[error(transparent)]
    Failed(#[from] LinkError),
    /// The peer refused this side, and said why.
    #[error("the peer refused the link: {0}")]
    Refused(GoAway),
    /// This side refused the peer, and told it so.
    #[error("the link was refused: {0}")]
    Rejected(GoAway),
    /// The system gave no random bytes for the link's nonce.
    #[error("no random bytes for a nonce: {0}")]
    NoEntropy(getrandom::Error),
}

impl LinkHandle {
    /// A link over a connection that was just made; with `keys` the peer must prove one of them.
    pub fn new(side: Side, hello: Hello, keys: Option<&LinkKeys>) -> Result<Rc<Self>, LinkEnd> {
        let mut link = Link::new(side, hello, Instant::now());
        if let Some(keys) = keys {
            let mut nonce = [0; Nonce::LEN];
            getrandom::fill(&mut nonce).map_err(LinkEnd::NoEntropy)?;
            link = link.with_keys(keys.clone(), Nonce(nonce));
        }
        Ok(Rc::new(Self {
            link: RefCell::new(link),
            flush: Notify::new(),
            outgoing: Arc::default(),
            finishing: Cell::new(false),
        }))
    }

    /// What keeps the link alive while its driver has no turn; `stream` is the one to be driven.
    pub fn lifeline(&self, stream: &TcpStream) -> std::io::Result<Lifeline> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(Lifeline::new(self.outgoing.clone(), socket.into()))
    }

    /// Uses the link; what is to be sent then is sent soon. Must not be called from within itself.
    pub fn with<R>(&self, action: impl FnOnce(&mut Link) -> R) -> R {
        let mut link = self.link.borrow_mut();
        let result = action(&mut link);
        if link.wants_transmit() {
            self.flush.notify_one();
        }
        result
    }

    /// This side has nothing more to say: once all that was said is on its way the peer finds the
    /// end of the stream, and the link ends when the peer has hung up, too. Closing at once would
    /// take back what the peer has not read yet, where it has sent something that is not read here.
    pub fn finish(&self) {
        self.finishing.set(true);
        self.flush.notify_one();
    }

    /// Whether all that was to be sent is the system's to send.
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() && !self.link.borrow().wants_transmit()
    }

    /// What waits at this end of it; looks at all streams.
    pub fn queued(&self) -> Queued {
        let Queued { unsent, unconsumed } = self.link.borrow().queued();
        Queued { unsent: unsent + self.outgoing.len() as u64, unconsumed }
    }

    /// When the bytes arrived of which the newest event was made.
    pub fn last_arrival(&self) -> Instant {
        self.link.borrow().last_arrival()
    }

    fn next_event(&self) -> Option<Event> {
        self.link.borrow_mut().poll_event()
    }

    fn dispatch(&self, on_event: &mut impl FnMut(Event)) {
        while let Some(event) = self.next_event() {
            on_event(event);
        }
    }

    /// Applies the frames that have arrived. The peer's GOAWAY in place of its HELLO ends the link.
    fn apply(
        &self,
        decoder: &mut Decoder,
        on_event: &mut impl FnMut(Event),
    ) -> Result<(), LinkEnd> {
        let now = Instant::now();
        self.with(|link| link.bytes_arrived(now));
        while let Some(frame) = decoder.decode().map_err(LinkError::from)? {
            self.with(|link| link.handle_frame(now, frame))?;
            while let Some(event) = self.next_event() {
                match event {
                    Event::GoAway(code) if code != GoAway::Draining => {
                        return Err(LinkEnd::Refused(code));
                    }
                    event => on_event(event),
                }
            }
        }
        Ok(())
    }

    /// Drives the link over `stream` until it ends. `on_event` may call [`LinkHandle::with`].
    pub async fn drive(
        &self,
        stream: TcpStream,
        metrics: &LinkMetrics,
        mut on_event: impl FnMut(Event),
    ) -> LinkEnd {
        let (mut reader, mut writer) = stream.into_split();
        let mut decoder = Decoder::new();
        let (mut greeted, mut finished) = (false, false);
        let timer = tokio::time::sleep_until(self.timeout());
        tokio::pin!(timer);
        self.flush.notify_one();
        loop {
            decoder.buffer().reserve(READ_CHUNK);
            let writing = !finished && !self.outgoing.is_empty();
            let step = tokio::select! {
                read = reader.read_buf(decoder.buffer()) => match read {
                    Ok(0) => Err(LinkEnd::Closed),
                    Ok(n) => {
                        metrics.received.inc_by(n as u64);
                        self.apply(&mut decoder, &mut on_event)
                    }
                    Err(error) => Err(error.into()),
                },
                ready = writer.writable(), if writing => match ready {
                    Ok(()) => self.write(&writer, metrics),
                    Err(error) => Err(error.into()),
                },
                () = self.flush.notified(), if !writing && !finished => {
                    // Let all that are ready add theirs before the one write.
                    give_way().await;
                    self.fill(metrics, &mut on_event);
                    Ok(())
                }
                () = &mut timer => {
                    // After a pause of this process bytes may lie in the socket: the peer is alive.
                    let arrived = match reader.try_read_buf(decoder.buffer()) {
                        Ok(1..) => self.apply(&mut decoder, &mut on_event),
                        _ => Ok(()),
                    };
                    arrived.and_then(|()| {
                        Ok(self.with(|link| link.handle_timeout(Instant::now()))?)
                    })
                }
            };
            if let Err(end) = step {
                self.say_why(&end, &writer);
                return end;
            }
            if !greeted && self.link.borrow().is_active() {
                // From here on a lifeline may speak, whatever runs before the next flush.
                greeted = true;
                self.fill(metrics, &mut on_event);
            }
            if self.link.borrow().wants_transmit() && self.outgoing.is_empty() {
                self.flush.notify_one();
            } else if self.finishing.get() && !finished && self.outgoing.is_empty() {
                finished = true;
                if let Err(error) = writer.shutdown().await {
                    return error.into();
                }
            }
            if timer.deadline() != self.timeout() {
                timer.as_mut().reset(self.timeout());
            }
        }
    }

    fn timeout(&self) -> tokio::time::Instant {
        self.link.borrow().poll_timeout().into()
    }

    /// Moves what the link wants to send to where it is written from.
    fn fill(&self, metrics: &LinkMetrics, on_event: &mut impl FnMut(Event)) {
        let mut link = self.link.borrow_mut();
        self.outgoing.fill(&mut link);
        metrics.stalls.inc_by(link.take_stalls());
        drop(link);
        self.dispatch(on_event);
    }

    fn write(&self, writer: &OwnedWriteHalf, metrics: &LinkMetrics) -> Result<(), LinkEnd> {
        let write = |bytes: &[u8]| faults::write(bytes, |bytes| writer.try_write(bytes));
        let written = self.outgoing.write(write)?;
        if written > 0 {
            metrics.sent.inc_by(written as u64);
            metrics.writes.inc();
        }
        Ok(())
    }

    /// Tells the peer what it did wrong, as far as its socket takes it now.
    fn say_why(&self, end: &LinkEnd, writer: &OwnedWriteHalf) {
        let LinkEnd::Failed(error) = end else { return };
        let Some(code) = goaway_for(error) else { return };
        let mut link = self.link.borrow_mut();
        link.go_away(code);
        self.outgoing.fill(&mut link);
        // The link is over; what cannot be told is in this side's log.
        let _ = self.outgoing.write(|bytes| writer.try_write(bytes));
    }
}

/// An incarnation for this start of the process: later starts of any process have higher ones.
pub fn incarnation() -> Incarnation {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since_1970.map_or(0, |d| d.as_millis() as u64);
    let mut random = [0; 2];
    // Without entropy two starts in one millisecond could look alike, which HELLO does not rely on.
    let _ = getrandom::fill(&mut random);
    Incarnation(millis << 10 | u64::from(u16::from_be_bytes(random) & 0x3ff))
}
