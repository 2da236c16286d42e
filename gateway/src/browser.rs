//! One task for each browser: waits for its socket and its channel, and ends both together.

use std::rc::Rc;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Shared;
use crate::admission::Place;
use crate::channel::{Channel, Interest, Target, farewell};
use crate::drain::Seat;
use crate::hello;
use crate::metrics::Metrics;
use crate::websocket::{Closing, Ended, MessageLimits, More, WebSocket, interest};

/// A connection that is counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Guest {
    metrics: Rc<Metrics>,
    _place: Place,
}

impl Guest {
    pub(crate) fn new(place: Place, metrics: Rc<Metrics>) -> Self {
        metrics.connections.inc();
        Self { metrics, _place: place }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// A channel that is attached, or about to be, for as long as this lives: when the browser goes
/// away at any moment, also during the upgrade, its stream ends.
pub(crate) struct Attached {
    channel: Rc<Channel>,
    seat: Seat,
    shared: Rc<Shared>,
    _guest: Guest,
}

impl Attached {
    pub(crate) fn new(channel: Rc<Channel>, guest: Guest, shared: Rc<Shared>) -> Self {
        shared.router.attach(&channel);
        let seat = shared.roster.enter(channel.clone());
        Self { channel, seat, shared, _guest: guest }
    }

    pub(crate) fn channel(&self) -> &Rc<Channel> {
        &self.channel
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.shared.roster.leave(self.seat);
        self.shared.router.detach(&self.channel);
    }
}

/// Serves a plain page until it goes away or is sent away.
pub(crate) async fn serve(upgraded: Upgraded, attached: Attached, limits: MessageLimits) {
    let (socket, websocket) = open(upgraded, limits);
    attached.channel.connected(websocket);
    attend(&socket, &attached).await;
}

/// Serves a client of single-state.v1, which says first which channel it takes up.
pub(crate) async fn greet_and_serve(
    upgraded: Upgraded,
    target: Target,
    guest: Guest,
    shared: Rc<Shared>,
) {
    let (socket, mut websocket) = open(upgraded, shared.limits);
    // It is soon over, and needs room that what follows does not.
    match Box::pin(hello::hear(&socket, &mut websocket, target, &shared)).await {
        Ok((target, hello)) => {
            let (terms, metrics) = (shared.terms.clone(), shared.metrics.clone());
            let limits = shared.channel_limits;
            let channel = Channel::numbered(target, hello, terms, websocket, limits, metrics);
            let attached = Attached::new(channel, guest, shared);
            attend(&socket, &attached).await;
        }
        Err(Ended::ByFault(closing)) => {
            let Closing { code, reason } = closing;
            tracing::info!(close.code = code, reason, "browser sent away before its hello");
            shared.metrics.closed(code);
            Box::pin(websocket.close(farewell(code), closing, drop)).await;
        }
        Err(Ended::ByBrowser) => tracing::debug!("browser went away before its hello"),
    }
}

/// Looks after one browser until it goes away or is sent away.
async fn attend(socket: &TcpStream, attached: &Attached) {
    let channel = &attached.channel;
    let ended = talk(socket, channel).await;
    let session = channel.session.as_str();
    match (ended, channel.disconnected()) {
        (Ended::ByFault(closing), Some(websocket)) => {
            let Closing { code, reason } = closing;
            tracing::info!(session.id = session, close.code = code, reason, "browser sent away");
            // The stream ends now and only the browser is still to be told, unless what it was still
            // sending is to arrive.
            if !channel.takes_late() {
                attached.shared.router.detach(channel);
            }
            let late = |received| channel.hear_late(received);
            // Few get here, and it is larger than all that the others need.
            Box::pin(websocket.close(channel.last_said(code), closing, late)).await;
        }
        _ => tracing::debug!(session.id = session, "browser went away"),
    }
}

/// The websocket of an upgraded connection. Nothing of what hyper needed for it lives on.
fn open(upgraded: Upgraded, limits: MessageLimits) -> (Rc<TcpStream>, WebSocket) {
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        unreachable!("the listener accepts nothing but TCP");
    };
    let socket = Rc::new(parts.io.into_inner());
    (socket.clone(), WebSocket::new(socket, &parts.read_buf, limits))
}

/// Does what the socket and the channel make possible, until either ends.
async fn talk(socket: &TcpStream, channel: &Channel) -> Ended {
    // What arrived together with the upgrade lies in no socket any more.
    let mut more = More::Maybe;
    loop {
        if let Some(closing) = channel.closing() {
            return Ended::ByFault(closing);
        }
        match step(socket, channel, &mut more).await {
            Ok(()) => {}
            Err(Ended::ByBrowser) => return Ended::ByBrowser,
            Err(Ended::ByFault(Closing { code, reason })) => channel.close(code, reason),
        }
    }
}

/// Reads on, or waits for the socket or for news of the channel.
async fn step(socket: &TcpStream, channel: &Channel, more: &mut More) -> Result<(), Ended> {
    let Interest { read, write, paused } = channel.interest();
    if read && *more == More::Maybe {
        // There may be no end of it: others have their turn in between.
        tokio::task::yield_now().await;
        channel.flush()?;
        *more = channel.read()?;
        return Ok(());
    }
    tokio::select! {
        ready = socket.ready(interest(read, write)) => {
            let ready = ready.map_err(|_| Ended::ByBrowser)?;
            if ready.is_writable() {
                channel.flush()?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                *more = channel.read()?;
            }
            if ready.is_error() { Err(Ended::ByBrowser) } else { Ok(()) }
        }
        () = channel.changed() => Ok(()),
        () = until(paused) => Ok(()),
    }
}

/// Waits until a moment; for ever without one.
pub(crate) async fn until(moment: Option<std::time::Instant>) {
    match moment {
        // Few need it; the others need not hold room for it.
        Some(moment) => Box::pin(tokio::time::sleep_until(moment.into())).await,
        None => std::future::pending().await,
    }
}
