//! The browsers: a swarm on a host of its own, half of them plain pages, and what has come of them.

use std::sync::Once;

use anyhow::{Result, ensure};
use serde::Deserialize;
use single_state_tests::network::Host;
use single_state_tests::process::{Process, program};
use tempfile::NamedTempFile;

/// So long it would run if nobody ended it.
const FOR_EVER: &str = "1h";

/// What browsers do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) urls: Vec<String>,
    pub(crate) browsers: usize,
    /// Messages a second of all together.
    pub(crate) rate: usize,
    /// How many of them speak `single-state.v1`, and come back when their socket is closed.
    pub(crate) v1_share: f64,
    /// The gateways' own keys.
    pub(crate) keys: Vec<u8>,
}

/// A swarm that runs.
#[derive(Debug)]
pub(crate) struct Swarm {
    process: Process,
    browsers: usize,
    _keys: NamedTempFile,
    _host: Host,
}

/// Its figures.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) connected: usize,
    pub(crate) round_trips: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    errors: u64,
    pub(crate) closed: u64,
    lost: u64,
    doubled: u64,
    unanswered: u64,
    checked: u64,
    reasons: Vec<String>,
}

impl Swarm {
    /// Lets browsers come, each to the session `s0`, `s1`, …, which they name.
    pub(crate) fn start(host: Host, plan: &Plan) -> Result<Self> {
        let keys = NamedTempFile::new()?;
        std::fs::write(keys.path(), &plan.keys)?;
        let mut command = host.command();
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program("swarm"));
        for url in &plan.urls {
            command.args(["--url", &format!("{url}?session=s{{n}}")]);
        }
        command.args(["--browsers", &plan.browsers.to_string()]);
        command.args(["--rate", &plan.rate.to_string(), "--v1-share", &plan.v1_share.to_string()]);
        command.args(["--workload", "append", "--warm-up", "1ms", "--duration", FOR_EVER]);
        command.arg("--session-keys-file").arg(keys.path()).args(["--json", "-"]);
        let process = Process::spawn("swarm", command)?;
        Ok(Self { process, browsers: plan.browsers, _keys: keys, _host: host })
    }

    /// How many browsers it has.
    pub(crate) fn browsers(&self) -> usize {
        self.browsers
    }

    /// They look for all that they have sent, and leave.
    pub(crate) async fn end(mut self) -> Result<Report> {
        self.process.signal("INT")?;
        let report = self.process.wait_for_line(|line| serde_json::from_str(line).ok());
        let report: Report = report.await?;
        self.process.wait().await?;
        ensure!(report.connected == self.browsers, "{report:?}");
        Ok(report)
    }
}

impl Report {
    /// Nothing that was sent is lost or twice, and so many sockets were closed. Prints a line of the
    /// table.
    pub(crate) fn judge(&self, what: &str, closed: u64) -> Result<()> {
        static HEAD: Once = Once::new();
        HEAD.call_once(|| {
            eprintln!(
                "{:<44} {:>8} {:>8} {:>9} {:>9} {:>9} | lost doubled closed",
                "what", "browsers", "items", "p50", "p99", "longest"
            );
        });
        let ms = |micros: u64| micros as f64 / 1000.0;
        eprintln!(
            "{what:<44} {:>8} {:>8} {:>6.1} ms {:>6.0} ms {:>6.0} ms | {:>4} {:>7} {:>6}",
            self.connected,
            self.checked,
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.max_us),
            self.lost,
            self.doubled,
            self.closed
        );
        let wrong = self.lost + self.doubled + self.errors + self.unanswered;
        ensure!(wrong == 0, "{what}: {}: {self:?}", self.reasons.join("; "));
        ensure!(self.closed == closed, "{what}: {} sockets were closed: {self:?}", self.closed);
        let all = self.round_trips.min(self.checked);
        ensure!(all >= self.connected as u64, "{what}: browsers sent too little: {self:?}");
        Ok(())
    }
}
