//! A gateway and its workers as processes of their own, on free ports.

use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::clock::Clocks;
use crate::faults::{Faults, Victim};
use crate::place::Place;
use crate::process::{Process, program};
use crate::{DEADLINE, siphash};

/// The key that all clusters of tests place sessions with.
pub const PLACEMENT_KEY: [u8; 16] = *b"tests place thus";

/// Which version of the app of lists the fixture is: `1` or `2`. It is that app only if this is set.
pub const APP_VERSION: &str = "SINGLE_STATE_TEST_APP_VERSION";

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many workers.
    pub workers: usize,
    /// Their program: the demo's worker, or another app.
    pub worker: PathBuf,
    /// Further flags of the gateway.
    pub gateway_flags: Vec<String>,
    /// File of keys that sign session ids; without one they are unsigned.
    pub session_keys: Option<String>,
    /// Further flags of each worker.
    pub worker_flags: Vec<String>,
    /// Variables of each worker.
    pub worker_variables: Vec<(String, String)>,
    /// Which version of the fixture's app of lists workers run, if their program is the fixture.
    pub app_version: Option<u32>,
    /// Where sessions are kept.
    pub store: String,
    /// What processes do wrong.
    pub faults: Faults,
    /// Wall clocks of the processes; without them they have the machine's.
    pub clocks: Option<Clocks>,
}

impl Default for Options {
    fn default() -> Self {
        let (gateway_flags, worker_flags) = (Vec::new(), Vec::new());
        Self {
            workers: 3,
            worker: program("worker"),
            gateway_flags,
            worker_flags,
            worker_variables: Vec::new(),
            app_version: None,
            session_keys: None,
            store: "memory:".to_owned(),
            faults: Faults::default(),
            clocks: None,
        }
    }
}

impl Options {
    /// The app that the tests have to themselves: `tests/src/bin/fixture/main.rs`.
    pub fn fixture() -> Self {
        Self { worker: program("fixture"), ..Self::default() }
    }

    /// A version of the app of lists: `tests/src/bin/fixture/lists.rs`.
    pub fn lists(version: u32) -> Self {
        Self { app_version: Some(version), ..Self::fixture() }
    }

    /// Session ids are signed with the keys of this file.
    #[must_use]
    pub fn signed(self, file: &str) -> Self {
        Self { session_keys: Some(file.to_owned()), ..self }
    }

    /// Sessions are kept there.
    #[must_use]
    pub fn store(self, url: &str) -> Self {
        Self { store: url.to_owned(), ..self }
    }

    /// The wall clock of the process of this name, if it has one of its own.
    fn give_clock(&self, name: &str, command: &mut Command) -> Result<()> {
        self.clocks.as_ref().map_or(Ok(()), |clocks| clocks.give(name, command))
    }

    /// Adds a flag of the gateway and its value.
    #[must_use]
    pub fn gateway_flag(mut self, flag: &str, value: &str) -> Self {
        self.gateway_flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds a flag of the workers and its value.
    #[must_use]
    pub fn worker_flag(mut self, flag: &str, value: &str) -> Self {
        self.worker_flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Sets a variable of the workers.
    #[must_use]
    pub fn worker_variable(mut self, name: &str, value: &str) -> Self {
        self.worker_variables.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running cluster; all of it is killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The gateway.
    pub gateway: Node,
    /// The workers by index.
    pub workers: Vec<Node>,
    options: Options,
}

/// One process of a cluster and where it listens.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where browsers or gateways connect.
    pub address: String,
    /// Where operators look.
    pub admin: String,
    /// What keeps the address for it while it is away, if it is to come again.
    pub place: Option<Place>,
}

impl Cluster {
    /// Starts all processes and waits until the gateway has reached every worker.
    pub async fn start(options: Options) -> Result<Self> {
        let mut workers = Vec::new();
        for index in 0..options.workers {
            workers.push(start_worker(&options, index, Place::free()?).await?);
        }
        let known = ["--workers", &addresses(&workers)];
        let gateway = start_gateway(&options, Place::free()?, known).await?;
        let cluster = Self { gateway, workers, options };
        for index in 0..cluster.workers.len() {
            cluster.wait_for_worker(index, "up").await?;
        }
        Ok(cluster)
    }

    /// Starts one more gateway for the same workers, and waits until it has reached one of them.
    pub async fn another_gateway(&self) -> Result<Node> {
        let known = ["--workers", &addresses(&self.workers)];
        let gateway = start_gateway(&self.options, Place::free()?, known).await?;
        poll(async || gateway.admin_get("/readyz").await, |(status, _)| *status == 200).await?;
        Ok(gateway)
    }

    /// Where browsers connect, with a query such as `?session=a` or nothing.
    pub fn url(&self, query: &str) -> String {
        format!("ws://{}/ws{query}", self.gateway.address)
    }

    /// Index of the worker to which `session` belongs, by the tests' own arithmetic.
    pub fn owner(&self, session: &str) -> usize {
        home(session, self.workers.len())
    }

    /// An id of a session that belongs to the worker at `index`.
    pub fn session_on(&self, index: usize, name: &str) -> String {
        let ids = (0..).map(|i| format!("{name}-{i}"));
        ids.into_iter().find(|id| self.owner(id) == index).expect("some id hashes there")
    }

    /// Kills a worker as a crash would.
    pub async fn kill_worker(&mut self, index: usize) -> Result<()> {
        self.workers[index].process.kill().await
    }

    /// Starts a worker again at its address, and waits until the gateway has it.
    pub async fn restart_worker(&mut self, index: usize) -> Result<()> {
        self.start_worker_again(index).await?;
        self.wait_for_worker(index, "up").await
    }

    /// Starts a worker again at its address; what awaits it there may end it at once.
    pub async fn start_worker_again(&mut self, index: usize) -> Result<()> {
        let place = self.workers[index].place()?;
        self.workers[index] = start_worker(&self.options, index, place).await?;
        Ok(())
    }

    /// What processes that are started from now on do wrong.
    pub fn set_faults(&mut self, faults: Faults) {
        self.options.faults = faults;
    }

    /// Which version of the fixture's app workers run that are started from now on.
    pub fn set_app_version(&mut self, version: u32) {
        self.options.app_version = Some(version);
    }

    /// Starts a worker at its address that does not get as far as to serve; how it ends.
    pub async fn start_worker_in_vain(&mut self, index: usize) -> Result<ExitStatus> {
        let command = worker_command(&self.options, index, &self.workers[index].address);
        Process::spawn(&format!("worker {index}"), command)?.wait().await
    }

    /// Kills the gateway as a crash would, and starts another one at its address.
    pub async fn replace_gateway(&mut self) -> Result<()> {
        self.gateway.process.kill().await?;
        self.start_gateway_again().await
    }

    /// Starts another gateway at the address of the one that has ended.
    pub async fn start_gateway_again(&mut self) -> Result<()> {
        let known = ["--workers", &addresses(&self.workers)];
        self.gateway = start_gateway(&self.options, self.gateway.place()?, known).await?;
        Ok(())
    }

    /// Waits until the gateway calls a worker `up` or `down`.
    pub async fn wait_for_worker(&self, index: usize, state: &str) -> Result<()> {
        self.wait_for_status(|status| status["workers"][index]["state"] == state).await
    }

    /// Waits until the gateway's status fulfils a condition.
    pub async fn wait_for_status(&self, condition: impl Fn(&Value) -> bool) -> Result<()> {
        poll(async || self.gateway.status().await, condition).await
    }

    /// Waits until a worker's status fulfils a condition.
    pub async fn wait_for_worker_status(
        &self,
        index: usize,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        poll(async || self.workers[index].status().await, condition).await
    }

    /// Waits until a metric of the gateway fulfils a condition.
    pub async fn wait_for_metric(&self, name: &str, condition: impl Fn(f64) -> bool) -> Result<()> {
        self.gateway.wait_for_metric(name, condition).await
    }
}

/// Index of the worker to which `session` belongs while so many are there and none is skipped.
pub fn home(session: &str, workers: usize) -> usize {
    let hash = siphash::siphash24(&PLACEMENT_KEY, session.as_bytes());
    (hash % workers as u64) as usize
}

/// Looks again and again until a condition is fulfilled.
pub(crate) async fn poll<T: std::fmt::Debug>(
    look: impl AsyncFn() -> Result<T>,
    condition: impl Fn(&T) -> bool,
) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let seen = look().await?;
        if condition(&seen) {
            return Ok(());
        }
        if began.elapsed() > DEADLINE {
            bail!("it stays {seen:?}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

impl Node {
    /// Where it is to be started again.
    pub(crate) fn place(&self) -> Result<Place> {
        self.place.clone().context("it has no address that is kept for it")
    }

    /// Its `/status`.
    pub async fn status(&self) -> Result<Value> {
        let (status, body) = self.admin_get("/status").await?;
        if status != 200 {
            bail!("/status answers {status}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// The value of a metric without labels, or with those of `name` as they stand.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = self.admin_get("/metrics").await?;
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no {name} in:\n{body}"))?.parse().context("read a metric")
    }

    /// Waits until a metric without labels, or with those of `name`, fulfils a condition.
    pub async fn wait_for_metric(&self, name: &str, condition: impl Fn(f64) -> bool) -> Result<()> {
        let seen = poll(async || self.metric(name).await, |value| condition(*value)).await;
        seen.with_context(|| name.to_owned())
    }

    /// Status and body of a path of its admin listener.
    pub async fn admin_get(&self, path: &str) -> Result<(u16, String)> {
        http_get(&self.admin, path).await
    }

    /// Status and body of a path of its listener for browsers.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http_get(&self.address, path).await
    }
}

/// Where these workers are, as a list of flags names them.
fn addresses(workers: &[Node]) -> String {
    let addresses: Vec<_> = workers.iter().map(|worker| worker.address.as_str()).collect();
    addresses.join(",")
}

/// Starts a gateway that listens there and knows its workers by this flag.
pub(crate) async fn start_gateway(
    options: &Options,
    place: Place,
    workers: [&str; 2],
) -> Result<Node> {
    let mut command = Command::new(program("gateway"));
    command
        .args(["run", "--listen", place.address(), "--admin-listen", "127.0.0.1:0"])
        .args(["--log-format", "json"])
        .args(["--placement-key", &hex(&PLACEMENT_KEY)])
        .args(workers)
        .args(&options.gateway_flags);
    match &options.session_keys {
        Some(file) => command.args(["--session-keys-file", file]),
        None => command.arg("--unsigned-sessions"),
    };
    options.faults.tell(Victim::Gateway, &mut command);
    options.give_clock("gateway", &mut command)?;
    let node = start_node("gateway", command, "gateway listens").await?;
    options.faults.must_be_known(Victim::Gateway, &node.process).await?;
    Ok(Node { place: Some(place), ..node })
}

/// Starts a worker that listens there.
pub(crate) async fn start_worker(options: &Options, index: usize, place: Place) -> Result<Node> {
    let mut command = worker_command(options, index, place.address());
    let name = format!("worker {index}");
    options.give_clock(&name, &mut command)?;
    let node = start_node(&name, command, "worker listens").await?;
    options.faults.must_be_known(Victim::Worker(index), &node.process).await?;
    Ok(Node { place: Some(place), ..node })
}

fn worker_command(options: &Options, index: usize, address: &str) -> Command {
    let mut command = Command::new(&options.worker);
    command
        .args(["--index", &index.to_string(), "--listen", address])
        .args(["--admin-listen", "127.0.0.1:0", "--log-format", "json"])
        .args(["--store", &options.store])
        .args(["--placement-key", &hex(&PLACEMENT_KEY)]);
    command.args(&options.worker_flags).envs(options.worker_variables.iter().cloned());
    if let Some(version) = options.app_version {
        command.env(APP_VERSION, version.to_string());
    }
    options.faults.tell(Victim::Worker(index), &mut command);
    command
}

/// Starts a process that says with `message` where it listens.
pub async fn start_node(name: &str, command: Command, message: &str) -> Result<Node> {
    let process = Process::spawn(name, command)?;
    let line = process.wait_for_message(message).await?;
    let address = |field: &str| line[field].as_str().map(str::to_owned).context("no address");
    let (address, admin) = (address("listen")?, address("admin_listen")?);
    Ok(Node { process, address, admin, place: None })
}

/// A request of one line and its whole answer.
pub async fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let answer = http(address, &request).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// Sends `request` as it stands and returns what comes until the other side hangs up.
pub async fn http(address: &str, request: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(DEADLINE, exchange).await.context("no end of an HTTP answer")?
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
