//! One process of the swarm: its browsers, what they share, and what it tells whoever has started it.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use single_state_tests::DEADLINE;
use single_state_tests::history::{Recorder, now};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::signal::unix::SignalKind;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::config::{Config, Pace};
use crate::life::Life;
use crate::news::{Latencies, News, Part, Phase, Second, Tally};

/// Connections that are being opened at a time.
const CONNECTING: usize = 128;
/// So long browsers at a fixed rate may take for what was due before the end …
const CATCH_UP: Duration = Duration::from_secs(5);
/// … and each of them for looking for its items.
const LOOK: Duration = Duration::from_millis(3);

/// A line for each order.
type Orders = Lines<BufReader<pipe::Receiver>>;

/// What the browsers of a process share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) began: Instant,
    pub(crate) recorder: Recorder,
    pub(crate) permits: Semaphore,
    pub(crate) tally: RefCell<Tally>,
    /// What is due from the one on and before the other is measured.
    window: Cell<(Option<Instant>, Option<Instant>)>,
    phase: watch::Sender<Phase>,
    /// Browsers that are connected now.
    pub(crate) connected: Cell<u64>,
    /// Browsers that are not connected yet, and may still be.
    awaited: Cell<usize>,
    all_there: Notify,
    /// Answers of this second.
    second: RefCell<Latencies>,
}

/// Does what it is told, until it is told to end.
pub(crate) async fn run(config: Config, part: &Part) -> Result<()> {
    // A terminal sends it to all processes; what it means is up to the first one.
    let _ignored = tokio::signal::unix::signal(SignalKind::interrupt())?;
    let recorder = match part.history.as_str() {
        "" => Recorder::default(),
        path => Recorder::create(Path::new(path))?,
    };
    let numbers: Vec<_> = (part.index..config.browsers).step_by(part.count).collect();
    let since = Duration::from_micros(now().saturating_sub(part.began));
    let shared = Rc::new(Shared {
        began: Instant::now().checked_sub(since).context("the machine has just been started")?,
        recorder,
        permits: Semaphore::new(CONNECTING),
        tally: RefCell::default(),
        window: Cell::default(),
        phase: watch::Sender::new(Phase::Connect),
        connected: Cell::new(0),
        awaited: Cell::new(numbers.len()),
        all_there: Notify::new(),
        second: RefCell::default(),
        config,
    });
    let mut lives = JoinSet::new();
    for number in numbers {
        lives.spawn_local(Life::new(number, shared.clone()).run());
    }
    let telling = tokio::task::spawn_local(tell_seconds(shared.clone()));
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut orders = BufReader::new(pipe::Receiver::from_owned_fd(stdin)?).lines();
    tokio::select! {
        () = shared.all_there.notified() => {}
        order = next_order(&mut orders) => bail!("{:?} before all are connected", order?),
    }
    tell(&News::Connected(shared.tally.borrow().clone()))?;
    while *shared.phase.borrow() < Phase::Rest {
        shared.enter(next_order(&mut orders).await?);
    }
    if shared.config.pace != Pace::Idle {
        tokio::select! {
            () = finish(&shared, &mut lives) => {}
            order = next_order(&mut orders) => bail!("{:?} after the end", order?),
        }
    }
    telling.abort();
    shared.recorder.flush()?;
    tell(&News::Ended(shared.tally.take()))
}

/// Browsers look for what they have sent; who is not served in time gives up.
async fn finish(shared: &Shared, lives: &mut JoinSet<()>) {
    let most = match shared.config.pace {
        Pace::Rate(_) => CATCH_UP + LOOK * u32::try_from(lives.len()).unwrap_or(u32::MAX),
        _ => DEADLINE,
    };
    let all = async { while lives.join_next().await.is_some() {} };
    if timeout(most, all).await.is_err() {
        shared.enter(Phase::Over);
        while lives.join_next().await.is_some() {}
    }
}

/// An error when nobody is there any more to give one.
async fn next_order(orders: &mut Orders) -> Result<Phase> {
    let line = orders.next_line().await?.context("the swarm's first process is gone")?;
    Ok(serde_json::from_str(&line)?)
}

async fn tell_seconds(shared: Rc<Shared>) -> Result<()> {
    const SECOND: Duration = Duration::from_secs(1);
    let passed = shared.began.elapsed().as_secs() as u32;
    let mut ticks = interval_at(shared.began + SECOND * (passed + 1), SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let number = (ticks.tick().await - shared.began).as_secs().saturating_sub(1);
        let wrong = {
            let tally = shared.tally.borrow();
            tally.errors + tally.closed
        };
        let (connected, latencies) = (shared.connected.get(), shared.second.take());
        tell(&News::Second(Second { number, connected, wrong, latencies }))?;
    }
}

fn tell(news: &News) -> Result<()> {
    let mut line = serde_json::to_vec(news)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

impl Shared {
    fn enter(&self, phase: Phase) {
        let (from, to) = self.window.get();
        self.window.set(match phase {
            Phase::Measure => (Some(Instant::now()), None),
            Phase::Rest => (from, Some(Instant::now())),
            _ => (from, to),
        });
        self.phase.send_replace(phase);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until it is this phase, or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is here.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Whether what is due at this time is measured.
    pub(crate) fn measures(&self, due: Instant) -> bool {
        self.window.get().0.is_some_and(|from| from <= due) && self.is_before_end(due)
    }

    /// Whether this time is before the end of what is measured.
    pub(crate) fn is_before_end(&self, due: Instant) -> bool {
        self.window.get().1.is_none_or(|to| due < to)
    }

    /// A browser is connected, or will never be.
    pub(crate) fn arrived(&self) {
        self.awaited.set(self.awaited.get() - 1);
        if self.awaited.get() == 0 {
            self.all_there.notify_one();
        }
    }

    /// What was due at this time is answered.
    pub(crate) fn answered(&self, due: Instant) {
        let micros = due.elapsed().as_micros() as u64;
        self.second.borrow_mut().record(micros);
        if self.measures(due) {
            let mut tally = self.tally.borrow_mut();
            tally.round_trips += 1;
            tally.latencies.record(micros);
        }
    }

    /// What was due at this time is given up: it has taken so long at least.
    pub(crate) fn unanswered(&self, due: Instant) {
        let mut tally = self.tally.borrow_mut();
        tally.unanswered += 1;
        tally.latencies.record(due.elapsed().as_micros() as u64);
    }

    pub(crate) fn error(&self, reason: String) {
        let mut tally = self.tally.borrow_mut();
        tally.errors += 1;
        tally.note(reason);
    }

    /// The server has closed a socket.
    pub(crate) fn closed(&self, reason: String) {
        let mut tally = self.tally.borrow_mut();
        tally.closed += 1;
        tally.note(reason);
    }
}
