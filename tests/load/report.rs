//! What a run has shown, for people and for programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::news::{Latencies, Tally};
use crate::page;
use crate::timeline::{Figures, Mark};
use crate::verdict::{Tested, Verdict};

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) connected: u64,
    pub(crate) round_trips: u64,
    pub(crate) round_trips_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
    /// Error messages and failed connections.
    pub(crate) errors: u64,
    /// Sockets that the server closed.
    pub(crate) closed: u64,
    /// Sessions in which inputs are missing.
    pub(crate) lost: u64,
    /// Sessions that have inputs more than once; unchecked, how many these are by their counts.
    pub(crate) doubled: u64,
    /// What the histories of this run's browsers say of each invariant that they can tell something of.
    pub(crate) invariants: BTreeMap<String, Tested>,
    /// Messages without an answer in the end; their latencies count as what they had come to.
    pub(crate) unanswered: u64,
    /// Times that a browser has come back to its session.
    pub(crate) returns: u64,
    /// Items that were looked for in the end.
    pub(crate) checked: usize,
    /// Processes of the swarm that had browsers.
    pub(crate) swarm_processes: usize,
    /// Until all were there, from the start of the first process of the swarm.
    pub(crate) connecting_seconds: f64,
    pub(crate) measured_seconds: f64,
    /// What this machine has less of since before the first connection: all that runs on it, and the
    /// kernel's sockets.
    pub(crate) machine_bytes_per_browser: Option<f64>,
    /// Milliseconds since 1970: marks and seconds count from there.
    pub(crate) began_ms: u64,
    /// What was wrong, the first of each kind.
    pub(crate) reasons: Vec<String>,
    pub(crate) processes: Vec<Process>,
    pub(crate) seconds: Vec<Figures>,
    pub(crate) marks: Vec<Mark>,
    #[serde(skip)]
    pub(crate) latencies: Latencies,
}

/// What one process used while it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) cpu_us_per_round_trip: f64,
    /// Share of one CPU.
    pub(crate) cpu_share: f64,
    /// Growth since before the first connection.
    pub(crate) bytes_per_browser: f64,
}

/// What is known of a run beside what became of its messages.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) processes: usize,
    pub(crate) connecting: Duration,
    /// Memory of the machine that is not free any more, in bytes.
    pub(crate) taken: Option<u64>,
    pub(crate) measured: Duration,
    pub(crate) timeline: Vec<Figures>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) began_ms: u64,
}

impl Report {
    /// Puts together what was found.
    pub(crate) fn new(mut tally: Tally, verdict: Verdict, facts: Facts) -> Self {
        verdict.reasons.into_iter().for_each(|reason| tally.note(reason));
        let measured_seconds = facts.measured.as_secs_f64();
        let connected = tally.connected.max(1) as f64;
        Self {
            connected: tally.connected,
            round_trips: tally.round_trips,
            round_trips_per_second: tally.round_trips as f64 / measured_seconds,
            p50_us: tally.latencies.percentile(50.0),
            p99_us: tally.latencies.percentile(99.0),
            p999_us: tally.latencies.percentile(99.9),
            max_us: tally.latencies.percentile(100.0),
            errors: tally.errors + verdict.others,
            closed: tally.closed,
            lost: verdict.lost,
            doubled: verdict.doubled + tally.doubled,
            invariants: verdict.invariants,
            unanswered: tally.unanswered,
            returns: tally.returns,
            checked: verdict.items,
            swarm_processes: facts.processes,
            connecting_seconds: facts.connecting.as_secs_f64(),
            measured_seconds,
            machine_bytes_per_browser: facts.taken.map(|taken| taken as f64 / connected),
            began_ms: facts.began_ms,
            reasons: tally.reasons,
            processes: Vec::new(),
            seconds: facts.timeline,
            marks: facts.marks,
            latencies: tally.latencies,
        }
    }

    /// Adds a process that has used so much CPU, and has grown by so many bytes.
    pub(crate) fn add_process(&mut self, name: String, cpu: Duration, grown: u64) {
        let cpu = cpu.as_secs_f64();
        self.processes.push(Process {
            name,
            cpu_us_per_round_trip: cpu * 1e6 / self.round_trips.max(1) as f64,
            cpu_share: cpu / self.measured_seconds,
            bytes_per_browser: grown as f64 / self.connected.max(1) as f64,
        });
    }

    /// Whether nothing went wrong.
    pub(crate) fn is_clean(&self) -> bool {
        let wrong = self.errors + self.closed + self.lost + self.doubled + self.unanswered;
        self.connected > 0 && wrong == 0
    }

    /// Prints the report, and writes it as JSON and as a page where asked.
    pub(crate) fn publish(&self, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
        if let Some(path) = html {
            std::fs::write(path, page::page(self, &[]))
                .with_context(|| format!("write the page {}", path.display()))?;
        }
        let text = serde_json::to_string(self)?;
        match json {
            Some(path) if path == Path::new("-") => writeln!(std::io::stdout(), "{text}")?,
            Some(path) => {
                std::fs::write(path, text)
                    .with_context(|| format!("write the report {}", path.display()))?;
                self.print()?;
            }
            None => self.print()?,
        }
        Ok(())
    }

    /// Each figure with its name, in the order in which people want them.
    pub(crate) fn figures(&self) -> Vec<(&'static str, String)> {
        let mut figures = vec![
            ("browsers", self.connected.to_string()),
            ("connects/s", format!("{:.0}", self.connected as f64 / self.connecting_seconds)),
            ("round trips", self.round_trips.to_string()),
            ("round trips/s", format!("{:.0}", self.round_trips_per_second)),
            ("p50", micros(self.p50_us)),
            ("p99", micros(self.p99_us)),
            ("p99.9", micros(self.p999_us)),
            ("longest", micros(self.max_us)),
            ("errors", self.errors.to_string()),
            ("closed", self.closed.to_string()),
            ("lost", self.lost.to_string()),
            ("doubled", self.doubled.to_string()),
            ("unanswered", self.unanswered.to_string()),
        ];
        for (name, count) in [("returns", self.returns), ("items checked", self.checked as u64)] {
            if count > 0 {
                figures.push((name, count.to_string()));
            }
        }
        figures
    }

    /// CPU microseconds a round trip, where there were any.
    pub(crate) fn cpu_of(&self, process: &Process) -> String {
        match self.round_trips {
            0 => "-".to_owned(),
            _ => format!("{:.2}", process.cpu_us_per_round_trip),
        }
    }

    fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let figures: Vec<_> =
            self.figures().iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(out, "{}", figures.join(", "))?;
        if !self.invariants.is_empty() {
            let judged = |(name, Tested { tests, violations }): (&String, &Tested)| match violations
            {
                0 => format!("{name} holds ({tests} tests)"),
                violations => format!("{name} does not hold in {violations} sessions"),
            };
            let judged: Vec<_> = self.invariants.iter().map(judged).collect();
            writeln!(out, "  {}", judged.join(", "))?;
        }
        for process in &self.processes {
            writeln!(
                out,
                "  {:<12} {:>8} us of CPU a round trip, {:>5.1}% of a CPU, {:>8.0} bytes a browser",
                process.name,
                self.cpu_of(process),
                100.0 * process.cpu_share,
                process.bytes_per_browser
            )?;
        }
        if let Some(bytes) = self.machine_bytes_per_browser {
            writeln!(out, "  this machine, with sockets: {bytes:.0} bytes a browser")?;
        }
        for reason in &self.reasons {
            writeln!(out, "  {reason}")?;
        }
        Ok(())
    }
}

/// A latency for people.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}
