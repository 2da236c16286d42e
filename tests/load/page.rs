//! The report as a page: one file that loads nothing.

use crate::chart::{Chart, Line, bars, escape};
use crate::news::Latencies;
use crate::report::{Report, micros};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #6a737d; --paper: #fff; --one: #0b6bcb;
  --two: #c4420a; --mark: #8a2be2 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --dim: #9aa4ae; --paper: #16191d;
  --one: #6cb4ff; --two: #ff9d6c; --mark: #c99bff } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td + td { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: var(--dim) }
.axis { stroke: var(--dim); stroke-width: .5 } .one { stroke: var(--one) } .two { stroke: var(--two) }
polyline { fill: none; stroke-width: 1.6 } rect { fill: var(--one) }
.mark line { stroke: var(--mark); stroke-dasharray: 4 3 } svg .mark text { fill: var(--mark) }
svg text.one { fill: var(--one); stroke: none } svg text.two { fill: var(--two); stroke: none }
";

/// The whole page; what else there is to be shown comes first.
pub(crate) fn page(report: &Report, more: &[(&str, String)]) -> String {
    let latency = Chart {
        unit: |value| micros(value as u64),
        lines: vec![
            line(report, "p50", "one", |second| second.p50_us),
            line(report, "p99", "two", |second| second.p99_us),
        ],
        marks: &report.marks,
    };
    let connections = Chart {
        unit: |value| format!("{value:.0}"),
        lines: vec![line(report, "connected", "one", |second| second.connected)],
        marks: &report.marks,
    };
    let throughput = Chart {
        unit: |value| format!("{value:.0}"),
        lines: vec![line(report, "round trips/s", "one", |second| second.round_trips)],
        marks: &report.marks,
    };
    let sections = [
        ("Figures", table(report)),
        ("Latency in each second", latency.draw()),
        ("Latencies of all messages measured", bars(&buckets(&report.latencies))),
        ("Round trips in each second", throughput.draw()),
        ("Connections", connections.draw()),
        ("Servers", processes(report)),
        ("What was wrong", reasons(report)),
    ];
    let body: String = more
        .iter()
        .chain(&sections)
        .filter(|(_, content)| !content.is_empty())
        .map(|(title, content)| format!("<h2>{title}</h2>\n{content}\n"))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>swarm</title>\n\
         <style>{STYLE}</style>\n<h1>{} browsers, {:.0} s measured</h1>\n{body}</html>\n",
        report.connected, report.measured_seconds
    )
}

fn line(
    report: &Report,
    name: &'static str,
    class: &'static str,
    value: impl Fn(&crate::timeline::Figures) -> u64,
) -> Line {
    let points = report.seconds.iter().map(|second| (second.second as f64, value(second) as f64));
    Line { name, class, points: points.collect() }
}

/// How many latencies are between each power of two and the next, in halves.
fn buckets(latencies: &Latencies) -> Vec<(String, u64)> {
    let Latencies(histogram) = latencies;
    if histogram.is_empty() {
        return Vec::new();
    }
    let half = |micros: u64| (2.0 * (micros.max(1) as f64).log2()).floor() as usize;
    let first = half(histogram.min());
    let mut counts = vec![0; half(histogram.max()) - first + 1];
    for value in histogram.iter_recorded() {
        let at = half(value.value_iterated_to()).saturating_sub(first).min(counts.len() - 1);
        counts[at] += value.count_since_last_iteration();
    }
    let from = |at: usize| micros(2_f64.powf((first + at) as f64 / 2.0) as u64);
    counts.iter().enumerate().map(|(at, count)| (from(at), *count)).collect()
}

fn table(report: &Report) -> String {
    let row =
        |(name, value): &(&str, String)| format!("<tr><td>{name}</td><td>{value}</td></tr>\n");
    let rows: String = report.figures().iter().map(row).collect();
    format!("<table>\n{rows}</table>")
}

fn processes(report: &Report) -> String {
    let row = |process: &crate::report::Process| {
        format!(
            "<tr><td>{}</td><td>{} us</td><td>{:.1}%</td><td>{:.0} bytes</td></tr>\n",
            escape(&process.name),
            report.cpu_of(process),
            100.0 * process.cpu_share,
            process.bytes_per_browser
        )
    };
    let rows: String = report.processes.iter().map(row).collect();
    format!(
        "<table>\n<tr><th>process</th><th>CPU a round trip</th><th>of a CPU</th>\
         <th>memory a browser</th></tr>\n{rows}</table>"
    )
}

fn reasons(report: &Report) -> String {
    if report.reasons.is_empty() {
        return String::new();
    }
    let item = |reason: &String| format!("<li>{}</li>\n", escape(reason));
    format!("<ul>\n{}</ul>", report.reasons.iter().map(item).collect::<String>())
}
