//! Saves of a store alone: as many transactions at a time as a worker has, each of so many rows.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use single_state_proto::id::{Epoch, Generation, Incarnation, WorkerIndex};
use single_state_store::{MAX_BATCH, Owner, Save, Saved, Version};

use crate::database::{Bare, both};
use crate::meter::{self, Cpu, Reading};
use crate::table::Table;

/// How long one figure is measured.
const WINDOW: Duration = Duration::from_millis(1200);
/// A worker's transactions have at most so many bytes, unless one row has more.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
const BATCHES: [usize; 5] = [1, 8, 32, 128, MAX_BATCH];
const KIB: [usize; 2] = [2, 64];

/// The worker that owns all rows.
pub(crate) const OWNER: Owner = Owner {
    index: WorkerIndex(0),
    incarnation: Incarnation(1),
    generation: Generation(1),
    app_version: 1,
};
const EPOCH: Epoch = Epoch(1 << 50);

/// Rows of one length, each saved by one transaction at a time.
pub(crate) struct Rows {
    length: usize,
    versions: Vec<Cell<u64>>,
    /// Contents that take turns.
    states: Vec<Bytes>,
}

/// What one size of transactions has shown.
struct Shown {
    saves: f64,
    seconds: f64,
    /// Time of a transaction.
    median: Duration,
    cpu: Cpu,
}

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new(
        "Saves",
        &["store", "state", "rows a transaction", "saves/s", "p50 ms", "client µs", "database µs"],
    );
    for bare in &both().await? {
        for kib in KIB {
            let rows = Rows::new(kib * 1024);
            rows.fill(bare).await?;
            let mut batches =
                BATCHES.map(|batch| batch.min(MAX_BATCH_BYTES / rows.length)).to_vec();
            batches.dedup();
            for batch in batches {
                let shown = measure(bare, &rows, batch).await?;
                table.rows.push(vec![
                    bare.name.into(),
                    format!("{kib} KiB").into(),
                    batch.to_string().into(),
                    (shown.saves / shown.seconds).into(),
                    (shown.median.as_secs_f64() * 1e3).into(),
                    meter::each(&shown.cpu, 0, shown.saves),
                    meter::each(&shown.cpu, 1, shown.saves),
                ]);
            }
        }
    }
    table.note(
        "CPU µs of each save. States are random bytes; every commit is flushed to the disk. \
         SQLite saves in the client's process, one transaction at a time; PostgreSQL has four at a \
         time, as a worker. A worker's transaction ends at 4 MiB.",
    );
    Ok(table)
}

async fn measure(bare: &Bare, rows: &Rows, batch: usize) -> Result<Shown> {
    let saved = Cell::new(0);
    let times = RefCell::new(Vec::new());
    let parallel = bare.store.parallel_saves();
    let part = rows.versions.len() / parallel;
    let before = Reading::take(&bare.meters)?;
    let start = Instant::now();
    let until = start + WINDOW;
    let slots = (0..parallel).map(|slot| {
        let (saved, times) = (&saved, &times);
        async move {
            let mut at = 0;
            while Instant::now() < until {
                let indexes = (0..batch).map(|n| slot * part + (at + n) % part);
                let saves: Vec<Save> = indexes.map(|index| rows.save(index)).collect();
                let began = Instant::now();
                let outcomes = bare.store.save(&OWNER, &saves).await?;
                ensure!(outcomes.iter().all(|one| *one == Saved::Done), "{outcomes:?}");
                times.borrow_mut().push(began.elapsed());
                saved.set(saved.get() + batch);
                at += batch;
            }
            Ok(())
        }
    });
    try_join_all(slots).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = Reading::take(&bare.meters)?.since(&before);
    let mut times = times.into_inner();
    times.sort_unstable();
    Ok(Shown { saves: saved.get() as f64, seconds, median: times[times.len() / 2], cpu })
}

impl Rows {
    /// Rows of `length` bytes, 64 MiB together but enough that a transaction has no row twice.
    pub(crate) fn new(length: usize) -> Self {
        let count = (64 * 1024 * 1024 / length).clamp(4 * MAX_BATCH, 8192);
        let state = || {
            let mut bytes = vec![0; length];
            // Without entropy they are zeros, which the figures would show.
            let _ = getrandom::fill(&mut bytes);
            Bytes::from(bytes)
        };
        let states = (0..16).map(|_| state()).collect();
        Self { length, versions: (0..count).map(|_| Cell::new(0)).collect(), states }
    }

    pub(crate) fn len(&self) -> usize {
        self.versions.len()
    }

    pub(crate) fn id(&self, index: usize) -> String {
        // As long as ids are that gateways mint, in no order.
        format!("{:016x}-{}", (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), self.length)
    }

    /// The next save of a row.
    fn save(&self, index: usize) -> Save {
        let version = self.versions[index].get() + 1;
        self.versions[index].set(version);
        Save {
            session: self.id(index).parse().expect("it has letters that ids have"),
            epoch: EPOCH,
            version: Version(version),
            codec: 1,
            state: self.states[(index + version as usize) % self.states.len()].clone(),
            wake_at: None,
            kept: Vec::new(),
            first: version == 1,
        }
    }

    /// Makes all rows.
    pub(crate) async fn fill(&self, bare: &Bare) -> Result<()> {
        let indexes: Vec<usize> = (0..self.versions.len()).collect();
        let batch = (MAX_BATCH_BYTES / self.length).clamp(1, MAX_BATCH);
        for indexes in indexes.chunks(batch) {
            let saves: Vec<Save> = indexes.iter().map(|index| self.save(*index)).collect();
            bare.store.save(&OWNER, &saves).await?;
        }
        Ok(())
    }
}
