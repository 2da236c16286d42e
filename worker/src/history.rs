//! What a worker does with its sessions, a line of JSON for each thing (`--history FILE`): for the
//! checker of the tests, `tests/src/history.rs`, where the lines are described. Knows no checks.
//!
//! Lines are written as they happen and before anything of them can be seen outside, so that a
//! worker that is killed has written all that anybody has heard of. Off, it costs one test each.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::rc::Rc;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use single_state_proto::browser::DurabilityName;
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};

/// Where to write; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Option<Rc<Writer>>);

#[derive(Debug)]
struct Writer {
    file: File,
    by: String,
}

/// One thing done as the owner of a session.
#[derive(Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Deed<'a> {
    /// The session is ours; the store was asked at `asked`.
    Claim {
        asked: u64,
        version: u64,
        reason: &'a str,
        down: Vec<u16>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        passed_over: Vec<u16>,
    },
    /// It is in memory, as the store has it.
    Activate { version: u64, durability: DurabilityName, applied: BTreeMap<String, u64> },
    /// An input was handled.
    Apply { channel: &'a str, n: u64 },
    /// A snapshot is in the store, which was asked at `asked`.
    Commit { asked: u64, version: u64, applied: BTreeMap<String, u64> },
    /// A later owner has it.
    Fenced,
    /// It leaves memory with everything committed.
    Passivate,
    /// Its app has ended it.
    Delete,
}

#[derive(Serialize)]
struct Line<'a> {
    t: u64,
    by: &'a str,
    session: &'a str,
    epoch: u64,
    #[serde(flatten)]
    deed: Deed<'a>,
}

impl History {
    /// Appends to a file: `%i` in its name is the worker's index, `%p` the process.
    pub(crate) fn open(name: &str, index: WorkerIndex) -> std::io::Result<Self> {
        let (index, process) = (index.to_string(), std::process::id().to_string());
        let path = name.replace("%i", &index).replace("%p", &process);
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Some(Rc::new(Writer { file, by: format!("worker-{index}/{process}") }))))
    }

    /// Microseconds of the machine's monotonic clock, for `asked`; 0 when off.
    pub(crate) fn now(&self) -> u64 {
        if self.is_on() { now() } else { 0 }
    }

    /// Whether lines are wanted.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes a line, which is made only where one is wanted.
    pub(crate) fn record<'a>(
        &self,
        session: &'a SessionId,
        epoch: Epoch,
        deed: impl FnOnce() -> Deed<'a>,
    ) {
        let Some(Writer { file, by }) = self.0.as_deref() else { return };
        let deed = deed();
        let (t, session) = (now(), session.as_str());
        let line = Line { t, by, session, epoch: epoch.0, deed };
        let written = serde_json::to_vec(&line).map_err(Into::into).and_then(|mut line| {
            line.push(b'\n');
            // One call for each line: processes that share a file do not mix theirs.
            (&*file).write_all(&line)
        });
        if let Err(error) = written {
            tracing::error!(%error, "write the history");
        }
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_to_the_file_of_the_worker() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("w%i.jsonl");
        let session = "a".parse().unwrap();
        for n in 1..=2 {
            let history = History::open(name.to_str().unwrap(), WorkerIndex(3)).unwrap();
            let deed = || Deed::Apply { channel: "abcdefgh", n };
            history.record(&session, Epoch(7), deed);
        }
        let text = std::fs::read_to_string(folder.path().join("w3.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[1]["what"], &lines[1]["n"]), (&"apply".into(), &2.into()));
        assert_eq!((&lines[1]["session"], &lines[1]["epoch"]), (&"a".into(), &7.into()));
    }

    #[test]
    fn a_history_that_is_off_does_not_even_make_its_lines() {
        History::default().record(&"a".parse().unwrap(), Epoch(1), || unreachable!("it is off"));
    }
}
