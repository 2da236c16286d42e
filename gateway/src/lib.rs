//! The gateway: accepts browsers and pins each session to its worker.
//!
//! ```text
//!   browser ═ws═ browser.rs ── channel/ ──── worker_link.rs ══ one TCP, many streams ══ worker
//!      │         one task a    numbers and    one task a
//!    http.rs     browser       keeps inputs   worker; router.rs chooses which
//! ```
//!
//! One thread, many small tasks: nothing is locked, and what a link brings goes straight to its
//! browser's socket. Stateless: any gateway serves any browser. Knows neither app messages nor the
//! database.

mod accept;
mod admission;
mod arrivals;
mod browser;
mod channel;
pub mod config;
mod control;
pub mod create;
pub mod dev;
mod drain;
mod hello;
mod http;
mod identify;
mod loads;
mod metrics;
pub mod operate;
mod origin;
mod pages;
mod router;
mod throttle;
pub mod token;
mod topology;
mod websocket;
mod worker_link;

use std::cell::OnceCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use single_state_node::admin::{self, Node};
use single_state_node::link::incarnation;
use single_state_node::shutdown::{Phase, reached};
use single_state_proto::browser::Limits;
use single_state_proto::limits::{UNACKED_BYTES, UNACKED_MESSAGES};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::accept::Acceptor;
use crate::admission::Admission;
use crate::arrivals::ArrivalLimits;
use crate::channel::{ChannelLimits, Terms};
use crate::config::Config;
use crate::dev::SupervisorHandle;
use crate::drain::{CLOSE_TIMEOUT, DrainOptions, Roster};
use crate::loads::Loads;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::pages::{Pages, client_file};
use crate::router::Router;
use crate::topology::Source;
use crate::websocket::{Closing, MessageLimits};
use crate::worker_link::LinkOptions;

/// What browsers are told when the gateway ends.
const RESTARTS: Closing = Closing { code: 1012, reason: "the gateway restarts; reconnect" };

/// What the tasks of a gateway share.
struct Shared {
    router: Rc<Router>,
    pages: Pages,
    metrics: Rc<Metrics>,
    limits: MessageLimits,
    channel_limits: ChannelLimits,
    admission: Admission,
    arrival_limits: ArrivalLimits,
    drain: DrainOptions,
    roster: Roster,
    terms: Rc<Terms>,
    loads: Rc<Loads>,
    /// How long a client of single-state.v1 may take for its hello; 0 is any.
    hello_timeout: Duration,
    allowed_origins: Vec<Origin>,
    draining: watch::Sender<bool>,
    /// In `gateway dev`: who looks after the workers.
    supervisor: OnceCell<SupervisorHandle>,
}

impl Shared {
    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until the gateway drains.
    async fn drains(&self) {
        // The sender is here.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }
}

/// A gateway that is bound to its addresses.
pub struct Gateway {
    listener: TcpListener,
    admin: TcpListener,
    topology: Source,
    shared: Rc<Shared>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// A gateway was stopped in the middle of its drain: so many browsers did not hear of it.
#[derive(Debug, thiserror::Error)]
#[error("stopped at once: {0} browsers were cut off before they were told to go elsewhere")]
pub struct CutOff(pub usize);

/// Why a gateway cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address is taken or not this machine's.
    #[error("cannot listen on {address} (--listen and --admin-listen choose another address)")]
    Listen {
        /// What was asked for.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Gateway {
    /// Binds both listeners. Browsers are accepted from [`Gateway::run`] on.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let listener = listen(&config.listen).await?;
        let admin = listen(&config.admin_listen).await?;
        let metrics = Rc::new(Metrics::new());
        let options = LinkOptions {
            cluster: config.cluster,
            keys: config.link_keys,
            incarnation: incarnation(),
            park_timeout: config.park_timeout,
        };
        let shared = Shared {
            router: Router::new(config.placement_key, options, metrics.clone()),
            pages: Pages::new(config.home, config.vendor),
            metrics,
            limits: MessageLimits {
                message_bytes: config.max_message_bytes,
                frame_bytes: config.max_frame_bytes,
            },
            channel_limits: config.channel_limits,
            admission: Admission::new(config.admission_limits),
            arrival_limits: config.arrival_limits,
            drain: config.drain,
            roster: Roster::default(),
            loads: Loads::new(config.worker_admins),
            terms: Rc::new(Terms {
                sessions: config.sessions,
                limits: Limits {
                    message_bytes: config.max_message_bytes,
                    frame_bytes: config.max_frame_bytes,
                    unacked_messages: UNACKED_MESSAGES,
                    unacked_bytes: UNACKED_BYTES,
                },
            }),
            hello_timeout: config.hello_timeout,
            allowed_origins: config.allowed_origins,
            draining: watch::Sender::new(false),
            supervisor: OnceCell::new(),
        };
        Ok(Self { listener, admin, topology: config.topology, shared: Rc::new(shared) })
    }

    /// Lets pages of this gateway ask `gateway dev` to kill, drain, start and stop workers.
    #[must_use]
    pub fn obey_pages(self, supervisor: SupervisorHandle) -> Self {
        // Said once, before anything runs.
        let _ = self.shared.supervisor.set(supervisor);
        self
    }

    /// Where browsers connect.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where operators look.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `phase` says to drain: then browsers are sent away with 1012, one after another.
    /// Those that do not answer that in time are gone anyway and no failure. Needs a `LocalSet`.
    pub async fn run(self, mut phase: watch::Receiver<Phase>) -> Result<(), CutOff> {
        let Self { listener, admin, topology, shared } = self;
        tokio::task::spawn_local(admin::serve(admin, shared.clone()));
        shared.router.start();
        let router = shared.router.clone();
        tokio::task::spawn_local(shared.loads.clone().follow(move || router.listed()));
        let router = shared.router.clone();
        tokio::task::spawn_local(topology::follow(topology, move |topology| {
            router.adopt(topology, "the gateway's own source");
        }));
        let mut acceptor = Acceptor::new(shared.clone());
        tokio::select! {
            () = acceptor.run(&listener) => {}
            () = reached(&mut phase, Phase::Draining) => {}
        }
        shared.draining.send_replace(true);
        shared.metrics.draining.set(1);
        drop(listener);
        acceptor.end();
        shared.end(phase).await
    }
}

impl Shared {
    /// Sends everybody away.
    async fn end(&self, mut phase: watch::Receiver<Phase>) -> Result<(), CutOff> {
        let browsers = self.metrics.connections.get();
        let window = self.drain.window(usize::try_from(browsers).unwrap_or_default());
        tracing::info!(browsers, ?window, "gateway drains");
        tokio::select! {
            () = self.roster.send_away(window, RESTARTS) => {}
            () = self.all_gone() => {}
            () = reached(&mut phase, Phase::Stopping) => {}
        }
        let untold = self.roster.untold();
        // Nobody is left to be told; from now on links may end.
        self.router.close_all(RESTARTS.code, RESTARTS.reason);
        tokio::select! {
            () = self.all_gone() => {}
            () = tokio::time::sleep(CLOSE_TIMEOUT) => {
                tracing::warn!(browsers = self.metrics.connections.get(), "did not answer the close");
            }
            () = reached(&mut phase, Phase::Stopping) => {}
        }
        if untold == 0 { Ok(()) } else { Err(CutOff(untold)) }
    }

    async fn all_gone(&self) {
        while self.metrics.connections.get() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn listen(address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError::Listen { address: address.to_owned(), source })
}

impl Node for Shared {
    fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("the gateway is draining".to_owned());
        }
        if self.router.was_up() { Ok(()) } else { Err("no worker has been reached yet".to_owned()) }
    }

    fn status(&self) -> String {
        let topology = self.router.topology();
        json!({
            "generation": topology.as_ref().map(|topology| topology.generation().0),
            "placement": topology.as_ref().map(|topology| topology.placement().to_string()),
            "connections": self.metrics.connections.get(),
            "draining": self.is_draining(),
            "waiting": self.metrics.parked.get(),
            "moving": self.router.moving(),
            "moves": self.metrics.moves(),
            "messages_in": self.metrics.messages_in.get(),
            "messages_out": self.metrics.messages_out.get(),
            "workers": self.router.status(|address| self.loads.of(address)),
            "events": self.router.recent(),
        })
        .to_string()
    }

    fn file(&self, path: &str) -> Option<(&'static str, &'static str)> {
        let page = "status/index.html";
        client_file(if path == "/" { page } else { path.strip_prefix("/client/")? })
    }

    fn metrics(&self) -> String {
        self.metrics.measured(&self.router.measure());
        self.metrics.render()
    }
}
