//! The connection under a [`WorkerLink`]: dialled for as long as it is wanted, and what its coming and
//! going says of the worker.
//!
//! ```text
//!   down ──dialled, HELLO──▶ up ──link ends──▶ down …      a retry waits: at first not at all, then
//!                                                          longer each time, at random below a bound
//! ```

use std::rc::Rc;
use std::time::{Duration, Instant};

use single_state_node::link::{LinkEnd, LinkHandle};
use single_state_proto::error::LinkError;
use single_state_proto::frame::{GoAway, Hello};
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL};
use single_state_proto::link::Side;
use tokio::net::TcpStream;

use super::{Up, WorkerLink};
use crate::channel::Parting;
use crate::router::{Health, Standing};

/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The second dial after a loss waits up to this, the following ones twice as long each …
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// … up to this.
const LAST_RETRY: Duration = Duration::from_secs(1);
/// A link that has lived so long was no failure.
const STABLE: Duration = Duration::from_secs(5);
/// A worker whose link has just ended is waited for so long.
const BACK_WITHIN: Duration = Duration::from_millis(500);
/// Failed dials after which it is said, once, that a worker cannot be reached.
const UNREACHED: u32 = 5;
/// How often acknowledgements that were not reported are looked at.
const TICK: Duration = Duration::from_millis(250);

impl WorkerLink {
    /// Keeps the link up for as long as it is wanted.
    pub(super) async fn run(self: Rc<Self>) {
        let mut failures = 0;
        // While a worker is away the same happens again and again; each reason is told once.
        let mut told = None;
        while !self.is_over() {
            let (worker, address) = (self.index.0, &self.address);
            match self.dial().await {
                Ok(stream) => {
                    let up_at = Instant::now();
                    let end = self.connected(stream).await;
                    let reason = Some(end.to_string());
                    if self.lost(&end) {
                        if up_at.elapsed() >= STABLE {
                            failures = 0;
                        }
                        if self.ending.get() {
                            return;
                        }
                        if self.health().standing() != (Standing::Down { refused: true }) {
                            tracing::warn!(worker.index = worker, reason = %end, "link lost");
                        }
                    } else {
                        if told != reason {
                            refuse(worker, address, &end);
                        }
                        self.unreached(false);
                    }
                    told = reason;
                }
                // While a worker starts this happens a few times.
                Err(error) => {
                    self.unreached(error.kind() == std::io::ErrorKind::ConnectionRefused);
                    let reason = Some(error.to_string());
                    if failures >= UNREACHED && told != reason {
                        tracing::warn!(worker.index = worker, %address, %error, "worker not reached");
                        told = reason;
                    }
                }
            }
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(retry_delay(failures)) => {}
                () = self.is_retired() => {}
            }
        }
        if let Some(router) = self.router.upgrade() {
            router.gone(&self);
        }
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        let stream =
            tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn connected(self: &Rc<Self>, stream: TcpStream) -> LinkEnd {
        let hello = Hello {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            max_message: MAX_MESSAGE,
            generation: self.generation(),
            index: self.index,
            incarnation: self.options.incarnation,
            cluster: self.options.cluster.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: None,
        };
        let link = match LinkHandle::new(Side::Gateway, hello, self.options.keys.as_ref()) {
            Ok(link) => link,
            Err(end) => return end,
        };
        let ticks = async {
            loop {
                tokio::time::sleep(TICK).await;
                self.report_taken();
            }
        };
        tokio::select! {
            end = link.drive(stream, &self.metrics.link, |event| self.handle(&link, event)) => end,
            () = self.is_retired() => LinkEnd::Closed,
            () = ticks => unreachable!("ticks go on for ever"),
        }
    }

    /// Whether nobody needs the link any more.
    fn is_over(&self) -> bool {
        let streams = self.up.borrow().as_ref().map_or(0, |up| up.streams.len());
        self.retired.get() && streams == 0
    }

    /// Waits until nobody needs the link any more.
    async fn is_retired(&self) {
        while !self.is_over() {
            self.over.notified().await;
        }
    }

    pub(super) fn up(self: &Rc<Self>, link: &Rc<LinkHandle>, worker: Hello) {
        let incarnation = worker.incarnation.0;
        tracing::info!(worker.index = self.index.0, worker.incarnation = incarnation, "link up");
        self.metrics.links_up.inc();
        let (streams, unreported) = Default::default();
        *self.up.borrow_mut() = Some(Up { link: link.clone(), worker, streams, unreported });
        self.tell_topology();
        if let Some(router) = self.router.upgrade() {
            self.tell_skipped(&router.skipped());
        }
        self.change(|health, now| health.up(now));
    }

    /// The link is gone: its channels are to go elsewhere, or to wait. Returns whether it had been up.
    fn lost(self: &Rc<Self>, end: &LinkEnd) -> bool {
        let Some(up) = self.up.borrow_mut().take() else { return false };
        self.metrics.links_up.dec();
        let silent = matches!(end, LinkEnd::Failed(LinkError::Silent(_)));
        self.change(|health, now| health.lost(now, silent));
        self.expect_back();
        if let Some(router) = self.router.upgrade() {
            for channel in up.streams.into_values() {
                channel.lost(Parting::Failover);
                router.reopen(&channel);
            }
        }
        true
    }

    /// A worker that was lost and is not back soon is down.
    fn expect_back(self: &Rc<Self>) {
        if self.health().standing() != Standing::Lost {
            return;
        }
        let this = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(BACK_WITHIN).await;
            if let Some(this) = this.upgrade().filter(|t| t.health().standing() == Standing::Lost) {
                this.unreached(false);
            }
        });
    }

    fn unreached(&self, refused: bool) {
        let starts = self.health().standing() == Standing::Unknown;
        if !starts || Instant::now() >= self.expected_by {
            self.change(|health, now| health.unreached(now, refused));
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Health, Instant)) {
        let mut health = self.health.get();
        let before = health.standing();
        change(&mut health, Instant::now());
        self.health.set(health);
        if health.standing() != before
            && let Some(router) = self.router.upgrade()
        {
            let what = match health.standing() {
                Standing::Up => "up",
                Standing::Lost | Standing::Unknown => "link lost",
                Standing::Draining => "goes away",
                Standing::Down { refused: true } => "gone",
                Standing::Down { refused: false } => "does not answer",
            };
            router.note(what, self.index);
            router.standing_changed();
        }
    }
}

/// Says that a worker, or this gateway, did not take the link.
fn refuse(worker: u16, address: &str, end: &LinkEnd) {
    if matches!(end, LinkEnd::Refused(GoAway::OtherTopology)) {
        tracing::error!(
            worker.index = worker,
            "this gateway has another list of workers than the cluster, with the same generation: \
             give each change a higher generation"
        );
    } else {
        tracing::warn!(worker.index = worker, address, reason = %end, "link refused");
    }
}

/// Full jitter, except that the first dial after a loss does not wait at all.
fn retry_delay(failures: u32) -> Duration {
    if failures <= 1 {
        return Duration::ZERO;
    }
    let bound = LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(failures - 2).min(1 << 10));
    let mut random = [0; 2];
    // Without entropy it waits the whole bound.
    let share = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 1.0,
    };
    bound.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_dial_after_a_loss_is_at_once_and_later_ones_wait_up_to_a_second() {
        assert_eq!(retry_delay(1), Duration::ZERO);
        for failures in 2..200 {
            assert!(retry_delay(failures) <= LAST_RETRY);
        }
    }
}
