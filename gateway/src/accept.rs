//! Accepts browsers as fast as the kernel has them, so that it is known how long each has waited, and
//! lets them in as fast as `arrivals.rs` says. Those it does not let in are told, cheaply.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::arrivals::{Arrivals, Turn};
use crate::browser::until;
use crate::websocket::discard;
use crate::{Shared, http};

/// What a browser is told that is not let in. Nobody parses its request for that.
const SHED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 5\r\n\
    connection: close\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 42\r\n\r\n\
    too many browsers come at once; try later\n";

/// How long it has to send its request and to hear that.
const SHED_TIMEOUT: Duration = Duration::from_secs(1);
/// So many are told at a time; beyond them a connection is just closed.
const MAX_TOLD: usize = 1024;

/// Those who have connected and are not served yet.
pub(crate) struct Acceptor {
    shared: Rc<Shared>,
    arrivals: Arrivals<(TcpStream, IpAddr)>,
    told: Arc<Semaphore>,
    /// Turned away since nobody last waited.
    shed: u64,
}

impl Acceptor {
    pub(crate) fn new(shared: Rc<Shared>) -> Self {
        let arrivals = Arrivals::new(shared.arrival_limits, Instant::now());
        Self { shared, arrivals, told: Arc::new(Semaphore::new(MAX_TOLD)), shed: 0 }
    }

    /// Accepts browsers for ever; when dropped, nobody is lost.
    pub(crate) async fn run(&mut self, listener: &TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => Some(accepted),
                () = until(self.arrivals.next_at(Instant::now())) => None,
            };
            match accepted {
                Some(Ok((socket, address))) => {
                    if let Some((socket, _)) =
                        self.arrivals.push((socket, address.ip()), Instant::now())
                    {
                        self.shed(socket);
                    }
                }
                Some(Err(error)) => {
                    // Out of descriptors, mostly: wait for some to come back.
                    tracing::warn!(%error, "accept a browser");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None => {}
            }
            self.let_in();
        }
    }

    /// Nobody is let in any more: those who still wait are told.
    pub(crate) fn end(mut self) {
        let nobody = Arrivals::new(self.shared.arrival_limits, Instant::now());
        for (socket, _) in std::mem::replace(&mut self.arrivals, nobody).into_waiting() {
            self.turn_away(socket);
        }
        self.shared.metrics.handshakes_waiting.set(0);
    }

    fn let_in(&mut self) {
        while let Some(turn) = self.arrivals.next(Instant::now()) {
            match turn {
                Turn::Serve((socket, address)) => {
                    tokio::task::spawn_local(http::serve(socket, address, self.shared.clone()));
                }
                Turn::Shed((socket, _)) => self.shed(socket),
            }
        }
        self.shared.metrics.handshakes_waiting.set(self.arrivals.len() as i64);
        if self.arrivals.len() == 0 && self.shed > 0 {
            let shed = std::mem::take(&mut self.shed);
            tracing::info!(shed, "all browsers that come are let in again");
        }
    }

    fn shed(&mut self, socket: TcpStream) {
        if self.shed == 0 {
            tracing::warn!("browsers come faster than they are let in: some are turned away");
        }
        self.shed += 1;
        self.turn_away(socket);
    }

    fn turn_away(&self, socket: TcpStream) {
        self.shared.metrics.handshakes_shed.inc();
        if let Ok(permit) = self.told.clone().try_acquire_owned() {
            tokio::task::spawn_local(async move {
                // One that takes longer has given up.
                let _ = tokio::time::timeout(SHED_TIMEOUT, tell(socket)).await;
                drop(permit);
            });
        }
    }
}

/// Answers the browser's request, whatever it is, and reads all of it, because unread bytes would turn
/// our close into a reset.
async fn tell(mut socket: TcpStream) -> std::io::Result<()> {
    socket.readable().await?;
    socket.write_all(SHED).await?;
    socket.shutdown().await?;
    discard(&socket).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_those_turned_away_has_the_length_that_it_says() {
        let answer = std::str::from_utf8(SHED).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.lines().any(|line| line == format!("content-length: {}", body.len())));
    }
}
