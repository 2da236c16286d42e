//! What processes use of CPU and memory, from `/proc`.

use std::fs;
use std::str::FromStr;
use std::time::Duration;

/// A process, or several that count as one, by the name that the report gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pids: Vec<u32>,
}

/// A text that is not `NAME=PID`.
#[derive(Debug, thiserror::Error)]
#[error("give NAME=PID of a process that runs")]
pub(crate) struct NotAProcess;

impl FromStr for Watched {
    type Err = NotAProcess;

    fn from_str(text: &str) -> Result<Self, NotAProcess> {
        let (name, pid) = text.split_once('=').ok_or(NotAProcess)?;
        let pids = vec![pid.parse().map_err(|_| NotAProcess)?];
        let watched = Self { name: name.to_owned(), pids };
        watched.cpu().map(|_| watched).ok_or(NotAProcess)
    }
}

impl Watched {
    /// This process itself.
    pub(crate) fn this() -> Self {
        Self { name: "swarm".to_owned(), pids: vec![std::process::id()] }
    }

    /// … and others that count with it.
    pub(crate) fn with(mut self, pids: impl Iterator<Item = u32>) -> Self {
        self.pids.extend(pids);
        self
    }

    /// CPU time of all its threads so far, user and system; `None` when it is gone.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.pids.iter().map(|pid| cpu(*pid)).sum()
    }

    /// Anonymous memory that is in RAM, in bytes: what the process itself has filled.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.pids.iter().map(|pid| memory(*pid)).sum()
    }
}

fn cpu(pid: u32) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanos = tasks.flatten().filter_map(|task| {
        // The first field is the time on a CPU, in nanoseconds.
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanos.sum()))
}

fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let this = Watched::this();
        assert!(this.cpu().unwrap() > Duration::ZERO);
        assert!(this.memory().unwrap() > 100_000);
    }

    #[test]
    fn a_process_that_does_not_run_cannot_be_watched() {
        for bad in ["gateway", "gateway=x", "gateway=4294967295"] {
            assert!(bad.parse::<Watched>().is_err(), "{bad}");
        }
    }
}
