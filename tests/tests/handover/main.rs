//! What a worker does with its sessions when gateways come, go, disagree and ask for them back, as
//! a gateway hears it that says exactly what a test wants said.

mod leaving;
mod many;
mod placing;
mod taking;

use std::process::Stdio;

use anyhow::{Context, Result};
use single_state_proto::frame::{Refused, Skipped};
use single_state_proto::id::{Generation, SessionId, StreamId, WorkerIndex};
use single_state_proto::link::Event;
use single_state_proto::placement::{Placement, PlacementKey};
use single_state_proto::topology::Topology;
use single_state_tests::cluster::http_get;
use single_state_tests::peer::Peer;
use single_state_tests::process::{Process, program};
use tempfile::TempDir;
use tokio::process::Command;

/// One worker with the app of the tests.
struct Worker {
    process: Process,
    address: String,
    admin: String,
}

impl Worker {
    async fn start(index: u16, store: &str, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(program("fixture"));
        command.args(["--index", &index.to_string(), "--store", store, "--log-format", "json"]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(flags);
        command.stdin(Stdio::null());
        let process = Process::spawn("worker", command)?;
        let line = process.wait_for_message("worker listens").await?;
        let field = |name: &str| line[name].as_str().map(str::to_owned).context("an address");
        let (address, admin) = (field("listen")?, field("admin_listen")?);
        let worker = Self { process, address, admin };
        single_state_tests::append::wait_until("the store is reached", async || {
            Ok(http_get(&worker.admin, "/readyz").await?.0 == 200)
        })
        .await?;
        Ok(worker)
    }

    /// Sessions in its memory.
    async fn sessions(&self) -> Result<u64> {
        let (_, status) = http_get(&self.admin, "/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        status["sessions"].as_u64().context("a number of sessions")
    }

    /// A metric's line, without its prefix.
    async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = http_get(&self.admin, "/metrics").await?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("single_state_")?.strip_prefix(name));
        line.map_or(Ok(0.0), |value| Ok(value.trim().parse()?))
    }
}

fn sqlite(folder: &TempDir) -> String {
    format!("sqlite:{}/sessions.sqlite", folder.path().display())
}

/// Workers that nobody dials.
fn topology(generation: u64, workers: usize) -> Topology {
    let workers = (0..workers).map(|n| format!("worker-{n}:7000")).collect();
    Topology::new(Generation(generation), Placement::Modulo, workers).expect("a topology")
}

/// A session that belongs to the worker at `index` of so many.
fn session_on(index: u16, workers: usize, name: &str) -> SessionId {
    let topology = topology(1, workers);
    let ids = (0..).map(|n| format!("{name}-{n}").parse().expect("an id"));
    let is_there = |id: &SessionId| {
        topology.owner(&PlacementKey::default(), id, |_| false) == Some(WorkerIndex(index))
    };
    ids.into_iter().find(is_there).expect("some id hashes there")
}

fn skipped(down: &[u16], passed_over: &[u16]) -> Skipped {
    let list = |list: &[u16]| list.iter().copied().map(WorkerIndex).collect();
    Skipped { down: list(down), passed_over: list(passed_over) }
}

/// Whether a stream was attached, or why not.
async fn answer(peer: &mut Peer, stream: StreamId) -> Result<Result<(), Refused>> {
    peer.hears(|event| match event {
        Event::Opened(id, _) if *id == stream => Some(Ok(())),
        Event::Refused(id, refused) if *id == stream => Some(Err(refused.clone())),
        _ => None,
    })
    .await
}

/// The stream is attached.
async fn attached(peer: &mut Peer, stream: StreamId) -> Result<()> {
    match answer(peer, stream).await? {
        Ok(()) => Ok(()),
        Err(refused) => anyhow::bail!("refused: {refused:?}"),
    }
}

/// The stream is not attached.
async fn refused(peer: &mut Peer, stream: StreamId) -> Result<Refused> {
    answer(peer, stream).await?.err().context("it is attached")
}
