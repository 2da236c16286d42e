//! The cluster that suffers: two gateways, workers, a database that can be done everything to, and
//! browsers that append.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use single_state_tests::clock::Clocks;
use single_state_tests::cluster::Options;
use single_state_tests::disk::SmallDisk;
use single_state_tests::fleet::{Fleet, Plan};
use single_state_tests::history::Recorder;
use single_state_tests::postgres::{self, Pair};
use single_state_tests::visitors::{Visit, Visitors};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::nemesis::config::{Config, Store};
use crate::nemesis::kind::{Kind, Need};

const GATEWAYS: usize = 2;
/// The app's newer version, and the older one.
pub(crate) const NEWER: u32 = 2;
pub(crate) const OLDER: u32 = 1;
/// Megabytes of a disk that can be full.
const DISK: usize = 256;
/// Faults come fast, and so a database that does not answer is away sooner than by default.
const STORE_TIMEOUT: &str = "2s";
/// … and gateways have little time to send their browsers away.
const DRAIN_TIMEOUT: &str = "5s";

/// All of it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) visitors: Visitors,
    pub(crate) database: Database,
    pub(crate) clocks: Option<Clocks>,
    pub(crate) held: Held,
    folder: TempDir,
}

/// Where sessions are kept.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite {
        file: PathBuf,
        disk: Option<SmallDisk>,
    },
    Postgres {
        pair: Box<Pair>,
        /// The primary's comes first.
        disks: VecDeque<SmallDisk>,
    },
}

/// What somebody else has locked.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) file: Option<File>,
    pub(crate) rows: Option<Client>,
}

impl Stage {
    /// Starts everything, with so many workers.
    pub(crate) async fn set(config: &Config, workers: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let needs = |need| config.kinds.iter().any(|kind: &Kind| kind.need() == need);
        let disk = || needs(Need::Root).then(|| SmallDisk::mount(DISK)).transpose();
        let (database, url) = match config.store {
            Store::Sqlite => {
                let disk = disk()?;
                let within = disk.as_ref().map_or(folder.path(), SmallDisk::folder);
                let file = within.join("sessions.sqlite");
                let url = format!("sqlite:{}", file.display());
                (Database::Sqlite { file, disk }, url)
            }
            Store::Postgres => {
                let disks: VecDeque<_> = disk()?.into_iter().chain(disk()?).collect();
                let pair = Pair::start([server_on(disks.front()), server_on(disks.back())]).await?;
                let url = pair.primary().url();
                (Database::Postgres { pair: Box::new(pair), disks }, url)
            }
        };
        let clocks = needs(Need::Clocks).then(|| Clocks::within(folder.path())).transpose()?;
        let history = folder.path().join("worker-%i-%p.jsonl");
        let mut options = Options { workers, ..Options::lists(NEWER) }
            .store(&url)
            .signed(&session_keys(&folder)?)
            .gateway_flag("--drain-timeout", DRAIN_TIMEOUT)
            .worker_flag("--store-timeout", STORE_TIMEOUT)
            .worker_flag("--durability", &config.durability)
            .worker_flag("--history", &history.to_string_lossy());
        options.clocks.clone_from(&clocks);
        let plan = Plan {
            options,
            gateways: GATEWAYS,
            has_proxies: true,
            has_store_proxies: config.store == Store::Postgres,
            has_browser_proxies: true,
        };
        let fleet = Fleet::start(plan).await.context("start a cluster")?;
        let recorder = Recorder::create(&folder.path().join("browsers.jsonl"))?;
        let visits = visits(&fleet, config.browsers);
        let mut visitors = Visitors::arrive(visits, config.pace, recorder).await?;
        visitors.wait_for_beats(1).await?;
        Ok(Self { fleet, visitors, database, clocks, held: Held::default(), folder })
    }

    /// What everybody has written.
    pub(crate) fn histories(&self) -> Result<Vec<PathBuf>> {
        let is_history = |path: &PathBuf| path.extension().is_some_and(|name| name == "jsonl");
        let entries = std::fs::read_dir(self.folder.path())?.flatten();
        Ok(entries.map(|entry| entry.path()).filter(is_history).collect())
    }

    /// Keeps what the processes that run now have printed, for whoever looks for a mistake.
    pub(crate) fn keep_logs(&self, folder: &std::path::Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let named = |name: &'static str, nodes: &[single_state_tests::cluster::Node]| {
            for (index, node) in nodes.iter().enumerate() {
                std::fs::write(folder.join(format!("{name}-{index}.log")), node.process.output())?;
            }
            anyhow::Ok(())
        };
        named("gateway", &self.fleet.gateways)?;
        named("worker", &self.fleet.workers)?;
        if let Database::Postgres { pair, .. } = &self.database {
            std::fs::write(folder.join("postgres.log"), pair.primary().log())?;
        }
        for file in self.histories()? {
            std::fs::copy(&file, folder.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// A server with its files on this disk.
pub(crate) fn server_on(disk: Option<&SmallDisk>) -> postgres::Options {
    // By default its log may become larger than the disk.
    let options = postgres::Options::default().setting("max_wal_size=32MB");
    // While its standby is away, a primary commits nothing: by default it looks for it each 5 s.
    let options = options.setting("wal_retrieve_retry_interval=100ms");
    match disk {
        Some(disk) => options.within(disk.folder()),
        None => options,
    }
}

fn session_keys(folder: &TempDir) -> Result<String> {
    let file = folder.path().join("session-keys");
    std::fs::write(&file, "5e".repeat(32))?;
    Ok(file.to_string_lossy().into_owned())
}

/// Half of the browsers are plain pages. All know both gateways, and have a session of their own.
fn visits(fleet: &Fleet, count: usize) -> Vec<Visit> {
    let visit = |number: usize| {
        let urls = (0..GATEWAYS).map(|next| fleet.url((number / 2 + next) % GATEWAYS, ""));
        Visit {
            name: format!("b{number}"),
            urls: urls.collect(),
            is_numbered: number % 2 == 1,
            // The count of a list does not tell a page that has come back what it has lost.
            is_alone: false,
            comes_back: true,
        }
    };
    (0..count).map(visit).collect()
}
