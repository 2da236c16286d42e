//! A running `gateway dev`: the folder that it runs in, its addresses, its workers' processes.
//!
//! Its workers run a copy of their program. So a test may replace it, and what is built elsewhere
//! while tests run restarts nobody.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::DEADLINE;
use crate::cluster::{Node, http_get};
use crate::process::{Process, program};

/// The demo's page, as `gateway dev` serves it when it is not told of another worker.
const DEMO_PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/client/demo");

/// A folder as the author of an app has it, with a worker program in it: `bin/worker`.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
    is_demo: bool,
}

impl Project {
    /// With the demo's worker.
    pub async fn new() -> Result<Self> {
        let project = Self::with_worker(&program("worker")).await?;
        Ok(Self { is_demo: true, ..project })
    }

    /// With a copy of `program` as its worker.
    pub async fn with_worker(program: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("single-state-project-")?;
        let project = Self { folder, is_demo: false };
        project.install(program).await?;
        Ok(project)
    }

    /// The path of a file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, in one step as editors do; its folder is made.
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.path(name);
        let folder = path.parent().context("a name of a file")?;
        std::fs::create_dir_all(folder)?;
        let next = folder.join(".next");
        std::fs::write(&next, content)?;
        Ok(std::fs::rename(next, path)?)
    }

    /// Puts a copy of `program` in the place of the worker, as a build does: in one step.
    ///
    /// Another process copies. A test that wrote the file itself could not start it for as long as
    /// a child, which another test has just forked, still holds it open for writing.
    pub async fn install(&self, program: &Path) -> Result<()> {
        let folder = self.path("bin");
        std::fs::create_dir_all(&folder)?;
        let next = folder.join(".next");
        let copied = Command::new("cp").arg(program).arg(&next).status().await?;
        ensure!(copied.success(), "copy {}: is it built?", program.display());
        Ok(std::fs::rename(next, folder.join("worker"))?)
    }

    /// A `gateway` command that is run in this folder. The demo's worker has the demo's page, also
    /// where it runs as a copy that the gateway does not know.
    pub fn gateway(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("gateway"));
        command.args(arguments).current_dir(self.folder.path());
        if self.is_demo && arguments.contains(&"--") {
            command.env("SINGLE_STATE_WEB", DEMO_PAGE);
        }
        command
    }

    /// Starts `gateway dev` on free ports, with further flags, for the worker in this folder; waits
    /// until the gateway has reached all workers.
    pub async fn dev(&self, flags: &[&str]) -> Result<Dev> {
        self.dev_of(flags, &["--", "bin/worker"]).await
    }

    /// The same with another command of the workers after the `--`, or none.
    pub async fn dev_of(&self, flags: &[&str], worker: &[&str]) -> Result<Dev> {
        let arguments = [&["dev", "--listen", "127.0.0.1:0"], flags, worker].concat();
        Self::start(self.gateway(&arguments)).await
    }

    /// Starts a `gateway dev` on free ports; waits until the gateway has reached all workers.
    pub async fn start(command: Command) -> Result<Dev> {
        let dev = Self::begin(command).await?;
        dev.wait_until_up().await?;
        Ok(dev)
    }

    /// The same, when it has said its addresses: there may be no workers yet.
    pub async fn begin(command: Command) -> Result<Dev> {
        let process = Process::spawn("gateway dev", command)?;
        let (address, admin) = process.wait_for_line(addresses_in).await?;
        Ok(Dev { gateway: Node { process, address, admin, place: None } })
    }

    /// Runs a `gateway` command that ends by itself: exit code, stdout and stderr.
    pub async fn run(&self, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
        let output = self.gateway(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(DEADLINE, output)
            .await
            .with_context(|| format!("`gateway {}` does not end", arguments.join(" ")))??;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }
}

/// A running `gateway dev`; killed when dropped, whereupon its workers leave by themselves.
#[derive(Debug)]
pub struct Dev {
    /// The process, which is gateway and supervisor in one.
    pub gateway: Node,
}

impl Dev {
    /// Address of a page.
    pub fn page(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address)
    }

    /// Where plain browsers connect, with a query such as `?session=a` or nothing.
    pub fn socket(&self, query: &str) -> String {
        format!("ws://{}/ws{query}", self.gateway.address)
    }

    /// The process number of a worker, of its latest start.
    pub fn worker_process(&self, index: u64) -> Result<u32> {
        let worker = format!("dev | worker {index} is process ");
        let starts = self.starts(&worker);
        starts.last().copied().with_context(|| format!("worker {index} has never been started"))
    }

    /// The process numbers of all workers that were ever started.
    pub fn worker_processes(&self) -> Vec<u32> {
        let indexes = 0..;
        let started =
            indexes.map(|index| self.starts(&format!("dev | worker {index} is process ")));
        started.take_while(|starts| !starts.is_empty()).flatten().collect()
    }

    fn starts(&self, prefix: &str) -> Vec<u32> {
        let output = self.gateway.process.output();
        let numbers = output.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(','));
        numbers.filter_map(|(number, _)| number.parse().ok()).collect()
    }

    /// Waits until a worker's sessions of now are saved. The save that is under way may have begun
    /// before; the one after it has everything, if something is to be saved all the time.
    pub async fn wait_until_saved(&self, index: u64) -> Result<()> {
        let prefix = format!("dev | worker {index} is process ");
        let output = self.gateway.process.output();
        let line = output.lines().rfind(|line| line.starts_with(&prefix)).context("its start")?;
        let (_, admin) = line.split_once("admin http://").context("its admin listener")?;
        let commits = async || -> Result<u64> {
            let (_, body) = http_get(admin, "/status").await?;
            let status: Value = serde_json::from_str(&body)?;
            status["commits"].as_u64().with_context(|| format!("no commits in {status}"))
        };
        let before = commits().await?;
        wait_for(async || {
            ensure!(commits().await? >= before + 2, "nothing was saved twice");
            Ok(())
        })
        .await
    }

    /// Stops it as its user does, and waits until it has ended well; what it printed.
    pub async fn stop(mut self) -> Result<String> {
        self.gateway.process.signal("TERM")?;
        let status = self.gateway.process.wait().await?;
        let output = self.gateway.process.output();
        ensure!(status.success(), "`gateway dev` ended with {status}:\n{output}");
        Ok(output)
    }

    /// Kills a worker as a crash would.
    pub fn kill_worker(&self, index: u64) -> Result<()> {
        let process = self.worker_process(index)?.to_string();
        let killed = std::process::Command::new("kill").args(["-9", &process]).status()?;
        ensure!(killed.success(), "kill worker {index}, process {process}");
        Ok(())
    }

    /// What tells each worker's present process from its earlier ones, by index; null while down.
    pub async fn incarnations(&self) -> Result<Vec<Value>> {
        let status = self.gateway.status().await?;
        let workers = status["workers"].as_array().context("no workers in the status")?;
        Ok(workers.iter().map(|worker| worker["incarnation"].clone()).collect())
    }

    /// Waits until all workers are up in other processes than `before`.
    pub async fn wait_until_rolled(&self, before: &[Value]) -> Result<()> {
        self.wait_for_status(|status| {
            let mut workers = status["workers"].as_array().into_iter().flatten().zip(before);
            workers.all(|(now, before)| now["state"] == "up" && now["incarnation"] != *before)
        })
        .await
    }

    /// Waits until the gateway's status fulfils a condition.
    pub async fn wait_for_status(&self, condition: impl Fn(&Value) -> bool) -> Result<()> {
        wait_for(async || {
            let status = self.gateway.status().await?;
            ensure!(condition(&status), "the status is still {status}");
            Ok(())
        })
        .await
        .with_context(|| format!("the output of `gateway dev`:\n{}", self.gateway.process.output()))
    }

    /// Waits until all workers are up, of which there is one at least.
    pub async fn wait_until_up(&self) -> Result<()> {
        self.wait_for_status(|status| {
            let workers = status["workers"].as_array();
            // There are none before they were started, which may be after a build.
            workers.is_some_and(|workers| {
                !workers.is_empty() && workers.iter().all(|worker| worker["state"] == "up")
            })
        })
        .await
    }
}

/// Addresses of the browsers' and the operators' listeners in the line that `gateway dev` prints.
pub fn addresses_in(line: &str) -> Option<(String, String)> {
    let line = line.strip_prefix("open http://")?;
    let (address, rest) = line.split_once("/ in a browser (for operators: status page http://")?;
    Some((address.to_owned(), rest.strip_suffix("/)")?.to_owned()))
}

/// Whether a process runs: one that has ended but was not yet waited for does not.
pub fn is_running(process: u32) -> bool {
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Waits until none of these processes runs.
pub async fn wait_until_gone(processes: &[u32]) -> Result<()> {
    wait_for(async || {
        let left: Vec<_> = processes.iter().filter(|process| is_running(**process)).collect();
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    })
    .await
}

/// Tries until it succeeds; at the deadline, the last failure says what was missing.
pub async fn wait_for(attempt: impl AsyncFn() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > DEADLINE => bail!("{error:#}"),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}
