//! Many sessions in the memory of one worker, all with a committed row, of which one in a hundred is
//! active.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use single_state_tests::DEADLINE;
use tokio::time::{Instant, sleep};

use crate::database::Database;
use crate::load::{self, Measured, Page};
use crate::meter;
use crate::servers::{Cluster, Server};
use crate::table::Table;

const STATE_BYTES: usize = 2048;
/// Each has 28,000 ports for connections that come and go.
const GATEWAYS: usize = 4;
/// Pages that connect at a time.
const CONNECTING: usize = 64;
/// One session of so many is active …
const ACTIVE_OF: usize = 100;
/// … and gets so many messages a second.
const RATE: f64 = 1.0;
const WINDOW: Duration = Duration::from_secs(20);
/// How often the worker is asked for the age of its oldest change.
const LOOK: Duration = Duration::from_millis(250);

/// What the worker has counted at one moment.
struct Counted {
    commits: f64,
    rows: f64,
    seconds: f64,
    /// Saves that took at most so many seconds.
    buckets: Vec<(f64, f64)>,
}

pub(crate) async fn run(sessions: usize) -> Result<Table> {
    let mut table =
        Table::new(format!("{sessions} resident sessions of 2 KiB"), &["figure", "value"]);
    let database = Database::start().await?;
    let cluster = Cluster::start(&database.url(), STATE_BYTES, GATEWAYS, &[]).await?;
    let worker = &cluster.worker;
    let before = memory(worker)?;
    let active = sessions / ACTIVE_OF;
    let began = Instant::now();
    open(&cluster, sessions - active).await?;
    let pages = open_and_stay(&cluster, active).await?;
    row(&mut table, "sessions opened and answered, a second", {
        sessions as f64 / began.elapsed().as_secs_f64()
    });
    let (rows, bytes) = wait_for_rows(&database, sessions).await?;
    let memory_kib = (memory(worker)? - before) / 1024.0 / sessions as f64;
    row(&mut table, "sessions in memory", value(worker, "single_state_sessions_resident").await?);
    row(&mut table, "rows committed", rows);
    row(&mut table, "bytes of a row's snapshot, on average", bytes);
    row(&mut table, "worker's memory, KiB a session", memory_kib);

    let rate = active as f64 * RATE;
    let mut meters = vec![worker.meter()?, database.meter.clone()];
    meters.extend(cluster.gateways.iter().map(Server::meter).collect::<Result<Vec<_>>>()?);
    let ages = RefCell::new(Vec::new());
    let counted = Counted::by(worker).await?;
    let looking = Instant::now();
    let look = watch_ages(worker, &ages);
    let measured = load::run(pages, Some(rate), WINDOW, &meters, look).await?;
    let counted = Counted::by(worker).await?.since(&counted);
    show_activity(&mut table, &measured, &counted, looking.elapsed().as_secs_f64());
    let mut ages = ages.into_inner();
    ages.sort_by(f64::total_cmp);
    row(&mut table, "oldest uncommitted change, s, median", ages[ages.len() / 2]);
    row(&mut table, "oldest uncommitted change, s, longest", ages[ages.len() - 1]);
    table.note(format!(
        "Each session was opened by a real browser's socket through one of {GATEWAYS} gateways, got \
         one message, and was committed; all but {active} then disconnected and stay in memory for \
         --passivate-after, 10 minutes. Then those {active} got {RATE} message a second each. One \
         worker, one PostgreSQL that flushes each commit."
    ));
    Ok(table)
}

fn row(table: &mut Table, figure: &str, value: f64) {
    table.rows.push(vec![figure.into(), value.into()]);
}

fn show_activity(table: &mut Table, measured: &Measured, counted: &Counted, took: f64) {
    row(table, "messages/s", measured.messages() / measured.seconds);
    row(table, "round trip, ms, p50", measured.millis(50.0));
    row(table, "round trip, ms, p99", measured.millis(99.0));
    row(table, "rows committed a second", counted.rows / took);
    row(table, "rows a transaction", counted.rows / counted.commits.max(1.0));
    row(table, "commit, ms, average", 1e3 * counted.seconds / counted.commits.max(1.0));
    row(table, "commit, ms, 99% are below", 1e3 * counted.quantile(0.99));
    for name in ["worker", "PostgreSQL", "gateway"] {
        let share = measured.cpu_us(|of| of == name) * measured.messages() / measured.seconds;
        row(table, &format!("% of a CPU, {name}"), share / 1e4);
    }
}

/// Opens sessions that get one message and lose their page.
async fn open(cluster: &Cluster, sessions: usize) -> Result<()> {
    let (urls, workload, opened) = (cluster.urls(), load::workload(), Cell::new(0));
    let openers = (0..CONNECTING).map(|_| async {
        while opened.get() < sessions {
            let url = &urls[opened.get() % urls.len()];
            opened.set(opened.get() + 1);
            Page::connect(url).await?.append(&workload).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    try_join_all(openers).await.map(drop)
}

async fn open_and_stay(cluster: &Cluster, sessions: usize) -> Result<Vec<Page>> {
    let (urls, workload) = (cluster.urls(), load::workload());
    let mut pages = Vec::with_capacity(sessions);
    for n in 0..sessions {
        let mut page = Page::connect(&urls[n % urls.len()]).await?;
        page.append(&workload).await?;
        pages.push(page);
    }
    Ok(pages)
}

/// Waits until all sessions are committed, and returns how many that are and how long on average.
async fn wait_for_rows(database: &Database, sessions: usize) -> Result<(f64, f64)> {
    let began = Instant::now();
    loop {
        let (rows, bytes) = committed(database).await?;
        if rows >= sessions as f64 {
            return Ok((rows, bytes));
        }
        if began.elapsed() > DEADLINE {
            bail!("the worker has committed {rows} of {sessions} sessions");
        }
        sleep(LOOK).await;
    }
}

/// Rows with a snapshot, and the average length of these.
async fn committed(database: &Database) -> Result<(f64, f64)> {
    let client = database.server.client().await?;
    let text = "SELECT count(*)::float8, coalesce(avg(length(state)), 0)::float8 \
                FROM single_state.session WHERE version > 0";
    let row = client.query_one(text, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

async fn watch_ages(worker: &Server, ages: &RefCell<Vec<f64>>) -> Result<()> {
    let until = Instant::now() + WINDOW;
    while Instant::now() < until {
        let age = value(worker, "single_state_oldest_change_seconds").await?;
        ages.borrow_mut().push(age);
        sleep(LOOK).await;
    }
    Ok(())
}

fn memory(server: &Server) -> Result<f64> {
    let watched = meter::watch(server.id()?);
    Ok(watched.and_then(|watched| watched.memory()).context("it has ended")? as f64)
}

async fn value(server: &Server, name: &str) -> Result<f64> {
    find(&server.metrics().await?, name)
}

fn find(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.parse()?)
}

impl Counted {
    async fn by(worker: &Server) -> Result<Self> {
        let metrics = worker.metrics().await?;
        let bucket = |line: &str| {
            let rest = line.strip_prefix("single_state_commit_seconds_bucket{le=\"")?;
            let (at_most, count) = rest.split_once("\"} ")?;
            let at_most = if at_most == "+Inf" { f64::INFINITY } else { at_most.parse().ok()? };
            Some((at_most, count.parse().ok()?))
        };
        Ok(Self {
            commits: find(&metrics, "single_state_commit_seconds_count")?,
            rows: find(&metrics, "single_state_commit_rows_sum")?,
            seconds: find(&metrics, "single_state_commit_seconds_sum")?,
            buckets: metrics.lines().filter_map(bucket).collect(),
        })
    }

    fn since(self, before: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&before.buckets);
        Self {
            commits: self.commits - before.commits,
            rows: self.rows - before.rows,
            seconds: self.seconds - before.seconds,
            buckets: buckets.map(|((most, now), (_, then))| (*most, now - then)).collect(),
        }
    }

    /// The first bucket's end below which this part of all commits is.
    fn quantile(&self, part: f64) -> f64 {
        let enough = |(_, count): &&(f64, f64)| *count >= part * self.commits;
        self.buckets.iter().find(enough).map_or(0.0, |(most, _)| *most)
    }
}
