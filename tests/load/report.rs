//! What a run has shown, for people and for programs.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) connected: usize,
    pub(crate) round_trips: u64,
    pub(crate) round_trips_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// Error messages and failed connections.
    pub(crate) errors: u64,
    /// Sockets that the server closed.
    pub(crate) closed: u64,
    /// Inputs that are missing in a session.
    pub(crate) lost: u64,
    /// Inputs that a session has more than once.
    pub(crate) doubled: u64,
    /// Why sockets were closed or could not be opened, the first of each kind.
    pub(crate) reasons: Vec<String>,
    pub(crate) processes: Vec<Process>,
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

impl Report {
    pub(crate) fn latencies(&mut self, histogram: &Histogram<u64>, measured: Duration) {
        self.round_trips = histogram.len();
        self.round_trips_per_second = histogram.len() as f64 / measured.as_secs_f64();
        self.p50_us = histogram.value_at_quantile(0.5);
        self.p99_us = histogram.value_at_quantile(0.99);
    }

    /// Whether nothing went wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.connected > 0 && self.errors + self.closed + self.lost + self.doubled == 0
    }

    /// Prints the report, and writes it as JSON where asked.
    pub(crate) fn publish(&self, json: Option<&Path>) -> std::io::Result<()> {
        let text = serde_json::to_string(self)?;
        match json {
            Some(path) if path == Path::new("-") => writeln!(std::io::stdout(), "{text}"),
            Some(path) => {
                std::fs::write(path, text)?;
                self.print()
            }
            None => self.print(),
        }
    }

    fn print(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{} browsers, {} round trips, {:.0}/s, p50 {} us, p99 {} us, errors {}, closed {}, \
             lost {}, doubled {}",
            self.connected,
            self.round_trips,
            self.round_trips_per_second,
            self.p50_us,
            self.p99_us,
            self.errors,
            self.closed,
            self.lost,
            self.doubled
        )?;
        for process in &self.processes {
            writeln!(
                out,
                "  {:<12} {:>8.2} us of CPU a round trip, {:>5.1}% of a CPU, {:>8.0} bytes a browser",
                process.name,
                process.cpu_us_per_round_trip,
                100.0 * process.cpu_share,
                process.bytes_per_browser
            )?;
        }
        for reason in &self.reasons {
            writeln!(out, "  {reason}")?;
        }
        Ok(())
    }
}
