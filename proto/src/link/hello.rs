//! How two ends become a link: HELLO, and PROOF where links have keys. What a peer sends before is
//! refused, so nothing of it reaches the owner of the link.

use std::time::Instant;

use super::incoming::unexpected;
use super::{Event, Link, Side, State};
use crate::error::LinkError;
use crate::frame::{Frame, GoAway, Hello};
use crate::id::StreamId;
use crate::key::{Claim, LinkKeys, Nonce, Proof};
use crate::limits::PROTOCOL;

impl Link {
    /// Wants the peer to prove one of these keys, and proves the first to it. `nonce` must come from
    /// a cryptographic source and be used for this link alone. Comes before anything else is done
    /// with the link, because its HELLO says so.
    #[must_use]
    pub fn with_keys(mut self, keys: LinkKeys, nonce: Nonce) -> Self {
        debug_assert_eq!(self.state, State::Connecting);
        self.ours.nonce = Some(nonce);
        self.keys = Some(keys);
        self.urgent.clear();
        Frame::Hello(self.ours.clone()).encode(&mut self.urgent);
        self
    }

    /// Applies a frame that comes before the link is up.
    pub(super) fn handle_greeting(&mut self, now: Instant, frame: Frame) -> Result<(), LinkError> {
        match (self.state, frame) {
            (_, Frame::GoAway(code)) => {
                self.leaving |= code == GoAway::Draining;
                self.events.push_back(Event::GoAway(code));
                Ok(())
            }
            (State::Connecting, Frame::Hello(theirs)) => self.handle_hello(now, theirs),
            (State::Connecting, _) => Err(unexpected("a frame", StreamId(0), "before HELLO")),
            (_, Frame::Proof(proof)) => self.handle_proof(now, &proof),
            (_, Frame::Hello(_)) => Err(unexpected("HELLO", StreamId(0), "a second time")),
            _ => Err(unexpected("a frame", StreamId(0), "before PROOF")),
        }
    }

    fn handle_hello(&mut self, now: Instant, theirs: Hello) -> Result<(), LinkError> {
        self.check_hello(&theirs)?;
        let Some((keys, claim)) = self.claim(&theirs)? else {
            self.connected(now, theirs);
            return Ok(());
        };
        let proof = keys.prove(self.side, claim);
        Frame::Proof(proof).encode(&mut self.urgent);
        self.unproven = Some(theirs);
        self.state = State::Proving;
        Ok(())
    }

    fn check_hello(&self, theirs: &Hello) -> Result<(), LinkError> {
        let ours = &self.ours;
        if theirs.protocol_max < *PROTOCOL.start() || theirs.protocol_min > *PROTOCOL.end() {
            return Err(LinkError::Version {
                ours_min: *PROTOCOL.start(),
                ours_max: *PROTOCOL.end(),
                theirs_min: theirs.protocol_min,
                theirs_max: theirs.protocol_max,
            });
        }
        if theirs.cluster != ours.cluster {
            let (ours, theirs) = (ours.cluster.clone(), theirs.cluster.clone());
            return Err(LinkError::WrongCluster { ours, theirs });
        }
        if theirs.index != ours.index {
            let (gateway, worker) = match self.side {
                Side::Gateway => (ours.index, theirs.index),
                Side::Worker => (theirs.index, ours.index),
            };
            return Err(LinkError::WrongIndex { gateway, worker });
        }
        Ok(())
    }

    /// What both ends have to prove and with which keys; `None` if neither has one.
    fn claim(&self, theirs: &Hello) -> Result<Option<(&LinkKeys, Claim<'_>)>, LinkError> {
        let ours = self.keys.as_ref().zip(self.ours.nonce);
        let ((keys, our_nonce), their_nonce) = match (ours, theirs.nonce) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(LinkError::KeyWanted),
            (Some(_), None) => return Err(LinkError::NoKey),
        };
        let (gateway, worker) = match self.side {
            Side::Gateway => (our_nonce, their_nonce),
            Side::Worker => (their_nonce, our_nonce),
        };
        let Hello { index, cluster, .. } = &self.ours;
        Ok(Some((keys, Claim { gateway, worker, index: *index, cluster })))
    }

    fn handle_proof(&mut self, now: Instant, proof: &Proof) -> Result<(), LinkError> {
        let Some(theirs) = self.unproven.take() else {
            return Err(unexpected("PROOF", StreamId(0), "which was not asked for"));
        };
        let peer = match self.side {
            Side::Gateway => Side::Worker,
            Side::Worker => Side::Gateway,
        };
        match self.claim(&theirs)? {
            Some((keys, claim)) if keys.verify(peer, claim, proof) => {
                self.connected(now, theirs);
                Ok(())
            }
            _ => Err(LinkError::WrongKey),
        }
    }

    fn connected(&mut self, now: Instant, theirs: Hello) {
        self.state = if self.leaving { State::Draining } else { State::Active };
        self.peer_max_message = theirs.max_message;
        self.pulse.start(now);
        self.events.push_back(Event::Connected(theirs));
    }
}
