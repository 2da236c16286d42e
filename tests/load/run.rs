//! One run: connect all, warm up, measure, stop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::browser::{Browser, Received};
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
    let browsers = connect_all(config, &shared).await?;
    let connected = browsers.len();
    let interval = match config.pace {
        Pace::Rate(rate) => Duration::from_secs_f64(connected as f64 / rate),
        Pace::Closed | Pace::Idle => Duration::ZERO,
    };
    let start = Instant::now();
    for (i, browser) in browsers.into_iter().enumerate() {
        // At a fixed rate the browsers are spread evenly over the interval.
        let first_due = start + interval.mul_f64(i as f64 / connected as f64);
        tokio::task::spawn_local(live(browser, shared.clone(), first_due, interval));
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

async fn connect_all(config: &Config, shared: &Rc<Shared>) -> Result<Vec<Browser>> {
    let permits = Rc::new(Semaphore::new(CONNECTING));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..config.browsers {
        let url = config.urls[i % config.urls.len()].replace("{n}", &i.to_string());
        let permits = permits.clone();
        tasks.spawn_local(async move {
            let _permit = permits.acquire().await?;
            Browser::connect(&url).await
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
async fn live(mut browser: Browser, shared: Rc<Shared>, mut due: Instant, interval: Duration) {
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
            return;
        }
        if shared.measuring.get() {
            let micros = due.elapsed().as_micros() as u64;
            shared.latencies.borrow_mut().saturating_record(micros.max(1));
        }
        due += interval;
    }
}

/// Sends a message and waits for its answer; `false` when the server has closed the socket.
async fn exchange(browser: &mut Browser, shared: &Shared, number: u64) -> Result<bool> {
    browser.send(&shared.workload.message(number)).await?;
    loop {
        match browser.receive().await? {
            Received::Closed(code) => {
                shared.broken(&format!("closed with {code}"));
                return Ok(false);
            }
            Received::Message(answer) => match shared.workload.judge(number, &answer) {
                Verdict::Other => continue,
                Verdict::Answer => {}
                Verdict::Error => {
                    shared.errors.set(shared.errors.get() + 1);
                    shared.note(String::from_utf8_lossy(&answer).chars().take(200).collect());
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

/// Answers pings and notices when the server closes the socket.
async fn stay(mut browser: Browser, shared: &Shared) {
    loop {
        match browser.receive().await {
            Ok(Received::Message(_)) => {}
            Ok(Received::Closed(code)) => return shared.broken(&format!("closed with {code}")),
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
