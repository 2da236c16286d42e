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

    /// Those of one name as one, in the order in which the names come.
    pub(crate) fn by_name(all: Vec<Self>) -> Vec<Self> {
        let mut named: Vec<Self> = Vec::new();
        for one in all {
            match named.iter_mut().find(|known| known.name == one.name) {
                Some(known) => known.pids.extend(one.pids),
                None => named.push(one),
            }
        }
        named
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
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "RssAnon:")
}

/// Memory that the machine could still give, in bytes: what browsers cost in all, sockets too, as far
/// as they and their servers are here.
pub(crate) fn available_memory() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The value of one line of such a file, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
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
    fn processes_of_one_name_count_as_one() {
        let named = |name: &str, pids: &[u32]| Watched { name: name.into(), pids: pids.into() };
        let all = vec![named("gateway", &[1]), named("worker", &[2]), named("gateway", &[3])];
        assert_eq!(Watched::by_name(all), [named("gateway", &[1, 3]), named("worker", &[2])]);
    }

    #[test]
    fn a_process_that_does_not_run_cannot_be_watched() {
        for bad in ["gateway", "gateway=x", "gateway=4294967295"] {
            assert!(bad.parse::<Watched>().is_err(), "{bad}");
        }
    }
}
