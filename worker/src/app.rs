//! An app as a process: flags, listeners, and the life of a worker.

use std::any::Any;
use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use single_state_node::admin::{self, Node};
use single_state_node::link::incarnation;
use single_state_node::shutdown::{Phase, on_signals, reached};
use single_state_node::{exit, log};
use single_state_proto::frame::Hello;
use single_state_proto::id::{Generation, Incarnation};
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::config::{Config, read};
use crate::host::Host;
use crate::link;
use crate::registry::Registry;
use crate::session::Session;
use crate::store::memory::MemoryStore;
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
}

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
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl App {
    /// An app with something that is loaded once for all sessions of a worker, a model for
    /// instance; handlers get it with [`Context::shared`](crate::Context::shared).
    pub fn new<T: Send + Sync + 'static>(shared: T) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// Runs a worker with the flags of the command line until it is told to end.
    ///
    /// Exit codes: 0 clean, 1 failed, 64 bad usage.
    pub fn run<S: Session>(self) -> ExitCode {
        let config = match read(std::env::args_os()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        log::start(config.log_format, &config.log_filter);
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
    let host =
        Host::new(config.index, Rc::new(MemoryStore::default()), shared, config.max_output_bytes);
    let host = Rc::new(Host { max_sessions: config.max_sessions, ..host });
    let registry = Registry::new::<S>(host.clone());
    let (incarnation, kept_alive, ready) = (incarnation(), Arc::default(), Cell::new(true));
    let node = WorkerNode { host, registry, incarnation, kept_alive, ready };
    let node = Rc::new(node);
    let _watchdog = start_watchdog(&node, &config)?;
    tokio::task::spawn_local(admin::serve(admin, node.clone()));
    let index = config.index.0;
    tracing::info!(worker.index = index, listen = %links, admin_listen = %probes, "worker listens");

    let stdin_ended = Rc::new(Notify::new());
    if config.exit_with_stdin {
        watch_stdin(&stdin_ended);
    }
    tokio::select! {
        () = accept(&listener, &node, &config) => {}
        () = reached(&mut phase, Phase::Draining) => {}
        () = stdin_ended.notified() => tracing::info!("standard input ended"),
    }
    node.ready.set(false);
    let lost = node.registry.resident();
    tracing::info!(
        worker.index = index,
        sessions.lost = lost,
        "worker ends, and its memory with it"
    );
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address: address.to_owned(), source })
}

/// Starts to watch over this thread's event loop, which beats from now on.
fn start_watchdog(node: &WorkerNode, config: &Config) -> std::io::Result<Watchdog> {
    let (running, kept_alive) = (node.host.running.clone(), node.kept_alive.clone());
    let blocks = node.host.metrics.blocks.clone();
    let watchdog = watchdog::start(running.clone(), kept_alive, config.block_limits, blocks)?;
    tokio::task::spawn_local(async move {
        loop {
            running.beat();
            tokio::time::sleep(watchdog::BEAT).await;
        }
    });
    Ok(watchdog)
}

/// Accepts gateways for ever.
async fn accept(listener: &TcpListener, node: &Rc<WorkerNode>, config: &Config) {
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
            generation: Generation(0),
            index: config.index,
            incarnation: node.incarnation,
            cluster: config.cluster.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: None,
        };
        let (node, keys) = (node.clone(), config.link_keys.clone());
        tokio::task::spawn_local(async move {
            let (keys, metrics) = (keys.as_ref(), &node.host.metrics);
            let end =
                link::serve(stream, hello, keys, &node.registry, metrics, &node.kept_alive).await;
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
    incarnation: Incarnation,
    /// The links that the watchdog keeps alive.
    kept_alive: Arc<Links>,
    ready: Cell<bool>,
}

impl Node for WorkerNode {
    fn ready(&self) -> Result<(), String> {
        if self.ready.get() { Ok(()) } else { Err("the worker is draining".to_owned()) }
    }

    fn status(&self) -> String {
        json!({
            "index": self.host.index.0,
            "incarnation": self.incarnation.0,
            "sessions": self.registry.resident(),
            "channels": self.host.metrics.channels.get(),
            "links": self.host.metrics.links.get(),
            // Nothing is committed before there is a store that outlives the process.
            "dirty": 0,
            "commits": 0,
        })
        .to_string()
    }

    fn metrics(&self) -> String {
        self.host.metrics.render()
    }
}
