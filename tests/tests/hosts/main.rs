//! What `deploy/kubernetes` describes, on hosts of its own: each pod is a process with the command,
//! the arguments, the variables and the files of its rendered manifest, its user and a read-only root,
//! in a network namespace with an address. Only Kubernetes itself is played: its API by a server
//! (`api.rs`), its names by a file of hosts, its Service by a relay (`service.rs`), what it does with
//! pods by each test.
//!
//! ```text
//!   browsers (swarm) ──▶ Service ──▶ gateway-0, gateway-1 ──▶ worker-0 … worker-4 ──▶ postgres
//!                                        │
//!                                        └─ list, watch ──▶ API: spec.replicas
//! ```
//!
//! `SINGLE_STATE_TEST_HOSTS=600` is how many browsers there are in place of a few, and gives
//! everything the time that it has in a cluster; `SINGLE_STATE_TEST_SESSIONS=20000` how many sessions
//! a worker has that is told to end.

mod api;
mod gateways;
mod pod;
mod service;
mod site;
mod swarm;
mod template;
mod workers;
