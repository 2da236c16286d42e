//! A thread beside the event loop: whoever blocks the loop is named, and is no reason for gateways
//! to believe that the worker is dead (R9). A loop that wants a CPU and gets none is not blocked: the
//! machine is overloaded, and a worker less would make it worse.
//!
//! ```text
//!   event loop ──what runs now──▶ running.rs ◀──look── watchdog ──▶ log, metrics, end of the process
//!                                                        └──tend──▶ a sign of life on silent links
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use single_state_node::exit::FAILED;
use single_state_node::link::{Lifeline, TEND};

use crate::running::Running;

/// The event loop beats so often when it has nothing else to do.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// Beats that fail to come are noticed after so long; app code is noticed by itself.
const WITHOUT_BEAT: Duration = Duration::from_secs(1);

const _: () = assert!(2 * BEAT.as_millis() < WITHOUT_BEAT.as_millis());

/// How long the event loop may be blocked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until the log says so.
    pub(crate) warning: Duration,
    /// Until the process ends; `None`: never.
    pub(crate) end: Option<Duration>,
}

/// What the watchdog counts.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    pub(crate) total: Counter,
    pub(crate) seconds: Histogram,
}

/// The links that a watchdog keeps alive.
#[derive(Debug, Default)]
pub(crate) struct Links {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    lifelines: BTreeMap<u64, Lifeline>,
}

/// A link is kept alive until this is dropped.
#[derive(Debug)]
pub(crate) struct KeptAlive<'a> {
    links: &'a Links,
    number: u64,
}

impl Links {
    pub(crate) fn keep(&self, lifeline: Lifeline) -> KeptAlive<'_> {
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        kept.lifelines.insert(number, lifeline);
        KeptAlive { links: self, number }
    }

    fn tend(&self, now: Instant) {
        self.kept().lifelines.values_mut().for_each(|lifeline| lifeline.tend(now));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeptAlive<'_> {
    fn drop(&mut self) {
        self.links.kept().lifelines.remove(&self.number);
    }
}

/// The thread looks until this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    stopped: Arc<AtomicBool>,
}

/// Starts to watch over the event loop of this process, which must beat every [`BEAT`] from now on.
pub(crate) fn start(
    running: Arc<Running>,
    links: Arc<Links>,
    limits: Limits,
    blocks: Blocks,
) -> std::io::Result<Watchdog> {
    let stopped = Arc::new(AtomicBool::new(false));
    let watchdog = Watchdog { stopped: stopped.clone() };
    let mut watch = Watch::new(limits, Instant::now());
    let watched = Thread::this();
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    thread.spawn(move || {
        loop {
            std::thread::sleep(watch.interval());
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let now = Instant::now();
            links.tend(now);
            let turn = running.turn();
            if let Some(news) = watch.look(now, turn, || watched.at_work()) {
                tell(&running, &blocks, turn, news);
            }
        }
    })?;
    Ok(watchdog)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// The thread of the event loop, as the system tells of it.
#[derive(Debug)]
struct Thread {
    stat: PathBuf,
}

impl Thread {
    fn this() -> Self {
        let id = rustix::thread::gettid().as_raw_nonzero();
        Self { stat: format!("/proc/self/task/{id}/stat").into() }
    }

    /// What it has had of a CPU so far, if it has one now or wants one; `None` when it waits for
    /// something else, or where the system does not tell.
    fn at_work(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(&self.stat).ok()?;
        // The name stands in brackets, and may have any in itself: proc_pid_stat(5).
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        if fields.next()? != "R" {
            return None;
        }
        let mut fields = fields.skip(10);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let (user, system) = (ticks()?, ticks()?);
        let second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_millis((user + system) * 1000 / second))
    }
}

/// Counts and logs what a look has brought, and ends the process if it must.
fn tell(running: &Running, blocks: &Blocks, turn: u64, news: News) {
    let who = running.who(turn);
    let session = who.as_ref().map(|(session, _)| session.as_str());
    let handler = who.as_ref().map(|(_, what)| tracing::field::display(what));
    match news {
        News::Blocked(since) => {
            blocks.total.inc();
            let seconds = since.as_secs_f64();
            if Running::is_app(turn) {
                tracing::warn!(
                    session.id = session,
                    handler,
                    seconds,
                    "a handler blocks all sessions of this worker: compute with ctx.compute, and \
                     wait with .await"
                );
            } else {
                tracing::warn!(seconds, "the event loop is blocked, and by no handler");
            }
        }
        News::Over(after) => {
            blocks.seconds.observe(after.as_secs_f64());
            tracing::warn!(seconds = after.as_secs_f64(), "the event loop is free again");
        }
        // It has just ended, at the last moment.
        News::TooLong(_) if running.turn() != turn => {}
        News::TooLong(since) => {
            let seconds = since.as_secs_f64();
            if Running::is_app(turn) {
                tracing::error!(
                    session.id = session,
                    handler,
                    seconds,
                    "the worker ends: a handler has blocked all its sessions for too long \
                     (--block-limit)"
                );
            } else {
                tracing::error!(
                    seconds,
                    "the worker ends: its event loop was blocked for too long, and by no handler \
                     (--block-limit)"
                );
            }
            exit(FAILED.into());
        }
    }
}

/// What a look may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// The loop has been blocked for so long.
    Blocked(Duration),
    /// It was, for so long.
    Over(Duration),
    /// It may not be any longer.
    TooLong(Duration),
}

/// Tells from the turns of the event loop how long it has been blocked. No clock, no threads.
#[derive(Debug)]
struct Watch {
    limits: Limits,
    turn: u64,
    looked: Instant,
    /// For so long the turn has been the same.
    blocked: Duration,
    /// What the loop had had of a CPU at the last look, if it was at work.
    cpu: Option<Duration>,
    told: bool,
}

impl Watch {
    fn new(limits: Limits, now: Instant) -> Self {
        let (blocked, cpu) = (Duration::ZERO, None);
        Self { limits, turn: 0, looked: now, blocked, cpu, told: false }
    }

    /// Time between two looks: a fraction of the shortest time that matters.
    fn interval(&self) -> Duration {
        (self.limits.warning / 4).clamp(Duration::from_millis(5), TEND)
    }

    /// The loop is in `turn` now; `at_work` is asked only when it was there at the last look as well.
    fn look(
        &mut self,
        now: Instant,
        turn: u64,
        at_work: impl FnOnce() -> Option<Duration>,
    ) -> Option<News> {
        // When the looks themselves were late, the whole process was stopped or starved: that is
        // nobody's fault, and as little of it counts as possible.
        let passed = now.saturating_duration_since(self.looked).min(2 * self.interval());
        self.looked = now;
        if turn != self.turn {
            self.turn = turn;
            self.cpu = None;
            let blocked = std::mem::take(&mut self.blocked);
            return std::mem::take(&mut self.told).then_some(News::Over(blocked));
        }
        // A loop that gets no CPU blocks nothing: others do, and to end the process would make it
        // worse. What it got since the last look counts.
        let cpu = at_work();
        self.blocked += match self.cpu.zip(cpu) {
            Some((before, after)) => passed.min(after.saturating_sub(before)),
            None => passed,
        };
        self.cpu = cpu;
        let at_least = if Running::is_app(turn) { Duration::ZERO } else { WITHOUT_BEAT };
        if self.limits.end.is_some_and(|end| self.blocked >= end.max(at_least)) {
            return Some(News::TooLong(self.blocked));
        }
        let blocks = !self.told && self.blocked >= self.limits.warning.max(at_least);
        self.told |= blocks;
        blocks.then_some(News::Blocked(self.blocked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u64 = 2;
    const HANDLER: u64 = 3;

    const LIMITS: Limits =
        Limits { warning: Duration::from_secs(1), end: Some(Duration::from_secs(10)) };

    /// A watch, and a clock that stands still.
    struct Looks {
        watch: Watch,
        now: Instant,
        /// What the loop has had of a CPU, and that it gets one part in so many.
        cpu: Option<(Duration, u32)>,
    }

    impl Looks {
        fn new(limits: Limits) -> Self {
            let now = Instant::now();
            Self { watch: Watch::new(limits, now), now, cpu: None }
        }

        /// Time goes by in which the loop stays in `turn`; the news of it.
        fn pass(&mut self, time: Duration, turn: u64) -> Vec<News> {
            let end = self.now + time;
            let mut news = Vec::new();
            while self.now < end {
                self.now += self.watch.interval();
                let at_work =
                    self.cpu.map(|(had, share)| (had + self.watch.interval() / share, share));
                self.cpu = at_work;
                news.extend(self.watch.look(self.now, turn, || at_work.map(|(had, _)| had)));
            }
            news
        }

        /// The whole process is stopped for a while.
        fn stop(&mut self, time: Duration) {
            self.now += time;
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_handler_that_blocks_is_told_once_and_so_is_its_end() {
        let mut looks = Looks::new(LIMITS);
        assert_eq!(looks.pass(millis(5100), HANDLER), [News::Blocked(millis(1000))]);
        assert_eq!(looks.pass(millis(200), HANDLER + 1), [News::Over(millis(5000))]);
    }

    #[test]
    fn a_loop_that_goes_on_is_not_blocked_however_busy_it_is() {
        let mut looks = Looks::new(LIMITS);
        for turn in 0..100 {
            assert_eq!(looks.pass(millis(900), turn), []);
        }
    }

    #[test]
    fn a_handler_that_blocks_for_too_long_ends_the_process_unless_nothing_is_too_long() {
        let mut looks = Looks::new(LIMITS);
        let news = looks.pass(millis(10_100), HANDLER);
        assert_eq!(news, [News::Blocked(millis(1000)), News::TooLong(millis(10_000))]);
        let mut looks = Looks::new(Limits { end: None, ..LIMITS });
        assert_eq!(looks.pass(millis(100_000), HANDLER).len(), 1);
    }

    #[test]
    fn an_idle_loop_may_wait_for_its_beat_whatever_the_limits() {
        let limits = Limits { warning: millis(20), end: Some(millis(100)) };
        let mut looks = Looks::new(limits);
        for beat in 0..100 {
            assert_eq!(looks.pass(BEAT * 2, IDLE * beat), []);
        }
        assert!(!looks.pass(WITHOUT_BEAT * 2, IDLE).is_empty(), "it beats no more");
    }

    #[test]
    fn a_handler_is_judged_by_the_time_in_which_it_had_a_cpu() {
        let mut looks = Looks::new(LIMITS);
        looks.cpu = Some((Duration::ZERO, 20));
        // The first look does not know yet how much that is.
        assert_eq!(looks.pass(millis(9000), HANDLER), []);
        looks.cpu = Some((Duration::from_secs(9), 1));
        assert!(matches!(looks.pass(millis(9000), HANDLER)[..], [News::Blocked(_)]));
        assert!(matches!(looks.pass(millis(1000), HANDLER)[..], [News::TooLong(_), ..]));
    }

    #[test]
    fn a_thread_is_at_work_when_it_computes_and_not_when_it_waits() -> std::io::Result<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (order, orders) = std::sync::mpsc::channel::<()>();
        let computing =
            std::thread::Builder::new().name("a) R 1 2".to_owned()).spawn(move || {
                let _ = sender.send(Thread::this());
                while orders.try_recv().is_err() {
                    std::hint::black_box(0);
                }
                let _ = orders.recv();
            })?;
        let thread = receiver.recv().expect("it says who it is");
        while thread.at_work() < Some(millis(20)) {
            std::thread::yield_now();
        }
        order.send(()).expect("it listens");
        while thread.at_work().is_some() {
            std::thread::yield_now();
        }
        drop(order);
        computing.join().expect("it ends");
        Ok(())
    }

    #[test]
    fn a_process_that_was_stopped_was_not_blocked() {
        let mut looks = Looks::new(LIMITS);
        for turn in [HANDLER, IDLE] {
            looks.pass(millis(500), turn);
            looks.stop(Duration::from_secs(3600));
            assert_eq!(looks.pass(millis(200), turn), []);
        }
    }
}
