//! The socket under a link: moves bytes between a TCP connection and `proto`'s state machine, and
//! hands its events to the owner. Decides nothing.
//!
//! Everything of one process runs on one thread. Whoever has something to send calls
//! [`LinkHandle::with`] and goes on; the driver is woken once, runs after all tasks that are ready
//! by then, and writes what they have gathered with one call. So batches deepen by themselves under
//! load, and reading never waits for writing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use single_state_proto::decoder::Decoder;
use single_state_proto::error::LinkError;
use single_state_proto::frame::{GoAway, Hello};
use single_state_proto::id::Incarnation;
use single_state_proto::link::{Event, Link, Side, goaway_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::metrics::LinkMetrics;
use crate::turn::give_way;

/// Bytes asked of the socket at once.
const READ_CHUNK: usize = 64 * 1024;

/// A link that several tasks of one thread use.
#[derive(Debug)]
pub struct LinkHandle {
    link: RefCell<Link>,
    flush: Notify,
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
    #[error("the peer refused the link: {0:?}")]
    Refused(GoAway),
}

impl LinkHandle {
    /// A link over a connection that was just made.
    pub fn new(side: Side, hello: Hello) -> Rc<Self> {
        Rc::new(Self {
            link: RefCell::new(Link::new(side, hello, Instant::now())),
            flush: Notify::new(),
        })
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
        let mut writing = BytesMut::new();
        let timer = tokio::time::sleep_until(self.timeout());
        tokio::pin!(timer);
        self.flush.notify_one();
        loop {
            decoder.buffer().reserve(READ_CHUNK);
            let step = tokio::select! {
                read = reader.read_buf(decoder.buffer()) => match read {
                    Ok(0) => Err(LinkEnd::Closed),
                    Ok(n) => {
                        metrics.received.inc_by(n as u64);
                        self.apply(&mut decoder, &mut on_event)
                    }
                    Err(error) => Err(error.into()),
                },
                written = writer.write(&writing), if !writing.is_empty() => match written {
                    Ok(n) => {
                        writing.advance(n);
                        metrics.sent.inc_by(n as u64);
                        metrics.writes.inc();
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                },
                () = self.flush.notified(), if writing.is_empty() => {
                    // Let all that are ready add theirs before the one write.
                    give_way().await;
                    self.link.borrow_mut().poll_transmit(&mut writing);
                    self.dispatch(&mut on_event);
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
                self.say_why(&end, &mut writing, &mut writer).await;
                return end;
            }
            if writing.is_empty() && self.link.borrow().wants_transmit() {
                self.flush.notify_one();
            }
            if timer.deadline() != self.timeout() {
                timer.as_mut().reset(self.timeout());
            }
        }
    }

    fn timeout(&self) -> tokio::time::Instant {
        self.link.borrow().poll_timeout().into()
    }

    /// Tells the peer what it did wrong, as far as its socket takes it now.
    async fn say_why(
        &self,
        end: &LinkEnd,
        writing: &mut BytesMut,
        writer: &mut tokio::net::tcp::OwnedWriteHalf,
    ) {
        let LinkEnd::Failed(error) = end else { return };
        let Some(code) = goaway_for(error) else { return };
        let mut link = self.link.borrow_mut();
        link.go_away(code);
        if writing.is_empty() {
            link.poll_transmit(writing);
        }
        // The link is over; what cannot be told is in this side's log.
        let _ = writer.try_write(writing);
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
