//! Browsers that send `append`: each when it has its answer, or at a fixed rate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use single_state_tests::page::{Received, Socket};
use tokio::time::{Instant, sleep, sleep_until};

use crate::meter::{Meter, Reading};
use crate::workload::{Verdict, Workload};

const WARM_UP: Duration = Duration::from_secs(1);
/// Latencies up to a minute, in microseconds, to three digits.
const LONGEST_US: u64 = 60_000_000;

/// A connected browser and how much it has sent.
#[derive(Debug)]
pub(crate) struct Page {
    browser: Socket,
    sent: u64,
}

/// What a run has shown.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) latencies: Histogram<u64>,
    pub(crate) seconds: f64,
    /// CPU time of each meter.
    pub(crate) cpu: Vec<(&'static str, Duration)>,
}

struct Run {
    workload: Workload,
    latencies: RefCell<Histogram<u64>>,
    measuring: Cell<bool>,
    ended: Cell<bool>,
    interval: Option<Duration>,
}

/// Messages of 64 bytes.
pub(crate) fn workload() -> Workload {
    Workload::named("append", 64).expect("there is a workload of this name")
}

impl Page {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        Ok(Self { browser: Socket::connect(url).await?, sent: 0 })
    }

    /// Sends a message and waits for its answer, which must count all of them.
    pub(crate) async fn append(&mut self, workload: &Workload) -> Result<()> {
        self.sent += 1;
        self.browser.send(&workload.message(self.sent)).await?;
        loop {
            match self.browser.receive().await? {
                Received::Closed(code) => bail!("the server has closed the socket: {code}"),
                Received::Message(answer) => match workload.judge(self.sent, &answer) {
                    Verdict::Answer => return Ok(()),
                    Verdict::Other => {}
                    wrong => bail!("{wrong:?}: {}", String::from_utf8_lossy(&answer)),
                },
            }
        }
    }
}

impl Measured {
    pub(crate) fn messages(&self) -> f64 {
        self.latencies.len() as f64
    }

    /// At which so many of a hundred are answered.
    pub(crate) fn millis(&self, percent: f64) -> f64 {
        self.latencies.value_at_percentile(percent) as f64 / 1e3
    }

    /// CPU µs of a message, of those servers for which `which` is true.
    pub(crate) fn cpu_us(&self, which: impl Fn(&str) -> bool) -> f64 {
        let wanted = self.cpu.iter().filter(|(name, _)| which(name));
        wanted.map(|(_, cpu)| cpu.as_secs_f64() * 1e6).sum::<f64>() / self.messages().max(1.0)
    }
}

/// Lets all pages send for `window`: at `rate` messages a second together, else each its next one
/// when it has its answer. Meanwhile `beside` may look at the servers; it ends by itself.
pub(crate) async fn run(
    pages: Vec<Page>,
    rate: Option<f64>,
    window: Duration,
    meters: &[Meter],
    beside: impl Future<Output = Result<()>>,
) -> Result<Measured> {
    let count = pages.len();
    let run = Rc::new(Run {
        workload: workload(),
        latencies: RefCell::new(Histogram::new_with_max(LONGEST_US, 3)?),
        measuring: Cell::new(false),
        ended: Cell::new(false),
        interval: rate.map(|rate| Duration::from_secs_f64(count as f64 / rate)),
    });
    let start = Instant::now();
    let lives = pages.into_iter().enumerate().map(|(n, page)| {
        // At a fixed rate they are spread evenly over the interval.
        let first = start + run.interval.unwrap_or_default().mul_f64(n as f64 / count as f64);
        tokio::task::spawn_local(live(page, run.clone(), first))
    });
    let lives: Vec<_> = lives.collect();
    sleep(WARM_UP).await;
    let before = Reading::take(meters)?;
    let began = Instant::now();
    run.measuring.set(true);
    let (_, looked) = tokio::join!(sleep(window), beside);
    run.measuring.set(false);
    let seconds = began.elapsed().as_secs_f64();
    let cpu = Reading::take(meters)?.since(&before);
    run.ended.set(true);
    looked?;
    for life in try_join_all(lives).await? {
        life?;
    }
    let latencies = run.latencies.borrow().clone();
    Ok(Measured { latencies, seconds, cpu })
}

async fn live(mut page: Page, run: Rc<Run>, mut due: Instant) -> Result<()> {
    while !run.ended.get() {
        match run.interval {
            Some(_) => sleep_until(due).await,
            None => due = Instant::now(),
        }
        page.append(&run.workload).await?;
        if run.measuring.get() {
            let micros = due.elapsed().as_micros() as u64;
            run.latencies.borrow_mut().saturating_record(micros.max(1));
        }
        due += run.interval.unwrap_or_default();
    }
    Ok(())
}
