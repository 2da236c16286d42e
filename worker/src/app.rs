//! An app as a process: flags, listeners, and the life of a worker.

use std::any::Any;
use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use single_state_faults::{self as faults, Point, Process};
use single_state_node::admin::{self, Node};
use single_state_node::link::incarnation;
use single_state_node::shutdown::{Phase, on_signals, reached};
use single_state_node::{exit, log};
use single_state_proto::frame::{Durability, Hello};
use single_state_proto::id::{Generation, Incarnation};
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL};
use single_state_store::{Owner, StoreError};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::chores;
use crate::clock::Clock;
use crate::config::{Config, read};
use crate::drain::drain;
use crate::history::History;
use crate::host::Host;
use crate::link::Gateways;
use crate::operate;
use crate::panics;
use crate::registry::Registry;
use crate::session::Session;
use crate::watchdog::{self, Links, Watchdog};

/// An app, ready to run as a worker process.
///
/// ```no_run
/// # use single_state_worker::{App, Context, Result, Session};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)] struct Counter;
/// # impl Session for Counter {
/// #     type Message = serde_json::Value;
/// #     async fn handle(&mut self, _: serde_json::Value, _: &mut Context) -> Result<()> { Ok(()) }
/// # }
/// fn main() -> std::process::ExitCode {
///     App::default().run::<Counter>()
/// }
/// ```
pub struct App {
    shared: Arc<dyn Any + Send + Sync>,
    durability: Durability,
}

/// When all is done, gateways may take so long to read what was said and to hang up.
const FAREWELL: Duration = Duration::from_secs(2);

/// While the store is away at the start, it is tried again so often.
const STORE_RETRY: Duration = Duration::from_secs(1);

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl Default for App {
    /// An app whose sessions share nothing.
    fn default() -> Self {
        Self::new(())
    }
}

/// Why a worker cannot begin or go on.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("cannot listen on {address} (--listen and --admin-listen choose another address)")]
    Listen { address: String, source: std::io::Error },
    #[error("cannot write {name} (--history)")]
    History { name: String, source: std::io::Error },
    #[error("the store cannot be used (--store): {0}")]
    Store(String),
    #[error("{0} sessions were not committed in time (--drain-timeout)")]
    Left(usize),
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl App {
    /// An app with something that is loaded once for all sessions of a worker, a model for
    /// instance; handlers get it with [`Context::shared`](crate::Context::shared). Computations on
    /// the pool may have it too, so it is shared between threads.
    pub fn new<T: Send + Sync + 'static>(shared: T) -> Self {
        Self { shared: Arc::new(shared), durability: Durability::Relaxed }
    }

    /// When changes are committed, unless `--durability` says otherwise: `Relaxed` (the default)
    /// within a second, `Durable` before anything of them leaves, `Memory` never.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// Runs a worker with the flags of the command line until it is told to end, or, when its first
    /// argument is `sessions`, a command of operators. `--help` lists the flags; each has a variable
    /// `SINGLE_STATE_…`, by which `gateway dev` tells its workers what they need to know.
    ///
    /// On SIGTERM it hands its sessions over, and ends when they are saved; a second one ends it at
    /// once.
    ///
    /// Exit codes: 0 clean, 1 failed, 64 bad usage.
    pub fn run<S: Session>(self) -> ExitCode {
        if std::env::args_os().nth(1).is_some_and(|first| first == operate::COMMAND) {
            return operate::run(std::env::args_os().skip(1));
        }
        if let Err(code) = faults::start(Process::Worker) {
            return code;
        }
        let config = match read(std::env::args_os(), self.durability) {
            Ok(config) => config,
            Err(code) => return code,
        };
        log::start(config.log_format, &config.log_filter);
        if !config.full_traces {
            panics::shorten_traces();
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return exit::failed(&error),
        };
        let outcome = LocalSet::new().block_on(&runtime, work::<S>(config, self.shared));
        // A computation may still run; it must not keep the process.
        runtime.shutdown_background();
        match outcome {
            Ok(()) => ExitCode::from(exit::CLEAN),
            Err(error) => exit::failed(&error),
        }
    }
}

/// Listens for gateways until a signal, or the end of standard input, ends the worker.
async fn work<S: Session>(
    config: Config,
    shared: Arc<dyn Any + Send + Sync>,
) -> Result<(), RunError> {
    let mut phase = on_signals()?;
    let listener = listen(&config.listen).await?;
    let admin = listen(&config.admin_listen).await?;
    let (links, probes) = (listener.local_addr()?, admin.local_addr()?);
    let node = node::<S>(&config, shared, open_history(&config)?);
    let _watchdog = start_watchdog(&node, &config)?;
    tokio::task::spawn_local(admin::serve(admin, node.clone()));
    let store = match node.host.store.prepare().await {
        Err(StoreError::Unusable(error)) => return Err(RunError::Store(error)),
        store => store,
    };
    faults::point(Point::Starting);
    let index = config.index.0;
    tracing::info!(worker.index = index, listen = %links, admin_listen = %probes, "worker listens");

    if let Some(program) = &config.started_bare {
        tracing::info!(
            "this worker waits for a gateway, and only a gateway serves browsers: to try the app, \
             end it and run `gateway dev -- {program}`"
        );
    }

    start_chores(&node, &config);
    let stdin_ended = Rc::new(Notify::new());
    if config.exit_with_stdin {
        watch_stdin(&stdin_ended);
    }
    let outcome = tokio::select! {
        () = accept(listener, &node, &config) => Ok(()),
        () = reached(&mut phase, Phase::Draining) => Ok(()),
        () = stdin_ended.notified() => {
            tracing::info!("standard input ended");
            Ok(())
        }
        error = reach_store(&node, store) => Err(error),
    };
    node.ready.set(false);
    outcome?;
    tokio::select! {
        ended = end(&node, &config) => ended,
        () = reached(&mut phase, Phase::Stopping) => {
            Err(RunError::Left(node.registry.resident()))
        }
    }
}

/// The worker's parts, with nothing running yet.
fn node<S: Session>(
    config: &Config,
    shared: Arc<dyn Any + Send + Sync>,
    history: History,
) -> Rc<WorkerNode> {
    let incarnation = incarnation();
    let owner = Owner {
        index: config.index,
        incarnation,
        generation: Generation(0),
        app_version: S::VERSION,
    };
    let (store, clock) = (config.store.clone(), Clock::System);
    let host = Rc::new(Host::new(owner, store, shared, config.rules, clock, history));
    let registry = Registry::new::<S>(host.clone(), config.placement_key);
    let (kept_alive, ready): (Arc<Links>, _) = (Arc::default(), Cell::new(false));
    let gateways = Gateways::new(registry.clone(), host.metrics.clone(), kept_alive.clone());
    Rc::new(WorkerNode { host, registry, gateways, incarnation, kept_alive, ready })
}

/// Makes the worker ready once the store is reached. One that is away is waited for while the worker
/// runs; one that cannot be used at all ends it: then, and only then, this returns.
async fn reach_store(node: &WorkerNode, mut reached: Result<(), StoreError>) -> RunError {
    let mut told = false;
    loop {
        match reached {
            Ok(()) => break,
            Err(StoreError::Unusable(error)) => return RunError::Store(error),
            Err(StoreError::Away(error)) if !told => {
                told = true;
                tracing::warn!(error, "the store is away; the worker waits for it");
            }
            Err(StoreError::Away(_)) => {}
        }
        tokio::time::sleep(STORE_RETRY).await;
        reached = node.host.store.prepare().await;
    }
    tracing::info!("the store is there");
    node.ready.set(true);
    std::future::pending().await
}

/// What goes on for as long as the worker runs.
fn start_chores(node: &WorkerNode, config: &Config) {
    let registry = &node.registry;
    let chores::Lifetimes { idle, memory_budget, session } = config.lifetimes;
    tokio::task::spawn_local(node.host.committer.clone().run());
    tokio::task::spawn_local(chores::passivate(registry.clone(), idle));
    tokio::task::spawn_local(chores::keep_budget(registry.clone(), memory_budget));
    tokio::task::spawn_local(chores::wake_due(registry.clone()));
    tokio::task::spawn_local(chores::expire(registry.clone(), session));
    tokio::task::spawn_local(chores::hand_back(registry.clone()));
}

/// Commits all sessions and gives them up, and lets the gateways hear of it.
async fn end(node: &WorkerNode, config: &Config) -> Result<(), RunError> {
    let (index, sessions) = (config.index.0, node.registry.resident());
    node.gateways.go_away();
    let left = if config.rules.ephemeral {
        tracing::info!(worker.index = index, sessions, "worker ends, and its memory with it");
        0
    } else {
        tracing::info!(worker.index = index, sessions, "worker drains");
        drain(&node.registry, config.drain_timeout).await
    };
    if tokio::time::timeout(FAREWELL, node.gateways.finish()).await.is_err() {
        tracing::warn!(links = node.host.metrics.links.get(), "gateways have not hung up in time");
    }
    if left == 0 { Ok(()) } else { Err(RunError::Left(left)) }
}

fn open_history(config: &Config) -> Result<History, RunError> {
    let Some(name) = &config.history else { return Ok(History::default()) };
    let failed = |source| RunError::History { name: name.clone(), source };
    History::open(name, config.index).map_err(failed)
}

async fn listen(address: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address: address.to_owned(), source })
}

/// Starts to watch over this thread's event loop, which beats from now on.
fn start_watchdog(node: &WorkerNode, config: &Config) -> std::io::Result<Watchdog> {
    let (host, kept_alive) = (node.host.clone(), node.kept_alive.clone());
    let running = host.running.clone();
    let blocks = node.host.metrics.blocks.clone();
    let watchdog = watchdog::start(running.clone(), kept_alive, config.block_limits, blocks)?;
    tokio::task::spawn_local(async move {
        loop {
            running.beat();
            host.beat();
            tokio::time::sleep(watchdog::BEAT).await;
        }
    });
    Ok(watchdog)
}

/// Accepts gateways for ever.
async fn accept(listener: TcpListener, node: &Rc<WorkerNode>, config: &Config) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: wait for some to come back.
                tracing::warn!(%error, "accept a gateway");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let hello = Hello {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            max_message: MAX_MESSAGE,
            generation: node.registry.map.generation(),
            index: config.index,
            incarnation: node.incarnation,
            cluster: config.cluster.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: None,
        };
        let (node, keys) = (node.clone(), config.link_keys.clone());
        tokio::task::spawn_local(async move {
            let end = node.gateways.serve(stream, hello, keys.as_ref()).await;
            tracing::info!(reason = %end, "gateway's link ended");
        });
    }
}

/// Tells when standard input ends, from a thread of its own: a read of it cannot be given up.
fn watch_stdin(ended: &Rc<Notify>) {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // Whatever stands there, and however it ends: it is over.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(sender);
    });
    let ended = ended.clone();
    tokio::task::spawn_local(async move {
        let _ = receiver.await;
        ended.notify_one();
    });
}

/// What a worker tells operators.
struct WorkerNode {
    host: Rc<Host>,
    registry: Rc<Registry>,
    gateways: Gateways,
    incarnation: Incarnation,
    /// The links that the watchdog keeps alive.
    kept_alive: Arc<Links>,
    ready: Cell<bool>,
}

impl Node for WorkerNode {
    fn ready(&self) -> Result<(), String> {
        let why = "the worker is draining, or has not reached its store yet";
        if self.ready.get() { Ok(()) } else { Err(why.to_owned()) }
    }

    fn status(&self) -> String {
        let census = self.registry.census();
        json!({
            "index": self.host.index.0,
            "incarnation": self.incarnation.0,
            "sessions": self.registry.resident(),
            "channels": self.host.metrics.channels.get(),
            "links": self.host.metrics.links.get(),
            "dirty": census.dirty,
            "oldest_change_ms": census.oldest_change().as_millis() as u64,
            "commits": self.host.metrics.commits.get(),
            "saving": !self.host.committer.is_failing(),
        })
        .to_string()
    }

    fn metrics(&self) -> String {
        self.host.metrics.measured(&self.registry.census(), self.gateways.queued());
        self.host.metrics.render()
    }
}
