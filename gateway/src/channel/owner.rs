//! The worker's side of a channel: what the link of its session's owner does to it.

use std::rc::Rc;

use single_state_faults::{self as faults, Point};
use single_state_node::link::LinkHandle;
use single_state_proto::browser::ResetReason;
use single_state_proto::frame::{CloseCode, Durability, Open, Opened, Refused, ResetCode, Skipped};
use single_state_proto::id::{Attach, Epoch, Generation, InputNumber, Revision, StreamId};
use single_state_proto::limits::WINDOW;
use single_state_proto::link::Message;

use super::Channel;
use super::state::{Parting, State};
use super::stream::Stream;

impl Channel {
    /// Asks for a stream over `link`; `None` if it takes no more streams.
    pub(crate) fn open(
        &self,
        link: &Rc<LinkHandle>,
        generation: Generation,
        skipped: Skipped,
    ) -> Option<StreamId> {
        let mut state = self.state.borrow_mut();
        let open = Open {
            session: self.session.clone(),
            channel: self.channel.clone(),
            attach: state.numbered.as_ref().map_or(Attach(1), |numbered| numbered.attach),
            connection: self.connection,
            generation,
            skipped,
            seen: state.seen,
            min_epoch: state.epoch,
            fresh: state.fresh,
            recovered: state.opened_before,
            window: WINDOW,
            identity: None,
        };
        let id = link.with(|link| link.open(open))?;
        state.fresh = false;
        let taken = state.seen.map_or(Revision(0), |(_, revision)| revision);
        state.stream = Some(Stream::opening(link.clone(), id, taken));
        Some(id)
    }

    /// A worker has attached the channel: what it has not applied goes again.
    pub(crate) fn opened(&self, opened: &Opened) {
        let mut state = self.state.borrow_mut();
        self.tries.set(0);
        if let Some((parting, since)) = state.parted.take() {
            self.metrics.arrived(parting, since.elapsed());
        }
        let Some(mirror) = state.opened(opened) else {
            return self.close_with(
                &mut state,
                4400,
                "the session has applied what was never sent",
            );
        };
        if let State { numbered: Some(numbered), seen: Some(seen), .. } = &mut *state {
            let worker = self.worker().map(|worker| worker.index);
            let reset = numbered.welcome(&self.session, worker, opened, mirror, *seen);
            self.metrics.welcomed(mirror, reset);
            self.deliver(&mut state);
        }
        self.forward(&mut state);
        self.changed.notify_one();
    }

    /// The worker did not attach it. Returns whether to ask again.
    pub(crate) fn refused(&self, refused: &Refused) -> bool {
        let mut state = self.state.borrow_mut();
        state.park();
        let (code, reason) = match refused {
            Refused::Retry { .. } | Refused::Stale(_) | Refused::WrongOwner | Refused::TooNew => {
                return state.closing.is_none();
            }
            Refused::Quarantined => (4503, "this session is quarantined; start a new one"),
            Refused::Forbidden => (4403, "this session belongs to another identity"),
            Refused::Superseded => (4409, "a newer connection holds this channel"),
            Refused::TooManyChannels => (4429, "this session is open in too many places"),
        };
        self.close_with(&mut state, code, reason);
        false
    }

    /// The session says something. Returns whether outputs wait to be acknowledged that did not
    /// before.
    pub(crate) fn output(&self, message: Message) -> bool {
        let mut state = self.state.borrow_mut();
        let before = state.unreported();
        state.outputs.push_back(message);
        self.deliver(&mut state);
        before == 0 && state.unreported() > 0
    }

    /// All inputs up to `number` are taken for good.
    pub(crate) fn acked(&self, number: u64) {
        faults::point(Point::Forwarded);
        let mut state = self.state.borrow_mut();
        let (was_full, number) = (state.inputs.is_full(), InputNumber(number));
        if state.inputs.acked(number).is_err() {
            return self.close_with(
                &mut state,
                4400,
                "the session has applied what was never sent",
            );
        }
        if was_full && !state.inputs.is_full() {
            self.changed.notify_one();
        }
        if let Some(numbered) = &mut state.numbered {
            numbered.say_ack(number);
            self.deliver(&mut state);
        }
    }

    /// The link has room for inputs again.
    pub(crate) fn writable(&self) {
        self.forward(&mut self.state.borrow_mut());
    }

    /// The stream is gone, but the channel is not: another one is to be opened.
    pub(crate) fn lost(&self, parting: Parting) {
        self.state.borrow_mut().part(parting);
    }

    /// The session lost what was not committed, or this channel was too slow for its events.
    /// Returns whether to open another stream.
    pub(crate) fn reset(&self, code: ResetCode) -> bool {
        let mut state = self.state.borrow_mut();
        state.part(Parting::Reset);
        match (&mut state.numbered, code) {
            (Some(numbered), ResetCode::Overflow) => {
                numbered.lost(ResetReason::Overflow);
                state.seen = None;
            }
            // The next owner judges whether what the client has seen was committed (R13).
            (_, ResetCode::Fenced | ResetCode::RolledBack) => {}
            (None, ResetCode::Overflow) => {
                self.close_with(&mut state, 4410, "too slow for this session's events; reload");
            }
        }
        state.closing.is_none()
    }

    /// The worker ended the stream.
    pub(crate) fn closed(&self, code: CloseCode) {
        let (close, reason) = match code {
            CloseCode::Superseded => (4409, "a newer connection holds this channel"),
            CloseCode::SessionEnded => (4410, "the session has ended; reload"),
            CloseCode::TooLong => (1009, "this message is longer than the worker takes"),
            CloseCode::Quarantined => (4503, "this session is quarantined; start a new one"),
            CloseCode::ChannelExpired => (4410, "this channel has expired; reload"),
            CloseCode::Protocol | CloseCode::Detached | CloseCode::Ended => {
                (4400, "the worker does not accept this channel's messages")
            }
        };
        let mut state = self.state.borrow_mut();
        state.park();
        if let (Some(numbered), CloseCode::ChannelExpired) = (&mut state.numbered, code) {
            numbered.expire();
            self.metrics.reset(ResetReason::ChannelExpired);
        }
        self.close_with(&mut state, close, reason);
    }

    /// Another worker has taken the session: its stream is closed, and another one is to be opened.
    pub(crate) fn leave(&self) -> Option<StreamId> {
        let mut state = self.state.borrow_mut();
        let stream = state.stream.take()?;
        stream.link.with(|link| link.close(stream.id, CloseCode::Detached));
        state.part(Parting::Reset);
        Some(stream.id)
    }

    /// Newest epoch of its session that a worker named.
    pub(crate) fn epoch(&self) -> Epoch {
        self.state.borrow().epoch
    }

    /// Its stream, once a worker has attached it.
    pub(crate) fn open_stream(&self) -> Option<StreamId> {
        let state = self.state.borrow();
        state.stream.as_ref().filter(|stream| stream.opened).map(|stream| stream.id)
    }

    /// Bytes of its inputs that no worker has, and of those that no worker has acknowledged.
    pub(crate) fn inputs(&self) -> (usize, usize) {
        let state = self.state.borrow();
        let all = state.inputs.unacked_bytes();
        // What a worker had that does not serve it any more goes to the next one.
        let is_open = state.stream.as_ref().is_some_and(|stream| stream.opened);
        (if is_open { state.inputs.unsent_bytes() } else { all }, all)
    }

    /// Whether its session is kept in its worker's memory only, as far as is known.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.state.borrow().durability == Some(Durability::Memory)
    }

    /// Acknowledges the outputs that were taken since the last time.
    pub(crate) fn report_taken(&self) {
        if let Some(stream) = &mut self.state.borrow_mut().stream {
            stream.report_taken();
        }
    }
}
