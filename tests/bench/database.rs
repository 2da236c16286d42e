//! The stores that are measured: a PostgreSQL that keeps its promises, and a file of SQLite, both on
//! a disk.

use std::path::Path;

use anyhow::{Context, Result};
use single_state_store::{Settings, SharedStore, open};
use single_state_tests::postgres::{Options, TempPostgres};
use tempfile::TempDir;

use crate::DISK;
use crate::meter::{self, Meter};

/// What differs from the tests' server, which may lose everything: PostgreSQL's own defaults.
const SETTINGS: [&str; 4] =
    ["fsync=on", "shared_buffers=128MB", "max_wal_size=1GB", "min_wal_size=80MB"];

/// A PostgreSQL of the bench's own.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) server: TempPostgres,
    pub(crate) meter: Meter,
}

impl Database {
    pub(crate) async fn start() -> Result<Self> {
        println!("postgres -c {}", SETTINGS.join(" -c "));
        let options = Options::default().within(Path::new(DISK));
        let server = SETTINGS.iter().fold(options, |options, one| options.setting(one));
        let server = server.start().await?;
        let client = server.client().await?;
        let fsync: String = client.query_one("SHOW fsync", &[]).await?.try_get(0)?;
        anyhow::ensure!(fsync == "on", "PostgreSQL does not flush");
        let process: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
        let first = meter::parent(u32::try_from(process)?)?;
        let meter = Meter::of_family("PostgreSQL", first);
        Ok(Self { server, meter })
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}

/// A store by itself, without workers.
pub(crate) struct Bare {
    pub(crate) name: &'static str,
    pub(crate) store: SharedStore,
    /// Of the client, which is this process, and of the database where it has processes.
    pub(crate) meters: Vec<Meter>,
    // Ends before its folder is removed.
    _database: Option<Database>,
    _folder: Option<TempDir>,
}

/// Both kinds, with the settings that workers have by default.
pub(crate) async fn both() -> Result<[Bare; 2]> {
    let folder = TempDir::with_prefix_in("single-state-bench-", DISK)?;
    let sqlite = format!("sqlite:{}", folder.path().join("sessions.sqlite").display());
    let database = Database::start().await?;
    let postgres = database.url();
    let client = Meter::of("client", std::process::id());
    Ok([
        Bare {
            name: "SQLite",
            store: prepared(&sqlite).await?,
            meters: vec![client.clone()],
            _database: None,
            _folder: Some(folder),
        },
        Bare {
            name: "PostgreSQL",
            store: prepared(&postgres).await?,
            meters: vec![client, database.meter.clone()],
            _database: Some(database),
            _folder: None,
        },
    ])
}

async fn prepared(url: &str) -> Result<SharedStore> {
    let store = open(url, Settings::default())?;
    store.prepare().await.context("prepare the store")?;
    Ok(store)
}
