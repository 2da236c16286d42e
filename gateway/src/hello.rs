//! The first message of a client of single-state.v1: which channel of which session it takes up.

use std::rc::Rc;
use std::time::Duration;

use single_state_proto::browser::{FromClient, Hello, parse};
use tokio::net::TcpStream;

use crate::channel::Target;
use crate::identify::{self, Denied};
use crate::websocket::{Closing, Ended, More, Received, WebSocket, interest};
use crate::{RESTARTS, Shared};

const NO_HELLO: Closing = Closing { code: 4400, reason: "no hello has come in time" };
const NOT_HELLO: Closing = Closing { code: 4400, reason: "the first message is hello" };
const NOT_AN_ID: Closing =
    Closing { code: 4400, reason: "a session id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -" };
const NOT_SIGNED: Closing =
    Closing { code: 4401, reason: "no gateway signed this session, or it has expired" };

/// Waits for the hello, and chooses the session: its own wins over that of the address, which wins
/// over the cookie's.
pub(crate) async fn hear(
    socket: &TcpStream,
    websocket: &mut WebSocket,
    mut target: Target,
    shared: &Rc<Shared>,
) -> Result<(Target, Hello), Ended> {
    let received = tokio::select! {
        // Before all: nobody takes a seat any more once those who have one are being sent away.
        biased;
        () = shared.drains() => return Err(Ended::ByFault(RESTARTS)),
        received = first(socket, websocket) => received?,
        () = expired(shared.hello_timeout) => return Err(Ended::ByFault(NO_HELLO)),
    };
    shared.metrics.messages_in.inc();
    shared.metrics.bytes_in.inc_by(received.body.len() as u64);
    let hello = read(&received).map_err(Ended::ByFault)?;
    if let Some(token) = &hello.session {
        target.session = shared.terms.sessions.open(token, identify::now()).map_err(|denied| {
            Ended::ByFault(match denied {
                Denied::NotAnId => NOT_AN_ID,
                Denied::NotSigned => NOT_SIGNED,
            })
        })?;
        target.fresh = false;
    }
    Ok((target, hello))
}

fn read(received: &Received) -> Result<Hello, Closing> {
    if received.binary {
        return Err(NOT_HELLO);
    }
    match parse(&received.body) {
        Ok(FromClient::Hello(hello)) => Ok(hello),
        Ok(_) => Err(NOT_HELLO),
        Err(malformed) => Err(Closing { code: 4400, reason: malformed.reason() }),
    }
}

/// The first message. What comes behind it stays with the websocket.
async fn first(socket: &TcpStream, websocket: &mut WebSocket) -> Result<Received, Ended> {
    let mut received = None;
    loop {
        let more = websocket.read(|message| {
            received = Some(message);
            false
        })?;
        if let Some(received) = received.take() {
            return Ok(received);
        }
        if more == More::Maybe {
            tokio::task::yield_now().await;
            continue;
        }
        // It may ping us and not read what we answer.
        let blocked = websocket.is_blocked();
        let ready = socket.ready(interest(true, blocked)).await.map_err(|_| Ended::ByBrowser)?;
        if blocked && ready.is_writable() {
            websocket.flush()?;
        }
        if ready.is_error() {
            return Err(Ended::ByBrowser);
        }
    }
}

/// Waits so long; for ever without a limit.
async fn expired(limit: Duration) {
    if limit.is_zero() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(limit).await;
}
