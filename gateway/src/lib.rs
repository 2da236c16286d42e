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

mod admission;
mod browser;
mod channel;
pub mod config;
pub mod dev;
mod hello;
mod http;
mod identify;
mod metrics;
mod origin;
mod pages;
mod router;
mod throttle;
mod token;
mod websocket;
mod worker_link;

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

use crate::admission::Admission;
use crate::channel::{ChannelLimits, Terms};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::pages::Pages;
use crate::router::Router;
use crate::websocket::{Closing, MessageLimits};
use crate::worker_link::{LinkOptions, WorkerLink};

/// How long browsers have to answer the close that a draining gateway sends them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

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
    terms: Rc<Terms>,
    /// How long a client of single-state.v1 may take for its hello; 0 is any.
    hello_timeout: Duration,
    allowed_origins: Vec<Origin>,
    draining: watch::Sender<bool>,
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
    shared: Rc<Shared>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("listener", &self.listener).finish_non_exhaustive()
    }
}

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
            topology: config.topology.clone(),
            incarnation: incarnation(),
            park_timeout: config.park_timeout,
        };
        let shared = Shared {
            router: Rc::new(Router::new(config.topology, config.placement_key, &options, &metrics)),
            pages: Pages::new(config.web, config.vendor),
            metrics,
            limits: MessageLimits {
                message_bytes: config.max_message_bytes,
                frame_bytes: config.max_frame_bytes,
            },
            channel_limits: config.channel_limits,
            admission: Admission::new(config.admission_limits),
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
        };
        Ok(Self { listener, admin, shared: Rc::new(shared) })
    }

    /// Where browsers connect.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where operators look.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `phase` says to drain: then browsers are sent away with 1012. Needs a
    /// `LocalSet`.
    pub async fn run(self, mut phase: watch::Receiver<Phase>) {
        let Self { listener, admin, shared } = self;
        tokio::task::spawn_local(admin::serve(admin, shared.clone()));
        shared.router.start();
        tokio::task::spawn_local(shared.router.clone().check_idle());
        tokio::select! {
            () = http::accept(&listener, &shared) => {}
            () = reached(&mut phase, Phase::Draining) => {}
        }
        drop(listener);
        shared.draining.send_replace(true);
        shared.router.close_all(RESTARTS.code, RESTARTS.reason);
        let all_gone = async {
            while shared.metrics.connections.get() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = all_gone => {}
            () = tokio::time::sleep(CLOSE_TIMEOUT) => {}
            () = reached(&mut phase, Phase::Stopping) => {}
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
        let mut workers = self.router.workers().iter();
        if workers.any(|worker| worker.was_up()) {
            Ok(())
        } else {
            Err("no worker has been reached yet".to_owned())
        }
    }

    fn status(&self) -> String {
        let workers: Vec<_> = self.router.workers().iter().map(|w| WorkerLink::status(w)).collect();
        json!({
            "generation": self.router.topology().generation().0,
            "placement": self.router.topology().placement().to_string(),
            "connections": self.metrics.connections.get(),
            "draining": self.is_draining(),
            "workers": workers,
        })
        .to_string()
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}
