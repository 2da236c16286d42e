//! One run: connect all, warm up, measure, stop.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use single_state_tests::DEADLINE;
use single_state_tests::history::Recorder;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::peer::{Heard, Peer};
use crate::report::{Process, Report};
use crate::usage::Watched;
use crate::workload::{Verdict, Workload};
use crate::{Config, Pace};

/// Connections that are being opened at a time.
const CONNECTING: usize = 128;
/// Latencies up to a minute, in microseconds, to three digits.
const LONGEST_US: u64 = 60_000_000;
/// How long idle browsers are quiet before memory is read.
const QUIET: Duration = Duration::from_secs(10);

/// What all browsers write into.
struct Shared {
    workload: Workload,
    pace: Pace,
    latencies: RefCell<Histogram<u64>>,
    measuring: Cell<bool>,
    ended: Cell<bool>,
    errors: Cell<u64>,
    closed: Cell<u64>,
    lost: Cell<u64>,
    doubled: Cell<u64>,
    reasons: RefCell<Vec<String>>,
}

/// What each watched process had used at one moment.
struct Sample {
    cpu: Vec<Option<Duration>>,
    at: Instant,
}

/// Runs it; an error means that there is nothing to report.
pub(crate) async fn run(config: &Config) -> Result<Report> {
    let shared = Rc::new(Shared {
        workload: config.workload.clone(),
        pace: config.pace,
        latencies: RefCell::new(Histogram::new_with_max(LONGEST_US, 3)?),
        measuring: Cell::new(false),
        ended: Cell::new(false),
        errors: Cell::new(0),
        closed: Cell::new(0),
        lost: Cell::new(0),
        doubled: Cell::new(0),
        reasons: RefCell::default(),
    });
    let mut watched = config.watched.clone();
    watched.push(Watched::this());
    let memory_before: Vec<_> = watched.iter().map(Watched::memory).collect();
    let recorder = match &config.history {
        Some(path) => Recorder::create(path)?,
        None => Recorder::default(),
    };
    let browsers = connect_all(config, &shared, &recorder).await?;
    let connected = browsers.len();
    let interval = match config.pace {
        Pace::Rate(rate) => Duration::from_secs_f64(connected as f64 / rate),
        Pace::Closed | Pace::Idle => Duration::ZERO,
    };
    let start = Instant::now();
    let mut lives = tokio::task::JoinSet::new();
    for (i, browser) in browsers.into_iter().enumerate() {
        // At a fixed rate the browsers are spread evenly over the interval.
        let first_due = start + interval.mul_f64(i as f64 / connected as f64);
        lives.spawn_local(live(browser, shared.clone(), first_due, interval));
    }
    let quiet = if config.pace == Pace::Idle { QUIET } else { config.warm_up };
    tokio::time::sleep(quiet).await;
    let before = sample(&watched);
    shared.measuring.set(true);
    tokio::time::sleep(config.duration).await;
    shared.measuring.set(false);
    let after = sample(&watched);
    let memory_after: Vec<_> = watched.iter().map(Watched::memory).collect();
    shared.ended.set(true);
    if config.pace != Pace::Idle {
        // Browsers look for what they have sent; who cannot be served would wait for ever.
        let all = async { while lives.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DEADLINE, all).await;
    }
    recorder.flush()?;

    let measured = after.at - before.at;
    let mut report = Report {
        connected,
        round_trips: 0,
        round_trips_per_second: 0.0,
        p50_us: 0,
        p99_us: 0,
        errors: shared.errors.get(),
        closed: shared.closed.get(),
        lost: shared.lost.get(),
        doubled: shared.doubled.get(),
        reasons: shared.reasons.take(),
        processes: Vec::new(),
    };
    report.latencies(&shared.latencies.borrow(), measured);
    for (i, watched) in watched.into_iter().enumerate() {
        let (Some(from), Some(to)) = (before.cpu[i], after.cpu[i]) else { continue };
        let cpu = (to - from).as_secs_f64();
        let grown = memory_after[i].unwrap_or(0).saturating_sub(memory_before[i].unwrap_or(0));
        report.processes.push(Process {
            name: watched.name,
            cpu_us_per_round_trip: cpu * 1e6 / report.round_trips.max(1) as f64,
            cpu_share: cpu / measured.as_secs_f64(),
            bytes_per_browser: grown as f64 / connected as f64,
        });
    }
    Ok(report)
}

fn sample(watched: &[Watched]) -> Sample {
    Sample { cpu: watched.iter().map(Watched::cpu).collect(), at: Instant::now() }
}

async fn connect_all(
    config: &Config,
    shared: &Rc<Shared>,
    recorder: &Recorder,
) -> Result<Vec<Peer>> {
    let permits = Rc::new(Semaphore::new(CONNECTING));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..config.browsers {
        let url = config.urls[i % config.urls.len()].replace("{n}", &i.to_string());
        let (permits, recorder) = (permits.clone(), recorder.clone());
        let numbered = config.protocol.is_numbered(i);
        tasks.spawn_local(async move {
            let _permit = permits.acquire().await?;
            Peer::connect(&url, i, numbered, recorder).await
        });
    }
    let mut browsers = Vec::with_capacity(config.browsers);
    while let Some(connected) = tasks.join_next().await {
        match connected? {
            Ok(browser) => browsers.push(browser),
            Err(error) => {
                shared.errors.set(shared.errors.get() + 1);
                shared.note(format!("cannot connect: {error:#}"));
            }
        }
    }
    if browsers.is_empty() {
        let reasons = shared.reasons.borrow().join("; ");
        anyhow::bail!("none of {} browsers is connected: {reasons}", config.browsers);
    }
    Ok(browsers)
}

/// The life of one browser.
async fn live(mut browser: Peer, shared: Rc<Shared>, mut due: Instant, interval: Duration) {
    for number in 1.. {
        match shared.pace {
            Pace::Idle if number > 2 => return stay(browser, &shared).await,
            Pace::Rate(_) => tokio::time::sleep_until(due).await,
            _ => due = Instant::now(),
        }
        match exchange(&mut browser, &shared, number).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return shared.broken(&format!("{error:#}")),
        }
        if shared.ended.get() {
            return look_for_all(&mut browser, &shared, number).await;
        }
        if shared.measuring.get() {
            let micros = due.elapsed().as_micros() as u64;
            shared.latencies.borrow_mut().saturating_record(micros.max(1));
        }
        due += interval;
    }
}

/// Sends a message and waits for its answer; `false` when the server has closed the socket.
async fn exchange(browser: &mut Peer, shared: &Shared, number: u64) -> Result<bool> {
    browser.send(&shared.workload.message(number)).await?;
    loop {
        match browser.hear(&shared.workload, number).await? {
            Heard::Closed(code) => {
                shared.broken(&format!("closed with {code}"));
                return Ok(false);
            }
            Heard::Message(verdict, answer) => match verdict {
                Verdict::Other => continue,
                Verdict::Answer => {}
                Verdict::Error => {
                    shared.errors.set(shared.errors.get() + 1);
                    shared.note(answer);
                }
                Verdict::Count { expected, found } => {
                    let (lost, doubled) = (&shared.lost, &shared.doubled);
                    lost.set(lost.get() + expected.saturating_sub(found));
                    doubled.set(doubled.get() + found.saturating_sub(expected));
                }
            },
        }
        return Ok(true);
    }
}

/// Sessions that keep what they are sent have all of it, once.
async fn look_for_all(browser: &mut Peer, shared: &Shared, sent: u64) {
    shared.closed.set(shared.closed.get() + browser.closes());
    if !(matches!(shared.workload, Workload::Append { .. }) && browser.looks()) {
        return;
    }
    match browser.items().await {
        Ok(items) => {
            let mut seen = HashSet::new();
            let doubled = items.iter().filter(|item| !seen.insert(item.as_str())).count() as u64;
            let own: HashSet<u64> =
                items.iter().filter_map(|item| browser.number_of(item)).collect();
            let lost = (1..=sent).filter(|number| !own.contains(number)).count() as u64;
            shared.lost.set(shared.lost.get() + lost);
            shared.doubled.set(shared.doubled.get() + doubled);
        }
        Err(error) => {
            shared.errors.set(shared.errors.get() + 1);
            shared.note(format!("look for all items: {error:#}"));
        }
    }
}

/// Answers pings and notices when the server closes the socket.
async fn stay(mut browser: Peer, shared: &Shared) {
    loop {
        match browser.hear(&shared.workload, 0).await {
            Ok(Heard::Message(..)) => {}
            Ok(Heard::Closed(code)) => return shared.broken(&format!("closed with {code}")),
            Err(error) => return shared.broken(&format!("{error:#}")),
        }
    }
}

impl Shared {
    fn broken(&self, reason: &str) {
        if !self.ended.get() {
            self.closed.set(self.closed.get() + 1);
            self.note(reason.to_owned());
        }
    }

    /// Keeps the first few different reasons.
    fn note(&self, reason: String) {
        let mut reasons = self.reasons.borrow_mut();
        if reasons.len() < 10 && !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
}
