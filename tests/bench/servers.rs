//! Starts the servers that are measured, each with its command line said aloud.

use std::path::Path;

use anyhow::{Context, Result};
use single_state_tests::cluster::http_get;
use single_state_tests::process::{Process, program};
use tempfile::TempDir;
use tokio::process::Command;

use crate::DISK;
use crate::meter::Meter;

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    name: &'static str,
    /// Where browsers or gateways connect.
    pub(crate) address: String,
    admin: Option<String>,
}

/// A worker with gateways before it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) worker: Server,
    pub(crate) gateways: Vec<Server>,
    // Has the key that signs sessions.
    _folder: TempDir,
}

impl Server {
    async fn start(name: &'static str, mut command: Command, message: &str) -> Result<Self> {
        announce(&command);
        // Sessions that come and go are not to fill the memory of the one who reads this.
        command.env("SINGLE_STATE_LOG", "info");
        let process = Process::spawn(name, command)?;
        let line = process.wait_for_message(message).await?;
        let field = |field: &str| line[field].as_str().map(str::to_owned);
        let address = field("listen").context("no address")?;
        Ok(Self { process, name, address, admin: field("admin_listen") })
    }

    /// The stateless server, on a database.
    pub(crate) async fn stateless(database: &str, state_bytes: usize) -> Result<Self> {
        let mut command = Command::new(program("stateless"));
        command.args(["127.0.0.1:0", database]).env("ITEMS_BYTES", state_bytes.to_string());
        Self::start("stateless server", command, "stateless listens").await
    }

    pub(crate) fn id(&self) -> Result<u32> {
        self.process.id().with_context(|| format!("{} has ended", self.name))
    }

    pub(crate) fn meter(&self) -> Result<Meter> {
        Ok(Meter::of(self.name, self.id()?))
    }

    /// What it counts, as it shows it.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let admin = self.admin.as_deref().context("it has no admin listener")?;
        Ok(http_get(admin, "/metrics").await?.1)
    }
}

impl Cluster {
    /// Shipped defaults, but for limits that would measure themselves.
    pub(crate) async fn start(
        store: &str,
        state_bytes: usize,
        gateways: usize,
        worker_flags: &[&str],
    ) -> Result<Self> {
        let folder = TempDir::with_prefix_in("single-state-bench-", DISK)?;
        let mut command = Command::new(program("items-worker"));
        listen(&mut command);
        command.args(["--store", store]).args(worker_flags);
        command.env("ITEMS_BYTES", state_bytes.to_string());
        let worker = Server::start("worker", command, "worker listens").await?;
        let keys = folder.path().join("session-keys");
        std::fs::write(&keys, "5".repeat(64))?;
        let mut cluster = Self { worker, gateways: Vec::new(), _folder: folder };
        for _ in 0..gateways {
            let gateway = cluster.gateway(&keys).await?;
            cluster.gateways.push(gateway);
        }
        Ok(cluster)
    }

    async fn gateway(&self, keys: &Path) -> Result<Server> {
        let mut command = Command::new(program("gateway"));
        command.arg("run");
        listen(&mut command);
        command.args(["--workers", &self.worker.address]);
        command.arg("--session-keys-file").arg(keys);
        for limit in ["messages-per-second", "bytes-per-second", "handshakes-per-second"] {
            command.arg(format!("--max-{limit}=0"));
        }
        Server::start("gateway", command, "gateway listens").await
    }

    pub(crate) fn meters(&self) -> Result<Vec<Meter>> {
        let servers = self.gateways.iter().chain([&self.worker]);
        servers.map(Server::meter).collect()
    }

    /// Where browsers connect, through each gateway.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.gateways.iter().map(|gateway| format!("ws://{}/ws", gateway.address)).collect()
    }
}

fn listen(command: &mut Command) {
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--log-format", "json"]);
}

fn announce(command: &Command) {
    let command = command.as_std();
    let texts = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
        Some(format!("{}={} ", name.to_string_lossy(), value?.to_string_lossy()))
    };
    let variables: String = command.get_envs().filter_map(texts).collect();
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    println!("{variables}{name} {}", args.join(" "));
}
