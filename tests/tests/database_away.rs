//! Pages append all the time while their database stops, crashes, refuses or has no room. They go on
//! in memory, nothing is acknowledged meanwhile, and afterwards all items are there: once, in order,
//! over sockets that stayed open, in workers that were not restarted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use single_state_tests::append::{
    Appender, Crowd, WINDOW, kill_and_restart, must_survive, wait_until,
};
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::disk::SmallDisk;
use single_state_tests::postgres::{self, TempPostgres};
use tokio::time::{Instant, sleep, timeout};

const PAGES: usize = 20;
/// A page goes so far beyond a save that fails.
const AHEAD: u64 = 256;
/// How long a database is away.
const AWAY: Duration = Duration::from_secs(5);

/// A cluster whose pages append all the time.
struct Scene {
    cluster: Cluster,
    store: String,
    crowd: Crowd,
    incarnations: Vec<Value>,
}

impl Scene {
    async fn begin(store: &str, durability: &str) -> Result<Self> {
        Self::begin_with(Options::default().store(store).worker_flag("--durability", durability))
            .await
    }

    /// A database that does not answer is away after a second.
    async fn hasty(store: &str) -> Result<Self> {
        Self::begin_with(Options::default().store(store).worker_flag("--store-timeout", "1s")).await
    }

    async fn begin_with(options: Options) -> Result<Self> {
        let store = options.store.clone();
        let cluster = Cluster::start(options.worker_flag("--commit-interval", "50ms")).await?;
        let crowd = Crowd::start(Appender::connect_many(&cluster, PAGES).await?);
        let incarnations = incarnations(&cluster).await?;
        let scene = Self { cluster, store, crowd, incarnations };
        scene.crowd.wait_for_more(PAGES as u64 * 5).await?;
        Ok(scene)
    }

    /// Waits until all workers save, or none does.
    async fn wait_until_saving(&self, saving: bool) -> Result<()> {
        for index in 0..self.cluster.workers.len() {
            let is_so = |status: &Value| status["saving"] == saving;
            self.cluster.wait_for_worker_status(index, is_so).await?;
        }
        Ok(())
    }

    async fn commits(&self) -> Result<u64> {
        let mut commits = 0;
        for worker in &self.cluster.workers {
            commits += worker.status().await?["commits"].as_u64().context("a number")?;
        }
        Ok(commits)
    }

    /// A metric of all workers.
    async fn total(&self, metric: &str) -> Result<f64> {
        let mut total = 0.0;
        for worker in &self.cluster.workers {
            total += worker.metric(metric).await?;
        }
        Ok(total)
    }

    /// The database is there again: everything is committed, by the processes that were there.
    async fn end(mut self) -> Result<()> {
        self.wait_until_saving(true).await?;
        self.crowd.wait_for_more(PAGES as u64 * 5).await?;
        let pages = self.crowd.end().await?;
        ensure!(incarnations(&self.cluster).await? == self.incarnations, "a worker was restarted");
        must_survive(&mut self.cluster, &self.store, pages).await
    }
}

/// Connections that stand still, with what they have received and not done.
struct Frozen<'a> {
    server: &'a TempPostgres,
    backends: Vec<i32>,
}

impl<'a> Frozen<'a> {
    /// All that clients have, and none of them within a transaction: one that stands still there
    /// keeps its rows from everybody, and all others wait for it, as they should.
    async fn all(server: &'a TempPostgres) -> Result<Self> {
        let client = server.client().await?;
        let clients = "SELECT pid FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        let locks = "SELECT count(*) FROM pg_locks
            WHERE pid = ANY ($1) AND granted AND locktype IN ('transactionid', 'tuple')";
        loop {
            let backends = client.query(clients, &[]).await?;
            let mut frozen =
                Self { server, backends: backends.iter().map(|row| row.get(0)).collect() };
            // One that its worker has given up may have ended.
            frozen.backends.retain(|pid| server.signal_backend(*pid, "STOP").is_ok());
            if frozen.backends.is_empty() {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            let held = async { client.query_one(locks, &[&frozen.backends]).await?.try_get(0) };
            // No answer: one of them has the server's own locks.
            let held: Option<i64> = timeout(Duration::from_secs(1), held).await.ok().transpose()?;
            if held == Some(0) {
                return Ok(frozen);
            }
            frozen.go_on();
        }
    }

    fn go_on(self) {
        for backend in self.backends {
            self.server.signal_backend(backend, "CONT").ok();
        }
    }
}

/// What tells one start of a worker from another.
async fn incarnations(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut incarnations = Vec::new();
    for worker in &cluster.workers {
        incarnations.push(worker.status().await?["incarnation"].clone());
    }
    Ok(incarnations)
}

#[tokio::test]
async fn pages_go_on_in_memory_while_postgresql_is_stopped_and_wait_when_they_are_far_ahead()
-> Result<()> {
    let server = TempPostgres::start().await?;
    let scene = Scene::begin(&server.url(), "relaxed").await?;
    server.stop_fast().await?;
    let stopped = Instant::now();
    scene.wait_until_saving(false).await?;
    let (counted, commits) = (scene.crowd.counted(), scene.commits().await?);
    scene.crowd.wait_until_stuck().await?;
    let ahead = scene.crowd.counted() - counted;
    // Before, each may have been about to see a few.
    ensure!(ahead <= PAGES as u64 * (AHEAD + WINDOW), "{ahead} messages beyond what can be saved");
    ensure!(ahead > PAGES as u64 * AHEAD / 2, "pages wait after {ahead} messages");
    ensure!(scene.commits().await? == commits, "committed, where?");
    sleep(AWAY.saturating_sub(stopped.elapsed())).await;
    server.restart().await?;
    scene.end().await
}

#[tokio::test]
async fn durable_pages_see_nothing_while_postgresql_is_stopped_and_lose_nothing() -> Result<()> {
    let server = TempPostgres::start().await?;
    let scene = Scene::begin(&server.url(), "durable").await?;
    server.stop_fast().await?;
    scene.wait_until_saving(false).await?;
    // What has left its worker before may be on its way still.
    let before = scene.crowd.counted();
    scene.crowd.wait_until_stuck().await?;
    let counted = scene.crowd.counted();
    ensure!(counted - before <= PAGES as u64 * WINDOW, "pages have seen what is not committed");
    sleep(AWAY / 2).await;
    ensure!(scene.crowd.counted() == counted, "a page has seen what is not committed");
    server.restart().await?;
    scene.end().await
}

#[tokio::test]
async fn nothing_is_lost_when_workers_are_killed_while_postgresql_is_stopped() -> Result<()> {
    let server = TempPostgres::start().await?;
    let mut scene = Scene::begin(&server.url(), "relaxed").await?;
    server.stop_fast().await?;
    scene.wait_until_saving(false).await?;
    // Only gateways have what is appended now.
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    kill_and_restart(&mut scene.cluster).await?;
    scene.incarnations = incarnations(&scene.cluster).await?;
    server.restart().await?;
    scene.end().await
}

#[tokio::test]
async fn nothing_is_lost_when_postgresql_crashes_while_sessions_are_saved() -> Result<()> {
    let server = postgres::Options::default().setting("fsync=on").start().await?;
    let scene = Scene::begin(&server.url(), "durable").await?;
    for _ in 0..3 {
        scene.crowd.wait_for_more(PAGES as u64 * 5).await?;
        server.stop_immediate().await?;
        server.restart().await?;
    }
    scene.end().await
}

#[tokio::test]
async fn nothing_is_lost_when_connections_are_terminated_while_sessions_are_saved() -> Result<()> {
    for durability in ["durable", "relaxed"] {
        let server = TempPostgres::start().await?;
        let scene = Scene::begin(&server.url(), durability).await?;
        let client = server.client().await?;
        let (began, mut terminated) = (Instant::now(), 0);
        // In saves, in their commits and between them.
        while began.elapsed() < AWAY / 2 || terminated < 20 {
            terminated += server.terminate_backends(&client).await?;
            sleep(Duration::from_millis(3)).await;
        }
        scene.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_committed_while_postgresql_is_read_only_and_nothing_is_lost() -> Result<()> {
    let server = TempPostgres::start().await?;
    let scene = Scene::begin(&server.url(), "relaxed").await?;
    server.set_read_only(true).await?;
    scene.wait_until_saving(false).await?;
    let versions = versions(&server).await?;
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    ensure!(self::versions(&server).await? == versions, "saved into a read-only database");
    server.set_read_only(false).await?;
    scene.end().await
}

#[tokio::test]
async fn sessions_whose_rows_are_lost_are_written_again() -> Result<()> {
    let server = TempPostgres::start().await?;
    let scene = Scene::begin(&server.url(), "relaxed").await?;
    // As when a copy of yesterday takes the place of the database.
    server.client().await?.batch_execute("TRUNCATE single_state.session CASCADE").await?;
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    let told = scene.total("single_state_durability_regression_total").await?;
    ensure!(told > 0.0, "nobody is told that commits were lost");
    scene.end().await
}

async fn versions(server: &TempPostgres) -> Result<Vec<(String, i64)>> {
    let query = "SELECT id, version FROM single_state.session ORDER BY id";
    let rows = server.client().await?.query(query, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test]
async fn nothing_is_lost_when_rows_are_locked_for_a_while() -> Result<()> {
    let server = TempPostgres::start().await?;
    let scene = Scene::hasty(&server.url()).await?;
    let client = server.client().await?;
    client.batch_execute("BEGIN; SELECT FROM single_state.session FOR UPDATE").await?;
    scene.wait_until_saving(false).await?;
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    client.batch_execute("ROLLBACK").await?;
    scene.end().await
}

#[tokio::test]
async fn saves_that_arrive_late_overwrite_nothing() -> Result<()> {
    let server = TempPostgres::start().await?;
    let scene = Scene::hasty(&server.url()).await?;
    for _ in 0..3 {
        let failures = scene.total("single_state_save_failures_total").await?;
        // Workers go on over other connections.
        let frozen = Frozen::all(&server).await?;
        // A worker that has just connected once more notices nothing.
        wait_until("a save fails", async || {
            Ok(scene.total("single_state_save_failures_total").await? > failures)
        })
        .await?;
        scene.wait_until_saving(true).await?;
        scene.crowd.wait_for_more(PAGES as u64 * 5).await?;
        frozen.go_on();
        scene.crowd.wait_for_more(PAGES as u64 * 5).await?;
    }
    scene.end().await
}

#[tokio::test]
async fn nothing_is_lost_when_another_process_keeps_sqlites_lock_for_a_while() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.sqlite");
    let scene = Scene::hasty(&format!("sqlite:{}", file.display())).await?;
    // As a worker does that stands still within a transaction.
    let lock = std::fs::File::open(folder.path().join("x.sqlite.lock"))?;
    lock.lock()?;
    scene.wait_until_saving(false).await?;
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    lock.unlock()?;
    scene.end().await
}

#[tokio::test]
async fn nothing_is_lost_when_postgresqls_disk_is_full_for_a_while() -> Result<()> {
    let disk = SmallDisk::mount(160)?;
    let server = postgres::Options::default().within(disk.folder()).start().await?;
    let scene = Scene::begin(&server.url(), "relaxed").await?;
    disk.fill()?;
    scene.wait_until_saving(false).await?;
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    disk.free()?;
    // With no room for its log it ends, and whoever keeps it running starts it again.
    if server.client().await.is_err() {
        server.restart().await?;
    }
    scene.end().await
}

#[tokio::test]
async fn nothing_is_lost_when_sqlites_disk_is_full_for_a_while() -> Result<()> {
    let disk = SmallDisk::mount(16)?;
    let store = format!("sqlite:{}", disk.folder().join("x.sqlite").display());
    let scene = Scene::begin(&store, "relaxed").await?;
    disk.fill()?;
    scene.wait_until_saving(false).await?;
    let commits = scene.commits().await?;
    scene.crowd.wait_for_more(PAGES as u64 * 20).await?;
    ensure!(scene.commits().await? == commits, "committed, where?");
    disk.free()?;
    wait_until("it is saved again", async || Ok(scene.commits().await? > commits)).await?;
    scene.end().await
}
