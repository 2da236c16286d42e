//! One task for each browser: waits for its socket and its channel, and ends both together.

use std::rc::Rc;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::channel::Channel;
use crate::metrics::Metrics;
use crate::websocket::{Ended, MessageLimits, WebSocket, interest, ready};
use crate::worker_link::WorkerLink;

/// Messages taken from one browser before others have their turn.
const READS_PER_TURN: usize = 64;

/// A channel that is attached, or about to be, for as long as this lives: when the browser goes
/// away at any moment, also during the upgrade, its stream ends.
#[derive(Debug)]
pub(crate) struct Attached {
    channel: Rc<Channel>,
    worker: Rc<WorkerLink>,
    metrics: Rc<Metrics>,
}

impl Attached {
    pub(crate) fn new(channel: Rc<Channel>, worker: Rc<WorkerLink>, metrics: Rc<Metrics>) -> Self {
        metrics.connections.inc();
        worker.attach(&channel);
        Self { channel, worker, metrics }
    }

    pub(crate) fn channel(&self) -> &Rc<Channel> {
        &self.channel
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.metrics.connections.dec();
        self.worker.detach(&self.channel);
    }
}

/// Serves one browser until it goes away or is sent away.
pub(crate) async fn serve(upgraded: Upgraded, attached: Attached, limits: MessageLimits) {
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        unreachable!("the listener accepts nothing but TCP");
    };
    let socket = Rc::new(parts.io.into_inner());
    let channel = &attached.channel;
    channel.connected(WebSocket::new(socket.clone(), &parts.read_buf, limits));
    // What arrived together with the upgrade lies in no socket any more.
    let mut ended = channel.read(READS_PER_TURN);
    let closing = loop {
        if let Some(closing) = channel.closing() {
            break Some(closing);
        }
        match ended {
            Ok(()) => {}
            Err(Ended::ByBrowser) => break None,
            Err(Ended::ByFault(closing)) => {
                channel.close(closing.code, closing.reason);
                break Some(closing);
            }
        }
        ended = step(&socket, channel).await;
    };
    let session = channel.session.as_str();
    match (&closing, channel.disconnected()) {
        (Some(closing), Some(websocket)) => {
            let (code, reason) = (closing.code, closing.reason);
            tracing::info!(session.id = session, close.code = code, reason, "browser sent away");
            // The stream ends now; only the browser is still to be told.
            drop(attached);
            websocket.close(closing.clone()).await;
        }
        _ => tracing::debug!(session.id = session, "browser went away"),
    }
}

/// Waits for the socket or for news of the channel, and does what is possible then.
async fn step(socket: &TcpStream, channel: &Channel) -> Result<(), Ended> {
    let (read, write) = channel.interest();
    tokio::select! {
        ready = ready(socket, interest(read, write)) => {
            let ready = ready.map_err(|_| Ended::ByBrowser)?;
            if ready.is_writable() && write {
                channel.flush()?;
            }
            if ready.is_readable() || ready.is_read_closed() {
                channel.read(READS_PER_TURN)?;
            }
            Ok(())
        }
        () = channel.changed() => Ok(()),
    }
}
