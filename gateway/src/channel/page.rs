//! The browser's side of a channel: what the task of its socket does.

use std::time::Instant;

use bytes::Bytes;
use single_state_faults::{self as faults, Point};
use single_state_proto::frame::CloseCode;
use single_state_proto::id::StreamId;

use super::Channel;
use super::state::State;
use crate::RESTARTS;
use crate::websocket::{Closing, Ended, More, Received, WebSocket};

/// What a browser's task waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The browser sends more than it may: it is not read before this moment.
    pub(crate) paused: Option<Instant>,
}

/// What became of an attempt to attach, as far as the upgrade has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Waiting,
    Open,
    Closing,
}

impl Channel {
    /// How far attaching is.
    pub(crate) fn standing(&self) -> Standing {
        let state = self.state.borrow();
        match &state.stream {
            _ if state.closing.is_some() => Standing::Closing,
            Some(stream) if stream.opened => Standing::Open,
            _ => Standing::Waiting,
        }
    }

    /// Waits until something has changed that concerns the browser's task.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The upgrade is done; what the session has said meanwhile goes out.
    pub(crate) fn connected(&self, socket: WebSocket) {
        let mut state = self.state.borrow_mut();
        state.socket = Some(socket);
        self.deliver(&mut state);
    }

    /// What the browser's task shall wait for.
    pub(crate) fn interest(&self) -> Interest {
        let state = self.state.borrow();
        let now = Instant::now();
        // None is less than any moment.
        let paused = state.messages.pause(now).max(state.bytes.pause(now));
        let write = state.socket.as_ref().is_some_and(WebSocket::is_blocked);
        Interest { read: !state.inputs.is_full() && paused.is_none(), write, paused }
    }

    /// Asks a quiet browser whether it is there, and gives up one that has been quiet for too long.
    /// What we do not read is not held against it (R17).
    pub(crate) fn check_idle(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        let quiet = now.saturating_duration_since(state.heard);
        if state.inputs.is_full() {
            state.heard = now;
        } else if quiet >= self.limits.idle_timeout && !self.limits.idle_timeout.is_zero() {
            self.close_with(&mut state, 1001, "nothing was heard from the page for too long");
        } else if quiet >= self.limits.ping_after
            && !self.limits.ping_after.is_zero()
            && !std::mem::replace(&mut state.asked, true)
            && let Some(socket) = &mut state.socket
        {
            // Reading tells if the browser is gone.
            let _ = socket.ping();
        }
    }

    /// Reads once and takes the messages that have arrived, until the unacknowledged are too many.
    pub(crate) fn read(&self) -> Result<More, Ended> {
        let mut state = self.state.borrow_mut();
        let State { socket: Some(socket), inputs, messages, bytes, numbered, stream, .. } =
            &mut *state
        else {
            return Ok(More::No);
        };
        if inputs.is_full() {
            return Ok(More::Maybe);
        }
        let (now, limits, mut fault) = (Instant::now(), &self.limits, None);
        let read = socket.read(|received| {
            let Received { binary, body } = &received;
            self.metrics.messages_in.inc();
            self.metrics.bytes_in.inc_by(body.len() as u64);
            messages.count(limits.messages_per_second, 1, now);
            bytes.count(limits.bytes_per_second, body.len(), now);
            match numbered {
                None => {
                    inputs.push(*binary, received.body);
                }
                Some(numbered) => {
                    fault = numbered.receive(received, inputs, stream.as_ref()).err();
                }
            }
            let may_send = messages.pause(now).is_none() && bytes.pause(now).is_none();
            fault.is_none() && !inputs.is_full() && may_send
        });
        (state.heard, state.asked) = (now, false);
        if state.inputs.next_to_send().is_some() {
            faults::point(Point::InputRead);
        }
        self.forward(&mut state);
        if state.numbered.is_some() {
            // What it has repeated is acknowledged again.
            self.deliver(&mut state);
        }
        fault.map_or(read, |closing| Err(Ended::ByFault(closing)))
    }

    /// Goes on writing what the socket did not take before.
    pub(crate) fn flush(&self) -> Result<(), Ended> {
        let mut state = self.state.borrow_mut();
        if let Some(socket) = &mut state.socket {
            socket.flush()?;
        }
        self.deliver(&mut state);
        if let Some(stream) = &mut state.stream {
            stream.report_taken();
        }
        Ok(())
    }

    /// With what the socket is to be closed, if it is.
    pub(crate) fn closing(&self) -> Option<Closing> {
        self.state.borrow().closing
    }

    /// What the client is told before its socket is closed with this code.
    pub(crate) fn last_said(&self, code: u16) -> Option<Bytes> {
        self.state.borrow().numbered.as_ref()?.last_said(code)
    }

    /// Whether what the browser sends before it knows that it is sent away still counts. A plain page
    /// cannot say it again: it never learns that it was too late. When the gateway restarts nothing
    /// is wrong with the page or its session, so it is not.
    pub(crate) fn takes_late(&self) -> bool {
        let state = self.state.borrow();
        state.numbered.is_none() && state.closing == Some(RESTARTS)
    }

    /// Takes such a message, if it counts and there is room for it.
    pub(crate) fn hear_late(&self, Received { binary, body }: Received) {
        let takes_late = self.takes_late();
        let mut state = self.state.borrow_mut();
        if takes_late && !state.inputs.is_full() {
            self.metrics.messages_in.inc();
            self.metrics.bytes_in.inc_by(body.len() as u64);
            state.inputs.push(binary, body);
            self.forward(&mut state);
        }
    }

    /// Takes the socket out, to close it or to drop it.
    pub(crate) fn disconnected(&self) -> Option<WebSocket> {
        self.state.borrow_mut().socket.take()
    }

    /// The browser is gone, and the stream is closed. Returns the stream's id.
    pub(crate) fn end(&self) -> Option<StreamId> {
        let mut state = self.state.borrow_mut();
        let stream = state.stream.take()?;
        // A plain page's channel ends with its socket; any other one may come back.
        let code = if state.numbered.is_some() { CloseCode::Detached } else { CloseCode::Ended };
        stream.link.with(|link| link.close(stream.id, code));
        Some(stream.id)
    }
}
