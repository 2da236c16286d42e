//! `gateway dev`: the local supervisor that starts workers beside the gateway and keeps them going.
//!
//! Owns: the worker processes (ports, environment, process group, output, restarts), the folder where
//! they keep sessions, the build command, and the watches on the workers' program and on the sources.
//! Must not know: browsers, links, topologies, what a session is made of. It only hands out the addresses at which
//! its workers can be reached.
//!
//! ```text
//! sources ── watch ─► build ──┐
//!                             ├─► did the program change? ─► roll ─ restart(i) ─┐
//! program ── watch ───────────┘                                                 ▼
//!                 supervisor ◄── events of its tasks, commands of its SupervisorHandle
//!                     └─ one task per process: signals to its group, output by lines, its end
//! ```
//!
//! The supervisor waits in one place (`next`) and acts in another (`apply`); whatever takes time is
//! a task that ends with an `Event`.
//!
//! Invariant: no process outlives the supervisor. Each is the leader of a process group; a group is
//! ended as a whole, also what its leader left behind. Should the supervisor itself be killed, the
//! workers see the end of their standard input and leave (`SINGLE_STATE_EXIT_WITH_STDIN`).

use std::{ffi::OsString, io, path::PathBuf, time::Duration};

mod backoff;
mod build;
mod data;
mod handle;
mod output;
mod ports;
mod process;
mod program;
mod slot;
mod supervisor;
#[cfg(test)]
mod tests;
mod turn;
mod watch;
mod workers;

pub use handle::SupervisorHandle;
pub use supervisor::Supervisor;

/// Most workers that one machine is asked for.
pub(crate) const MAX_WORKERS: u32 = 64;

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// How many workers there are.
    pub workers: u32,
    /// The workers' command; empty: the program `worker` in the folder of the running program.
    pub command: Vec<OsString>,
    /// Folders in which changes are no changes of the sources: data, pages.
    pub not_sources: Vec<PathBuf>,
    /// The folder where the build runs and whose files are the sources.
    pub project: PathBuf,
    /// The shell command that builds the workers' program, if it shall be run at all.
    pub build: Option<String>,
    /// The folder where the workers keep sessions, if it is to be made.
    pub data: Option<PathBuf>,
    /// The workers' `SINGLE_STATE_STORE`.
    pub store: OsString,
    /// Further environment of the workers; it wins over all that they would get otherwise.
    pub extra_env: Vec<(OsString, OsString)>,
    /// How long a process may take to leave after SIGTERM, before its group gets SIGKILL. A worker
    /// is told to be done with its sessions somewhat earlier.
    pub grace: Duration,
}

impl Default for DevOptions {
    fn default() -> Self {
        Self {
            workers: 3,
            command: Vec::new(),
            not_sources: vec![".single-state".into()],
            project: ".".into(),
            build: None,
            data: None,
            store: "memory:".into(),
            extra_env: Vec::new(),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why the supervisor cannot begin. Each prints as a sentence that says what to do.
///
/// What happens later (a worker dies, a build fails) is no error: it is said on stderr and retried.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// No free ports on this machine.
    #[error("cannot reserve ports on 127.0.0.1 for the workers: {0}")]
    Ports(io::Error),
    /// Sessions cannot be kept in the data folder.
    #[error(
        "sessions cannot be kept in {folder}: {source}; name another folder with --data, \
         or keep none with --store memory:"
    )]
    Data {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The default program is not beside the gateway.
    #[error(
        "there is no worker program at {0}: build it with `cargo build`, \
         or name the command of your own worker after `--`"
    )]
    NoWorkerBeside(PathBuf),
    /// The command after `--` names nothing.
    #[error(
        "the worker command `{0}` was not found: check its name, or build it first \
         (`--build 'cargo build'` does that for you)"
    )]
    NotFound(String),
    /// The command after `--` names something that is no program.
    #[error("the worker command `{0}` is not an executable file: name a program, or `chmod +x` it")]
    NotExecutable(PathBuf),
    /// The system refuses to start it.
    #[error("the worker command `{command}` cannot be started: {source}")]
    Refused {
        /// The program, as it was named.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
}
