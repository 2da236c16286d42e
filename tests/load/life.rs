//! The life of one browser: it connects when it is its turn, and sends when its pace says so.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep_until};

use crate::config::{Config, Pace};
use crate::limits::explain;
use crate::news::Phase;
use crate::part::Shared;
use crate::peer::{Heard, Peer};
use crate::workload::Verdict;

/// Messages of one visit.
const VISIT: u64 = 3;

/// One browser.
pub(crate) struct Life {
    number: usize,
    shared: Rc<Shared>,
    peer: Option<Peer>,
    /// Messages that it has sent to its session.
    sent: u64,
    /// When the message was due for which it waits, or at a fixed rate the next one.
    due: Option<Instant>,
    visits: u64,
}

impl Life {
    pub(crate) fn new(number: usize, shared: Rc<Shared>) -> Self {
        Self { number, shared, peer: None, sent: 0, due: None, visits: 0 }
    }

    /// From its first connection to the end of the run.
    pub(crate) async fn run(mut self) {
        let shared = self.shared.clone();
        let address = shared.config.address(self.number);
        let is_there = self.arrive(&address).await;
        shared.arrived();
        if let Err(error) = is_there {
            return shared.error(format!("cannot connect: {}", explain(&error)));
        }
        shared.tally.borrow_mut().connected += 1;
        tokio::select! {
            lived = self.live() => if let Err(error) = lived {
                shared.closed(explain(&error));
            },
            () = shared.reached(Phase::Over) => self.give_up(),
        }
        if let Some(peer) = &self.peer {
            shared.tally.borrow_mut().closed += peer.closes();
        }
        self.gone();
    }

    async fn live(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        if shared.config.pace == Pace::Idle {
            return self.stay().await;
        }
        self.listen_until(Phase::Warm, None).await?;
        match shared.config.pace {
            Pace::Rate(rate) => self.send_at(rate).await?,
            Pace::Churn(away) => Box::pin(self.come_and_go(away)).await?,
            _ => self.send_on_answer().await?,
        }
        if shared.recorder.is_on() && shared.config.checks {
            let looked = self.peer()?.items().await;
            if let Err(error) = looked {
                shared.error(format!("look for all items: {error:#}"));
            }
        }
        Ok(())
    }

    // --- paces ----------------------------------------------------------------------------------

    /// The next message when the answer to the last one is there.
    async fn send_on_answer(&mut self) -> Result<()> {
        while self.shared.phase() < Phase::Rest {
            self.exchange(Instant::now()).await?;
        }
        Ok(())
    }

    /// A message whenever one is due; if answers are late the next ones are, and that is measured.
    async fn send_at(&mut self, rate: f64) -> Result<()> {
        let config = &self.shared.config;
        let interval = interval(config, rate);
        // The browsers are spread evenly over the interval.
        let share = self.number as f64 / config.browsers as f64;
        let mut due = Instant::now() + interval.mul_f64(share);
        loop {
            self.due = Some(due);
            if due > Instant::now() {
                self.listen_until(Phase::Rest, Some(due)).await?;
            }
            // What was due before the end is still sent, when its turn comes.
            if self.shared.phase() >= Phase::Rest && !self.shared.measures(due) {
                return Ok(());
            }
            self.exchange(due).await?;
            due += interval;
        }
    }

    /// Visits, and times without a connection between them.
    async fn come_and_go(&mut self, away: Duration) -> Result<()> {
        let shared = self.shared.clone();
        loop {
            for _ in 0..VISIT {
                self.exchange(Instant::now()).await?;
            }
            if shared.phase() >= Phase::Rest {
                return Ok(());
            }
            let peer = self.peer.take().context("it is connected")?;
            let (session, token) = (peer.session().to_owned(), peer.token().to_owned());
            self.gone();
            peer.leave().await?;
            tokio::time::sleep(away).await;
            let address = shared.config.address_of(self.number, &token);
            self.arrive(&address).await.context("cannot come back")?;
            let found = self.peer()?.session();
            ensure!(found == session, "came back to session {found:?} in place of {session:?}");
            shared.tally.borrow_mut().returns += 1;
        }
    }

    /// Two messages, then it answers pings only.
    async fn stay(&mut self) -> Result<()> {
        for _ in 0..2 {
            self.exchange(Instant::now()).await?;
        }
        self.listen_until(Phase::Over, None).await
    }

    // --- what they are made of ------------------------------------------------------------------

    async fn arrive(&mut self, address: &str) -> Result<()> {
        let shared = self.shared.clone();
        if let Some(rate) = shared.config.connects_per_second.filter(|_| self.visits == 0) {
            sleep_until(shared.began + Duration::from_secs_f64(self.number as f64 / rate)).await;
        }
        let _permit = shared.permits.acquire().await?;
        let config = &shared.config;
        let source = config.source(self.number);
        // Each socket of a plain page is a channel.
        let channel = format!("page.{}.{}", self.number, self.visits);
        let numbered = config.is_numbered(self.number);
        let recorder = shared.recorder.clone();
        // In a box for as long as it takes: a million browsers wait in what is left.
        let connect = Box::pin(Peer::connect(address, source, &channel, numbered, recorder));
        self.peer = Some(connect.await?);
        self.visits += 1;
        shared.connected.set(shared.connected.get() + 1);
        Ok(())
    }

    fn gone(&self) {
        let connected = &self.shared.connected;
        connected.set(connected.get().saturating_sub(1));
    }

    fn peer(&mut self) -> Result<&mut Peer> {
        self.peer.as_mut().context("it is not connected")
    }

    /// Hears what comes unasked until it is this phase, or this time.
    async fn listen_until(&mut self, phase: Phase, time: Option<Instant>) -> Result<()> {
        let shared = self.shared.clone();
        let far = Instant::now() + Duration::from_secs(1 << 30);
        let (sent, peer) = (self.sent, self.peer()?);
        loop {
            tokio::select! {
                biased;
                () = shared.reached(phase) => return Ok(()),
                () = sleep_until(time.unwrap_or(far)) => return Ok(()),
                heard = peer.hear(&shared.config.workload, sent) => if let Heard::Closed(code) = heard? {
                    bail!("closed with {code}");
                },
            }
        }
    }

    /// Sends a message that is due at this time, and waits for its answer.
    async fn exchange(&mut self, due: Instant) -> Result<()> {
        let shared = self.shared.clone();
        self.due = Some(due);
        self.sent += 1;
        let number = self.sent;
        let workload = &shared.config.workload;
        let peer = self.peer()?;
        peer.send(&workload.message(number)).await?;
        loop {
            match peer.hear(workload, number).await? {
                Heard::Closed(code) => bail!("closed with {code}"),
                Heard::Message(Verdict::Other, _) => continue,
                Heard::Message(Verdict::Answer, _) => {}
                Heard::Message(Verdict::Error, text) => shared.error(text),
                // What is looked for in the end is judged by that.
                Heard::Message(Verdict::More(_), _) if shared.config.checks => {}
                Heard::Message(Verdict::More(more), _) => shared.tally.borrow_mut().doubled += more,
            }
            break;
        }
        self.due = None;
        shared.answered(due);
        Ok(())
    }

    /// Nothing more is waited for: what was due before the end is late by so much at least.
    fn give_up(&self) {
        let Some(mut due) = self.due else { return };
        let shared = &self.shared;
        // What hangs since before it was measured is wrong as well.
        shared.unanswered(due);
        if let Pace::Rate(rate) = shared.config.pace {
            let interval = interval(&shared.config, rate);
            due += interval;
            while shared.is_before_end(due) {
                if shared.measures(due) {
                    shared.unanswered(due);
                }
                due += interval;
            }
        }
        let reason = format!("no answer in time, such as to message {}", self.sent);
        shared.tally.borrow_mut().note(reason);
    }
}

/// From one message of a browser to its next one, when all together send at this rate.
fn interval(config: &Config, rate: f64) -> Duration {
    Duration::from_secs_f64(config.browsers as f64 / rate)
}
