//! What a link makes of the frames that arrive.

use std::time::Instant;

use super::{Event, Link, Side, State};
use crate::error::LinkError;
use crate::frame::{Data, Frame};
use crate::id::StreamId;
use crate::limits::LINK_BACKLOG;
use crate::stream::{PartError, Phase, Stream};

impl Link {
    /// Applies one frame of the peer. After an error the link must be dropped, [`goaway_for`](super::goaway_for) says
    /// what to tell the peer.
    pub fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), LinkError> {
        if matches!(self.state, State::Connecting | State::Proving) {
            return self.handle_greeting(now, frame);
        }
        if self.out.len() > LINK_BACKLOG {
            return Err(LinkError::NotReading);
        }
        match frame {
            Frame::Hello(_) => Err(unexpected("HELLO", StreamId(0), "a second time")),
            Frame::Proof(_) => Err(unexpected("PROOF", StreamId(0), "which was not asked for")),
            Frame::Ping(number) => {
                self.pong = Some(number);
                Ok(())
            }
            Frame::Pong(number) => {
                self.pulse.pong(number, now);
                Ok(())
            }
            Frame::GoAway(code) => {
                self.state = State::Draining;
                self.events.push_back(Event::GoAway(code));
                Ok(())
            }
            Frame::Data(stream, data) => self.handle_data(stream, data),
            Frame::Ack(stream, number) => {
                if self.find(stream, "ACK", &[Phase::Open, Phase::Recalled])?.is_some() {
                    self.events.push_back(Event::Acked(stream, number));
                }
                Ok(())
            }
            Frame::Credit(stream, bytes) => self.handle_credit(stream, bytes),
            Frame::Reset(stream, code) => {
                let any = [Phase::Opening, Phase::Open, Phase::Recalled];
                self.handle_end(stream, "RESET", &any, Event::Reset(stream, code))
            }
            Frame::Close(stream, code) => {
                let any = [Phase::Opening, Phase::Open, Phase::Recalled];
                self.handle_end(stream, "CLOSE", &any, Event::Closed(stream, code))
            }
            frame => match self.side {
                Side::Gateway => self.handle_at_gateway(frame),
                Side::Worker => self.handle_at_worker(frame),
            },
        }
    }

    fn handle_at_gateway(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Opened(id, opened) => {
                if let Some(stream) = self.find(id, "OPENED", &[Phase::Opening])? {
                    stream.sends(opened.window);
                    stream.phase = Phase::Open;
                    self.events.push_back(Event::Opened(id, opened));
                    self.tell_writable(id);
                }
                Ok(())
            }
            Frame::Refused(id, refused) => {
                self.handle_end(id, "REFUSED", &[Phase::Opening], Event::Refused(id, refused))
            }
            Frame::Moved(id) => {
                let attached = [Phase::Open, Phase::Recalled];
                self.handle_end(id, "MOVED", &attached, Event::Moved(id))
            }
            Frame::Taken(taken) => {
                self.events.push_back(Event::Taken(taken));
                Ok(())
            }
            Frame::Open(id, _) => Err(unexpected("OPEN", id, "which only gateways send")),
            Frame::Recall(id) => Err(unexpected("RECALL", id, "which only gateways send")),
            Frame::Skipped(_) => {
                Err(unexpected("SKIPPED", StreamId(0), "which only gateways send"))
            }
            _ => Err(unexpected("TOPOLOGY", StreamId(0), "which only gateways send")),
        }
    }

    fn handle_at_worker(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Open(id, open) => {
                if id <= self.last_stream {
                    return Err(unexpected("OPEN", id, "which was opened before"));
                }
                self.last_stream = id;
                // What the gateway may send is in our OPENED.
                self.streams.insert(id, Stream::new(open.window, 0));
                self.events.push_back(Event::Open(id, open));
                Ok(())
            }
            Frame::Recall(id) => {
                let attached = [Phase::Open, Phase::Recalled];
                if let Some(stream) = self.find(id, "RECALL", &attached)? {
                    stream.phase = Phase::Recalled;
                    self.events.push_back(Event::Recall(id));
                }
                Ok(())
            }
            Frame::Topology(topology) => {
                self.events.push_back(Event::Topology(topology));
                Ok(())
            }
            Frame::Skipped(skipped) => {
                self.events.push_back(Event::Skipped(skipped));
                Ok(())
            }
            Frame::Opened(id, _) => Err(unexpected("OPENED", id, "which only workers send")),
            Frame::Refused(id, _) => Err(unexpected("REFUSED", id, "which only workers send")),
            Frame::Moved(id) => Err(unexpected("MOVED", id, "which only workers send")),
            _ => Err(unexpected("a frame", StreamId(0), "which only workers send")),
        }
    }

    fn handle_data(&mut self, id: StreamId, data: Data) -> Result<(), LinkError> {
        let begins = data.start.is_some() && !data.fin;
        let max_message = self.ours.max_message;
        // Also at a worker: RECALL overtakes messages that are on their way in parts.
        let attached = [Phase::Open, Phase::Recalled];
        let Some(stream) = self.find(id, "DATA", &attached)? else { return Ok(()) };
        let message = stream.receive_part(data, max_message).map_err(|error| match error {
            PartError::NotGranted => LinkError::CreditExceeded(id),
            PartError::TooLong(length) => {
                LinkError::TooLong { length: u64::from(length), limit: max_message }
            }
            PartError::OutOfPlace(why) => unexpected("DATA", id, why),
        })?;
        if let Some(message) = message {
            let reserved = std::mem::take(&mut stream.reserved);
            self.events.push_back(Event::Message(id, message));
            self.release(reserved);
        } else if begins {
            self.starved.push_back(id);
            self.feed_starved();
        }
        Ok(())
    }

    fn handle_credit(&mut self, id: StreamId, bytes: u32) -> Result<(), LinkError> {
        let attached = [Phase::Open, Phase::Recalled];
        let Some(stream) = self.find(id, "CREDIT", &attached)? else { return Ok(()) };
        if !stream.grant(bytes) {
            return Err(LinkError::CreditOverflow(id));
        }
        if stream.has_part() {
            self.enqueue(id);
        } else {
            self.tell_writable(id);
        }
        Ok(())
    }

    fn handle_end(
        &mut self,
        id: StreamId,
        kind: &'static str,
        phases: &[Phase],
        event: Event,
    ) -> Result<(), LinkError> {
        if self.find(id, kind, phases)?.is_some() {
            self.forget(id);
            self.events.push_back(event);
        }
        Ok(())
    }

    /// The stream a frame names; `None` if it is gone, because frames cross on the wire.
    fn find(
        &mut self,
        id: StreamId,
        kind: &'static str,
        phases: &[Phase],
    ) -> Result<Option<&mut Stream>, LinkError> {
        match self.streams.get_mut(&id) {
            Some(stream) if phases.contains(&stream.phase) => Ok(Some(stream)),
            Some(stream) => Err(unexpected(
                kind,
                id,
                match stream.phase {
                    Phase::Opening => "which is not attached yet",
                    Phase::Open => "which is attached",
                    Phase::Recalled => "which was recalled",
                },
            )),
            None if id != StreamId(0) && id <= self.last_stream => Ok(None),
            None => Err(unexpected(kind, id, "which was never opened")),
        }
    }
}

pub(super) fn unexpected(kind: &'static str, stream: StreamId, why: &'static str) -> LinkError {
    LinkError::Unexpected { kind, stream, why }
}
