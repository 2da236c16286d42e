//! Bytes on their way to the peer, and the one place that writes them. Shared by a link's driver and
//! a [`Lifeline`] on another thread, so that frames of the two are never mixed.

use std::io::{ErrorKind, Result, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use single_state_proto::frame::Frame;
use single_state_proto::limits::{DEAD_AFTER, PING_INTERVAL};
use single_state_proto::link::Link;

/// A driver sends a PING each second; one that wrote nothing for this long has had no turn.
const QUIET: Duration = Duration::from_millis(1250);

/// A lifeline must be tended at least this often.
pub const TEND: Duration = Duration::from_millis(100);

const _: () = assert!(PING_INTERVAL.as_millis() < QUIET.as_millis());
const _: () = assert!(
    2 * (QUIET.as_millis() + TEND.as_millis()) < DEAD_AFTER.as_millis(),
    "one sign of life may be late by as much as a whole one"
);

/// What was taken from the link and not yet by the socket.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Begins in the middle of a frame when the socket took a part of it.
    bytes: BytesMut,
    /// All of the handshake is in `bytes` or written: a PONG may follow.
    open: bool,
    /// The driver has written since the lifeline was tended.
    written: bool,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Takes what the link wants to send, unless there is something left from before.
    pub(super) fn fill(&self, link: &mut Link) {
        let mut state = self.lock();
        if state.bytes.is_empty() {
            link.poll_transmit(&mut state.bytes);
            state.open |= link.is_active();
        }
    }

    /// Writes with `write`, which must not wait, as much as the socket takes; how much that was.
    pub(super) fn write(&self, write: impl FnOnce(&[u8]) -> Result<usize>) -> Result<usize> {
        let mut state = self.lock();
        let written = state.write(write)?;
        state.written = true;
        Ok(written)
    }

    /// Whether the driver has written since the last call.
    fn take_written(&self) -> bool {
        std::mem::take(&mut self.lock().written)
    }

    /// Sends what is left of the driver's frames; a PONG that answers nothing when nothing is.
    fn sign_of_life(&self, write: impl FnOnce(&[u8]) -> Result<usize>) -> Result<usize> {
        let mut state = self.lock();
        if state.bytes.is_empty() && state.open {
            // PINGs are numbered from 1.
            Frame::Pong(0).encode(&mut state.bytes);
        }
        state.write(write)
    }

    /// No holder of the lock calls code that could panic halfway through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, write: impl FnOnce(&[u8]) -> Result<usize>) -> Result<usize> {
        if self.bytes.is_empty() {
            return Ok(0);
        }
        match write(&self.bytes) {
            Ok(written) => {
                self.bytes.advance(written);
                Ok(written)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Keeps a link alive from another thread while the thread of its driver is busy with something
/// else (R9). Whoever has one tends it every [`TEND`], and drops it when the link has ended.
#[derive(Debug)]
pub struct Lifeline {
    outgoing: Arc<Outgoing>,
    socket: std::net::TcpStream,
    quiet_since: Instant,
}

impl Lifeline {
    /// `socket` is another handle of the driver's socket, which does not wait.
    pub(super) fn new(outgoing: Arc<Outgoing>, socket: std::net::TcpStream) -> Self {
        Self { outgoing, socket, quiet_since: Instant::now() }
    }

    /// Sends a sign of life when the driver has sent nothing for a while.
    pub fn tend(&mut self, now: Instant) {
        if self.outgoing.take_written() {
            self.quiet_since = now;
        } else if now.saturating_duration_since(self.quiet_since) >= QUIET {
            self.quiet_since = now;
            // A broken connection is the driver's affair.
            let _ = self.outgoing.sign_of_life(|bytes| self.socket.write(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use single_state_proto::decoder::Decoder;
    use single_state_proto::frame::{GoAway, Hello};
    use single_state_proto::id::{Generation, Incarnation, WorkerIndex};
    use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL};
    use single_state_proto::link::Side;

    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            max_message: MAX_MESSAGE,
            generation: Generation(0),
            index: WorkerIndex(0),
            incarnation: Incarnation(1),
            cluster: "test".to_owned(),
            build: "test".to_owned(),
            nonce: None,
        }
    }

    /// A worker's link to which its gateway has said HELLO.
    fn active_link() -> Link {
        let now = Instant::now();
        let mut link = Link::new(Side::Worker, hello(), now);
        link.handle_frame(now, Frame::Hello(hello())).unwrap();
        link
    }

    fn all(taken: &mut Vec<u8>) -> impl FnOnce(&[u8]) -> Result<usize> {
        some(taken, usize::MAX)
    }

    /// A socket that takes so many bytes.
    fn some(taken: &mut Vec<u8>, room: usize) -> impl FnOnce(&[u8]) -> Result<usize> {
        move |bytes| {
            let n = bytes.len().min(room);
            taken.extend_from_slice(&bytes[..n]);
            if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
        }
    }

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(bytes);
        std::iter::from_fn(|| decoder.decode().unwrap()).collect()
    }

    #[test]
    fn nothing_is_sent_before_the_handshake_is_on_its_way() {
        let (outgoing, mut taken) = (Outgoing::default(), Vec::new());
        assert_eq!(outgoing.sign_of_life(all(&mut taken)).unwrap(), 0);
        let mut link = Link::new(Side::Worker, hello(), Instant::now());
        outgoing.fill(&mut link);
        outgoing.sign_of_life(all(&mut taken)).unwrap();
        outgoing.sign_of_life(all(&mut taken)).unwrap();
        assert_eq!(frames(&taken), [Frame::Hello(hello())], "the driver's bytes and nothing else");
    }

    #[test]
    fn a_sign_of_life_is_a_pong_that_answers_nothing() {
        let (outgoing, mut taken) = (Outgoing::default(), Vec::new());
        outgoing.fill(&mut active_link());
        outgoing.write(all(&mut taken)).unwrap();
        taken.clear();
        outgoing.sign_of_life(all(&mut taken)).unwrap();
        assert_eq!(frames(&taken), [Frame::Pong(0)]);
        let mut gateway = Link::new(Side::Gateway, hello(), Instant::now());
        gateway.handle_frame(Instant::now(), Frame::Hello(hello())).unwrap();
        gateway.handle_frame(Instant::now(), Frame::Pong(0)).unwrap();
        assert_eq!(gateway.round_trip(), None);
    }

    #[test]
    fn a_frame_that_the_driver_has_begun_is_finished_and_not_cut_by_a_pong() {
        let (outgoing, mut taken) = (Outgoing::default(), Vec::new());
        outgoing.fill(&mut active_link());
        outgoing.write(some(&mut taken, 5)).unwrap();
        outgoing.sign_of_life(some(&mut taken, 1)).unwrap();
        assert_eq!(taken.len(), 6, "one byte is a sign of life, too");
        outgoing.sign_of_life(all(&mut taken)).unwrap();
        assert_eq!(frames(&taken), [Frame::Hello(hello())]);
    }

    #[test]
    fn the_driver_finishes_a_pong_before_its_own_frames() {
        let (outgoing, mut taken, mut link) = (Outgoing::default(), Vec::new(), active_link());
        outgoing.fill(&mut link);
        outgoing.write(all(&mut taken)).unwrap();
        outgoing.sign_of_life(some(&mut taken, 3)).unwrap();
        link.go_away(GoAway::Draining);
        outgoing.fill(&mut link);
        outgoing.write(all(&mut taken)).unwrap();
        assert!(outgoing.is_empty() && link.wants_transmit(), "the rest of the PONG came first");
        outgoing.fill(&mut link);
        outgoing.write(all(&mut taken)).unwrap();
        let expected = [Frame::Hello(hello()), Frame::Pong(0), Frame::GoAway(GoAway::Draining)];
        assert_eq!(frames(&taken), expected);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_no_error_and_loses_nothing() {
        let (outgoing, mut taken) = (Outgoing::default(), Vec::new());
        outgoing.fill(&mut active_link());
        assert_eq!(outgoing.write(some(&mut taken, 0)).unwrap(), 0);
        assert_eq!(outgoing.sign_of_life(some(&mut taken, 0)).unwrap(), 0);
        outgoing.write(all(&mut taken)).unwrap();
        assert_eq!(frames(&taken), [Frame::Hello(hello())]);
        let broken = |_: &[u8]| Err(ErrorKind::BrokenPipe.into());
        outgoing.sign_of_life(some(&mut taken, 1)).unwrap();
        assert_eq!(outgoing.write(broken).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_lifeline_is_silent_while_the_driver_writes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let outgoing = Arc::new(Outgoing::default());
        let (mut link, mut written) = (active_link(), Vec::new());
        outgoing.fill(&mut link);
        let mut lifeline = Lifeline::new(outgoing.clone(), socket);
        let began = lifeline.quiet_since;
        for second in 1..=5 {
            link.go_away(GoAway::Draining);
            outgoing.write(all(&mut written)).unwrap();
            outgoing.fill(&mut link);
            lifeline.tend(began + Duration::from_secs(second));
        }
        outgoing.write(all(&mut written)).unwrap();
        lifeline.tend(began + Duration::from_secs(6));
        // The driver has no turn any more.
        for tenth in 61..=90 {
            lifeline.tend(began + Duration::from_millis(tenth * 100));
        }
        drop(lifeline);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(frames(&received), [Frame::Pong(0), Frame::Pong(0)]);
    }
}
