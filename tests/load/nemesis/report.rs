//! What a run has shown, for people and for programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use single_state_tests::checker::{Options, check_files};
use single_state_tests::cluster::PLACEMENT_KEY;
use single_state_tests::history::read;
use single_state_tests::visitors::Stay;
use single_state_tests::visitors::verdict::of_thousand;

use crate::chart::escape;
use crate::nemesis::config::Config;
use crate::nemesis::figures::{Done, Items, Run};
use crate::nemesis::kind::Kind;
use crate::nemesis::schedule::Schedule;
use crate::nemesis::stage::Stage;
use crate::news::{Latencies, Second, Tally};
use crate::page;
use crate::report::{Facts, Report as Load};
use crate::timeline::{Mark, Timeline};
use crate::verdict::Verdict;

/// From this length on, and with all kinds, half as much must be acknowledged as when it is calm: a few
/// faults of the database in a row leave less.
const RATE_FROM: Duration = Duration::from_secs(60);

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    seed: u64,
    replay: String,
    faults: usize,
    survived: usize,
    acknowledged: usize,
    lost: usize,
    doubled: usize,
    closed_by_worker_faults: usize,
    closed_by_gateway_faults: usize,
    acks_per_second_calm: f64,
    acks_per_second_faults: f64,
    /// After the last fault; `None`: not within 10 s.
    settled_ms: Option<u64>,
    kinds: Vec<OfKind>,
    crash_points: Vec<String>,
    left_out: Vec<String>,
    /// What is wrong; nothing if all is well.
    reasons: Vec<String>,
    load: Load,
}

/// Figures of one kind of fault.
#[derive(Debug, Serialize)]
struct OfKind {
    kind: &'static str,
    count: usize,
    recovery_p50_ms: u64,
    recovery_p99_ms: u64,
    longest_wait_ms: u64,
}

impl Report {
    /// Judges a run.
    pub(crate) fn of(
        config: &Config,
        schedule: &Schedule,
        run: Run,
        stays: Vec<Stay>,
        stage: &Stage,
    ) -> Result<Self> {
        let mut reasons = run.reasons.clone();
        let files = stage.histories()?;
        let sizes = schedule.sizes.iter().map(|size| *size as u64).collect();
        let options = Options { placement: Some((PLACEMENT_KEY, sizes)), no_closes: false };
        // Of a run that has ended too early, browsers have not yet written everything.
        let checked = run.reasons.is_empty().then(|| check_files(&files, &options));
        let events = match checked {
            Some(Ok((events, _))) => events,
            other => {
                reasons.extend(other.and_then(Result::err).map(|error| format!("{error:#}")));
                read(&files)?
            }
        };
        let items = Items::of(&events);
        let closed = run.closed(&events);
        let [calm, faults] = run.acks_per_second(&events);
        let settled = run.settled(&events, &stays);
        let (recoveries, pauses) = (run.recoveries(&stays), run.pauses(&stays));
        let ms = |micros: Option<u64>| micros.unwrap_or(0).div_ceil(1000);
        let of_kind = |(kind, times): (Kind, Vec<u64>)| OfKind {
            kind: kind.name(),
            count: times.len(),
            recovery_p50_ms: ms(of_thousand(&times, 500)),
            recovery_p99_ms: ms(of_thousand(&times, 990)),
            longest_wait_ms: ms(pauses.get(&kind).copied()),
        };
        if run.reasons.is_empty() {
            judge(items.lost + items.doubled > 0, &mut reasons, || {
                format!("{} items are lost, {} doubled", items.lost, items.doubled)
            });
            let is_long = config.duration >= RATE_FROM && !config.is_choice;
            judge(is_long && faults < calm / 2.0, &mut reasons, || {
                format!("{faults:.0} acknowledgements a second are less than half of {calm:.0}")
            });
            judge(settled.is_none(), &mut reasons, || {
                "10 s after the last fault not everything is acknowledged".to_owned()
            });
        }
        let others = closed.others.len();
        reasons.extend(closed.others.into_iter().take(10));
        let told = |(kind, told): (Kind, &Option<String>)| {
            told.clone().filter(|_| kind == Kind::CrashPoint)
        };
        Ok(Self {
            seed: config.seed,
            replay: config.replay(),
            faults: schedule.faults().count(),
            survived: run.done.len(),
            acknowledged: items.acknowledged,
            lost: items.lost,
            doubled: items.doubled,
            closed_by_worker_faults: others,
            closed_by_gateway_faults: closed.allowed,
            acks_per_second_calm: calm,
            acks_per_second_faults: faults,
            settled_ms: settled.map(|micros| micros.div_ceil(1000)),
            kinds: recoveries.into_iter().map(of_kind).collect(),
            crash_points: run
                .done
                .iter()
                .filter_map(|done| told((done.kind, &done.told)))
                .collect(),
            left_out: config.left_out.iter().map(|(kind, _)| kind.name().to_owned()).collect(),
            load: load(config, &run, &stays, others as u64, &items, reasons.clone()),
            reasons,
        })
    }

    /// Whether all is well.
    pub(crate) fn is_clean(&self) -> bool {
        self.reasons.is_empty() && self.survived == self.faults
    }

    /// Prints the report, and writes it as JSON and as a page where asked.
    pub(crate) fn publish(&self, config: &Config) -> Result<()> {
        if let Some(path) = &config.html {
            let table = ("Faults", self.table());
            let text = page::page(&self.load, &[table]);
            std::fs::write(path, text)
                .with_context(|| format!("write the page {}", path.display()))?;
        }
        let text = serde_json::to_string(self)?;
        match &config.json {
            Some(path) if path == Path::new("-") => {
                return Ok(writeln!(std::io::stdout(), "{text}")?);
            }
            Some(path) => std::fs::write(path, text)
                .with_context(|| format!("write the report {}", path.display()))?,
            None => {}
        }
        self.print()
    }

    /// The sentences that matter.
    fn sentences(&self) -> Vec<String> {
        let settled = match self.settled_ms {
            Some(ms) => format!("all acknowledged {ms} ms after the last fault"),
            None => "not all acknowledged 10 s after the last fault".to_owned(),
        };
        vec![
            format!("faults survived {} of {}", self.survived, self.faults),
            format!("acknowledged lost {} of {}", self.lost, self.acknowledged),
            format!("doubled {}", self.doubled),
            format!("sockets closed by worker faults {}", self.closed_by_worker_faults),
            format!("by gateway faults {}", self.closed_by_gateway_faults),
            format!(
                "acknowledged a second {:.0} under faults, {:.0} calm",
                self.acks_per_second_faults, self.acks_per_second_calm
            ),
            settled,
        ]
    }

    fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", self.sentences().join(", "))?;
        let head = ["fault", "count", "recovery p50", "p99", "longest wait"];
        writeln!(
            out,
            "{:<24} {:>6} {:>13} {:>9} {:>13}",
            head[0], head[1], head[2], head[3], head[4]
        )?;
        for OfKind { kind, count, recovery_p50_ms, recovery_p99_ms, longest_wait_ms } in &self.kinds
        {
            writeln!(
                out,
                "{kind:<24} {count:>6} {recovery_p50_ms:>10} ms {recovery_p99_ms:>6} ms {longest_wait_ms:>10} ms"
            )?;
        }
        for reason in &self.reasons {
            writeln!(out, "  {reason}")?;
        }
        if !self.is_clean() {
            writeln!(out, "RED: seed {}; again: {}", self.seed, self.replay)?;
        }
        Ok(())
    }

    fn table(&self) -> String {
        let row = |kind: &OfKind| {
            format!(
                "<tr><td>{}</td><td>{}</td><td>{} ms</td><td>{} ms</td><td>{} ms</td></tr>\n",
                kind.kind,
                kind.count,
                kind.recovery_p50_ms,
                kind.recovery_p99_ms,
                kind.longest_wait_ms
            )
        };
        format!(
            "<p>{}</p>\n<p><code>{}</code></p>\n<table>\n<tr><th>fault</th><th>count</th>\
             <th>recovery p50</th><th>p99</th><th>longest wait</th></tr>\n{}</table>",
            escape(&self.sentences().join(", ")),
            escape(&self.replay),
            self.kinds.iter().map(row).collect::<String>()
        )
    }
}

fn judge(is_wrong: bool, reasons: &mut Vec<String>, reason: impl FnOnce() -> String) {
    if is_wrong {
        reasons.push(reason());
    }
}

/// The same run as a load, for the page's time lines.
fn load(
    config: &Config,
    run: &Run,
    stays: &[Stay],
    closed: u64,
    items: &Items,
    reasons: Vec<String>,
) -> Load {
    let mut tally = Tally { connected: config.browsers as u64, closed, ..Tally::default() };
    let mut seconds: BTreeMap<u64, Latencies> = BTreeMap::new();
    for beat in stays.iter().flat_map(|stay| &stay.beats) {
        let wait = beat.answered - beat.sent;
        tally.round_trips += 1;
        tally.latencies.record(wait);
        let second = beat.answered.saturating_sub(run.began) / 1_000_000;
        seconds.entry(second).or_default().record(wait);
    }
    tally.doubled = items.doubled as u64;
    tally.reasons = reasons;
    let mut timeline = Timeline::default();
    for (number, latencies) in seconds {
        let connected = config.browsers as u64;
        timeline.add(0, Second { number, connected, wrong: 0, latencies });
    }
    let mark = |done: &Done| Mark {
        at_ms: (done.began.saturating_sub(run.began) / 1000) as i64,
        what: done.kind.name().to_owned(),
    };
    let measured = Duration::from_micros(run.faults_to.saturating_sub(run.began).max(1));
    let (marks, timeline) = (run.done.iter().map(mark).collect(), timeline.seconds());
    let (connecting, taken) = Default::default();
    let facts = Facts { processes: 1, measured, timeline, marks, began_ms: 0, connecting, taken };
    let mut load = Load::new(tally, Verdict::default(), facts);
    load.lost = items.lost as u64;
    load.checked = items.sent;
    load
}
