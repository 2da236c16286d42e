//! What was seen second by second, of all processes together, and what was done meanwhile.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::news::{Latencies, Second};

/// Times below are counted from when the swarm began, others from 1970.
const OF_THE_RUN_BELOW_MS: u64 = 100_000_000_000;

/// Seconds by their number.
#[derive(Debug, Default)]
pub(crate) struct Timeline(BTreeMap<u64, Sum>);

#[derive(Debug, Default)]
struct Sum {
    /// How many processes have told theirs.
    told: usize,
    connected: u64,
    latencies: Latencies,
    /// Errors and closed sockets so far, by process.
    wrong: BTreeMap<usize, u64>,
}

/// One second of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Figures {
    /// Its number, from when the swarm began.
    pub(crate) second: u64,
    /// Browsers connected at its end.
    pub(crate) connected: u64,
    pub(crate) round_trips: u64,
    /// Latencies of what was answered in it.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// Errors and closed sockets so far.
    pub(crate) wrong: u64,
}

/// Something that was done to the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// When, in milliseconds from when the swarm began.
    pub(crate) at_ms: i64,
    pub(crate) what: String,
}

impl Timeline {
    /// A process tells a second.
    pub(crate) fn add(&mut self, process: usize, second: Second) {
        let sum = self.0.entry(second.number).or_default();
        sum.told += 1;
        sum.connected += second.connected;
        sum.latencies.add(&second.latencies);
        sum.wrong.insert(process, second.wrong);
    }

    /// The newest second that so many processes have told.
    pub(crate) fn newest(&self, processes: usize) -> Option<Figures> {
        let mut told = self.0.iter().rev().filter(|(_, sum)| sum.told >= processes);
        told.next().map(|(second, sum)| sum.figures(*second))
    }

    /// All seconds.
    pub(crate) fn seconds(&self) -> Vec<Figures> {
        self.0.iter().map(|(second, sum)| sum.figures(*second)).collect()
    }
}

impl Sum {
    fn figures(&self, second: u64) -> Figures {
        Figures {
            second,
            connected: self.connected,
            round_trips: self.latencies.0.len(),
            p50_us: self.latencies.percentile(50.0),
            p99_us: self.latencies.percentile(99.0),
            wrong: self.wrong.values().sum(),
        }
    }
}

/// The marks of a file, as times of this run.
pub(crate) fn read_marks(path: &Path, began_ms: u64) -> Result<Vec<Mark>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the marks {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let mut mark: Mark = serde_json::from_str(line)
                .with_context(|| format!("line {} of {}", number + 1, path.display()))?;
            if mark.at_ms.unsigned_abs() >= OF_THE_RUN_BELOW_MS {
                mark.at_ms -= began_ms as i64;
            }
            Ok(mark)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64, connected: u64, micros: u64) -> Second {
        let mut latencies = Latencies::default();
        latencies.record(micros);
        Second { number, connected, wrong: 1, latencies }
    }

    #[test]
    fn seconds_of_all_processes_are_added_up() {
        let mut timeline = Timeline::default();
        timeline.add(0, second(3, 10, 100));
        assert_eq!(timeline.newest(2), None, "one has not told it yet");
        timeline.add(1, second(3, 5, 900));
        let newest = timeline.newest(2).unwrap();
        assert_eq!((newest.second, newest.connected, newest.round_trips), (3, 15, 2));
        assert_eq!((newest.p50_us, newest.p99_us, newest.wrong), (100, 900, 2));
    }

    #[test]
    fn marks_count_from_1970_or_from_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marks");
        let lines =
            "{\"at_ms\":1800000004000,\"what\":\"kill\"}\n\n{\"at_ms\":70,\"what\":\"pause\"}\n";
        std::fs::write(&path, lines).unwrap();
        let marks = read_marks(&path, 1_800_000_000_000).unwrap();
        assert_eq!(marks.iter().map(|mark| mark.at_ms).collect::<Vec<_>>(), [4000, 70]);
        std::fs::write(&path, "{}\n").unwrap();
        let error = read_marks(&path, 0).unwrap_err();
        assert!(error.to_string().starts_with("line 1 of"), "{error}");
    }
}
