//! `gateway topology …`: what operators ask before they change the list of workers, and when they
//! look for a session. Owns what standard output gets and the exit codes. Starts nothing, changes
//! nothing, and never prints the placement key.

mod check;
mod remote;
mod show;

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use single_state_node::exit;
use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;

pub(crate) use self::remote::{AdminUrl, status as status_of};
use crate::topology::Source;

/// A command whose flags are right.
#[derive(Debug)]
pub struct Task {
    pub(crate) source: Source,
    pub(crate) key: PlacementKey,
    pub(crate) json: bool,
    pub(crate) job: Job,
}

#[derive(Debug)]
pub(crate) enum Job {
    Show { sessions: Vec<SessionId>, down: Vec<WorkerIndex> },
    Check { gateway: Option<AdminUrl> },
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Source(String),
    #[error("--gateway {0}")]
    Gateway(AdminUrl, #[source] remote::NoStatus),
    #[error("--down {0}: there is no such worker among {1}")]
    NoWorker(WorkerIndex, usize),
    #[error("cannot write the result")]
    Output(#[from] std::io::Error),
    #[error("cannot begin")]
    System(#[source] std::io::Error),
}

/// Does what was asked, and says whether it was.
pub fn run(task: Task) -> ExitCode {
    match work(task) {
        Ok(true) => ExitCode::from(exit::CLEAN),
        Ok(false) => ExitCode::from(exit::FAILED),
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            // Whoever reads, `head` for instance, has enough.
            ExitCode::from(exit::CLEAN)
        }
        Err(failure) => exit::failed(&failure),
    }
}

/// Whether the answer is a good one.
fn work(Task { source, key, json, job }: Task) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::System)?;
    let topology = runtime.block_on(source.first()).map_err(Failure::Source)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let is_good = match job {
        Job::Show { sessions, down } => {
            let workers = topology.workers().len();
            if let Some(index) = down.iter().find(|index| usize::from(index.0) >= workers) {
                return Err(Failure::NoWorker(*index, workers));
            }
            let shown = show::Shown::new(&topology, &key, &sessions, &down);
            if json { write_json(&shown, &mut out) } else { shown.write(&mut out) }?;
            true
        }
        Job::Check { gateway } => {
            let running = match gateway {
                Some(url) => {
                    let running = runtime.block_on(remote::topology(&url));
                    Some(running.map_err(|error| Failure::Gateway(url, error))?)
                }
                None => None,
            };
            let checked = check::Checked::new(&topology, running.as_ref(), &key);
            if json { write_json(&checked, &mut out) } else { checked.write(&mut out) }?;
            checked.is_good()
        }
    };
    out.flush()?;
    Ok(is_good)
}

fn write_json(document: &impl serde::Serialize, out: &mut impl Write) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}

/// A topology without its workers, in words.
fn summary(topology: &Topology) -> String {
    let (generation, placement) = (topology.generation(), topology.placement());
    let workers = match topology.workers().len() {
        1 => "1 worker".to_owned(),
        workers => format!("{workers} workers"),
    };
    format!("generation {generation}, placement {placement}, {workers}")
}
