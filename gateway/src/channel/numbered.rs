//! What a channel has beside a plain page's when its client speaks single-state.v1: what the client
//! says is checked, and what it is told beside outputs waits here for its socket. Only the newest of
//! each kind waits, so it is bounded.
//!
//! ```text
//!   OPENED ──▶ welcome ──▶ reset, unless what follows continues what the client has ──▶ outputs
//! ```

use std::rc::Rc;

use bytes::Bytes;
use single_state_faults::{self as faults, Point};
use single_state_proto::browser::{
    self, Bye, FromClient, Limits, ResetReason, Welcome, parse, parse_binary,
};
use single_state_proto::channel::{ClientHalf, Input, Relayed};
use single_state_proto::frame::Opened;
use single_state_proto::id::{Attach, Epoch, InputNumber, Revision, SessionId, WorkerIndex};

use super::state::Mirror;
use super::stream::Stream;
use crate::identify::{Sessions, now};
use crate::websocket::{Closing, Received};

/// Pages of a gateway that restarts find another one at once. It sends them away one after another, so
/// they come spread already.
const RESTART: Bye<'_> = Bye { reason: "this gateway restarts", after_ms: 200, spread_ms: 1000 };
/// While no worker can be reached there is nothing to come for.
const AWAY: Bye<'_> = Bye { reason: "no worker can be reached", after_ms: 5000, spread_ms: 10_000 };

const NO_SECOND_HELLO: Closing =
    Closing { code: 4400, reason: "hello is said once, as the first message" };
const NOT_WELCOMED: Closing =
    Closing { code: 4400, reason: "inputs are sent after the welcome, which says which are known" };
const GAP: Closing =
    Closing { code: 4400, reason: "numbers of inputs rise by one, none is left out" };
const NEVER_SENT: Closing =
    Closing { code: 4400, reason: "an output was acknowledged that was never sent" };

/// What a gateway tells all these clients.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) sessions: Sessions,
    pub(crate) limits: Limits,
}

#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) attach: Attach,
    terms: Rc<Terms>,
    /// Epoch of the newest OPENED, and the newest output of it that went to the socket.
    sent: Option<(Epoch, Revision)>,
    /// Why the next welcome brings a reset.
    lost: Option<ResetReason>,
    /// To be told, in this order.
    welcome: Option<Bytes>,
    reset: Option<ResetReason>,
    ack: Option<InputNumber>,
    /// The session does not know the channel any more.
    expired: bool,
}

/// What a client is told before its socket is closed with this code.
pub(crate) fn farewell(code: u16) -> Option<Bytes> {
    match code {
        1012 => Some(browser::bye(&RESTART)),
        1013 => Some(browser::bye(&AWAY)),
        _ => None,
    }
}

impl Numbered {
    pub(super) fn new(attach: Attach, terms: Rc<Terms>) -> Self {
        let (sent, lost, welcome, reset, ack, expired) = Default::default();
        Self { attach, terms, sent, lost, welcome, reset, ack, expired }
    }

    // --- what the client says -------------------------------------------------------------------

    /// Takes what the client says after its hello. Inputs are kept until they are acknowledged.
    pub(super) fn receive(
        &mut self,
        received: Received,
        inputs: &mut ClientHalf,
        stream: Option<&Stream>,
    ) -> Result<(), Closing> {
        let Received { binary, body } = received;
        let said = if binary {
            parse_binary(&body).map(|(number, body)| FromClient::Input(number, body))
        } else {
            parse(&body)
        };
        match said.map_err(|error| Closing { code: 4400, reason: error.reason() })? {
            FromClient::Hello(_) => Err(NO_SECOND_HELLO),
            FromClient::Input(..) if self.sent.is_none() => Err(NOT_WELCOMED),
            FromClient::Input(number, body) => {
                match inputs.relay(Input { number, binary, body }) {
                    Relayed::Kept | Relayed::Known => {}
                    Relayed::Acknowledged => self.say_ack(number),
                    Relayed::Gap => return Err(GAP),
                }
                Ok(())
            }
            FromClient::Ack(epoch, revision) => self.taken(epoch, revision, stream),
        }
    }

    /// The client has taken outputs. What it says of an earlier epoch came too late.
    fn taken(
        &mut self,
        epoch: Epoch,
        revision: Revision,
        stream: Option<&Stream>,
    ) -> Result<(), Closing> {
        match self.sent {
            Some((current, newest)) if current == epoch => {
                if revision > newest {
                    return Err(NEVER_SENT);
                }
                if let Some(stream) = stream.filter(|stream| stream.opened) {
                    stream.report(revision);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    // --- what it is told ------------------------------------------------------------------------

    /// A worker has the session, and goes on from `seen`. Returns why the client must discard its
    /// mirror, if it must.
    pub(super) fn welcome(
        &mut self,
        session: &SessionId,
        worker: Option<WorkerIndex>,
        opened: &Opened,
        mirror: Mirror,
        seen: (Epoch, Revision),
    ) -> Option<ResetReason> {
        // A reset that the client has not heard of yet is still due.
        let untold = self.lost.take().or(self.reset);
        let discarded = (mirror == Mirror::Discarded).then_some(ResetReason::RolledBack);
        self.reset = untold.or(discarded);
        let welcome = Welcome {
            session: self.terms.sessions.renew(session, now()),
            epoch: opened.epoch.0,
            resumed: opened.resumed && self.reset.is_none(),
            applied: opened.applied.map(|number| number.0),
            durability: opened.durability.into(),
            limits: self.terms.limits,
            worker: worker.map(|index| index.0),
        };
        self.welcome = Some(browser::welcome(&welcome));
        let earlier = self.sent.filter(|(epoch, _)| *epoch == seen.0);
        // What it has heard of this epoch before a reset may still be acknowledged.
        self.sent = earlier.max(Some(seen));
        self.reset
    }

    /// An output is on its way to the socket.
    pub(super) fn sent(&mut self, revision: Revision) {
        if let Some((_, newest)) = &mut self.sent {
            *newest = revision.max(*newest);
        }
    }

    /// All inputs up to `number` are applied for good.
    pub(super) fn say_ack(&mut self, number: InputNumber) {
        self.ack = self.ack.max(Some(number));
    }

    /// What the client has is of no use: the next welcome says so.
    pub(super) fn lost(&mut self, reason: ResetReason) {
        self.lost = Some(reason);
    }

    /// The session does not know the channel any more.
    pub(super) fn expire(&mut self) {
        self.expired = true;
    }

    /// What is to be told next, before any output.
    pub(super) fn next_said(&mut self) -> Option<Bytes> {
        if let Some(welcome) = self.welcome.take() {
            faults::half_write(Point::WelcomeHalfSent);
            return Some(welcome);
        }
        let reset = self.reset.take().map(browser::reset);
        reset.or_else(|| self.ack.take().map(browser::ack))
    }

    /// What is told last, before the socket is closed with this code.
    pub(super) fn last_said(&self, code: u16) -> Option<Bytes> {
        if self.expired {
            return Some(browser::reset(ResetReason::ChannelExpired));
        }
        farewell(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use single_state_proto::frame::Durability;

    const LIMITS: Limits =
        Limits { message_bytes: 1, frame_bytes: 4, unacked_messages: 2, unacked_bytes: 3 };

    fn numbered() -> Numbered {
        Numbered::new(Attach(1), Rc::new(Terms { sessions: Sessions::Unsigned, limits: LIMITS }))
    }

    /// A worker attaches the channel, whose client has everything up to `seen` of this epoch.
    fn welcome(numbered: &mut Numbered, mirror: Mirror, epoch: u64, seen: u64) {
        let opened = Opened {
            epoch: Epoch(epoch),
            applied: Some(InputNumber(0)),
            revision: Revision(100),
            resumed: mirror == Mirror::GoesOn,
            window: 0,
            durability: Durability::Relaxed,
        };
        let session = "mine".parse().unwrap();
        numbered.welcome(&session, None, &opened, mirror, (Epoch(epoch), Revision(seen)));
    }

    fn told(numbered: &mut Numbered) -> Vec<String> {
        let said = std::iter::from_fn(|| numbered.next_said());
        said.map(|said| {
            let resumed = std::str::from_utf8(&said).unwrap().contains(r#""resumed":true"#);
            match &said[..] {
                [b'[', b'"', b'w', ..] => format!("welcome, resumed: {resumed}"),
                _ => String::from_utf8(said.to_vec()).unwrap(),
            }
        })
        .collect()
    }

    fn ack(numbered: &mut Numbered, epoch: u64, revision: u64) -> Result<(), Closing> {
        let body = Bytes::from(format!(r#"["ack",{epoch},{revision}]"#));
        let received = Received { binary: false, body };
        numbered.receive(received, &mut ClientHalf::new(), None)
    }

    const RESET: &str = r#"["reset",{"reason":"rolled_back"}]"#;

    #[test]
    fn a_client_is_told_to_discard_only_what_it_may_have() {
        for (mirror, expected) in [
            (Mirror::Begins, &["welcome, resumed: false"][..]),
            (Mirror::GoesOn, &["welcome, resumed: true"]),
            (Mirror::Discarded, &["welcome, resumed: false", RESET]),
        ] {
            let mut numbered = numbered();
            welcome(&mut numbered, mirror, 7, 0);
            assert_eq!(told(&mut numbered), expected);
        }
    }

    #[test]
    fn a_reset_that_waits_for_the_socket_is_not_forgotten_when_yet_another_owner_comes() {
        let mut numbered = numbered();
        welcome(&mut numbered, Mirror::Discarded, 7, 0);
        welcome(&mut numbered, Mirror::GoesOn, 8, 0);
        assert_eq!(told(&mut numbered), ["welcome, resumed: false", RESET]);
        welcome(&mut numbered, Mirror::GoesOn, 9, 0);
        assert_eq!(told(&mut numbered), ["welcome, resumed: true"]);
    }

    #[test]
    fn a_client_too_slow_for_events_is_told_so_once_with_its_next_welcome() {
        let mut numbered = numbered();
        welcome(&mut numbered, Mirror::Begins, 7, 0);
        told(&mut numbered);
        numbered.lost(ResetReason::Overflow);
        assert_eq!(told(&mut numbered), [""; 0]);
        welcome(&mut numbered, Mirror::Discarded, 7, 0);
        let overflow = r#"["reset",{"reason":"overflow"}]"#;
        assert_eq!(told(&mut numbered), ["welcome, resumed: false", overflow]);
    }

    #[test]
    fn only_the_newest_acknowledgement_waits() {
        let mut numbered = numbered();
        for n in [1, 3, 2] {
            numbered.say_ack(InputNumber(n));
        }
        assert_eq!(told(&mut numbered), [r#"["ack",3]"#]);
    }

    #[test]
    fn outputs_of_this_epoch_may_be_acknowledged_once_they_were_sent_also_before_a_reset() {
        let mut numbered = numbered();
        assert_eq!(ack(&mut numbered, 7, 1), Ok(()), "it has not heard of any epoch");
        welcome(&mut numbered, Mirror::GoesOn, 7, 5);
        numbered.sent(Revision(9));
        assert_eq!(ack(&mut numbered, 7, 9), Ok(()));
        assert_eq!(ack(&mut numbered, 7, 10), Err(NEVER_SENT));
        welcome(&mut numbered, Mirror::Discarded, 7, 0);
        assert_eq!(ack(&mut numbered, 7, 9), Ok(()), "it was on its way");
        welcome(&mut numbered, Mirror::Discarded, 8, 0);
        assert_eq!(ack(&mut numbered, 7, 99), Ok(()), "of an earlier epoch");
        assert_eq!(ack(&mut numbered, 8, 1), Err(NEVER_SENT));
    }
}
