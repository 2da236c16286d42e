//! `swarm`: simulated browsers that load a deployment, and figures of what it costs.
//!
//! Owns: flags, the run, the report. Each browser (`peer.rs`) is a plain page or
//! a client of `single-state.v1`; what the servers use is read from `/proc` (`usage.rs`).

mod peer;
mod report;
mod run;
mod usage;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use single_state_node::config::{Mistakes, Parsed, parse};
use single_state_node::exit;
use tokio::task::LocalSet;

use crate::peer::Protocol;
use crate::usage::Watched;
use crate::workload::Workload;

/// Loads a deployment with simulated browsers.
#[derive(Debug, Parser)]
#[command(name = "swarm", version, about)]
struct Args {
    /// Where to connect, ws://HOST:PORT/ws; several are used in turn, {n} is the browser's number.
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// How many browsers.
    #[arg(long, default_value = "64", value_name = "N")]
    browsers: String,
    /// How long to measure, once all are connected and warm.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    duration: String,
    /// How long to run before measuring.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    warm_up: String,
    /// What browsers send: axpy, append.
    #[arg(long, default_value = "axpy", value_name = "NAME")]
    workload: String,
    /// About how long a message is.
    #[arg(long, default_value = "64", value_name = "BYTES")]
    bytes: String,
    /// Messages a second of all browsers together, whatever the answers do; default: each sends
    /// its next one when it has its answer.
    #[arg(long, value_name = "N")]
    rate: Option<String>,
    /// Exchange two messages each, then stay quiet.
    #[arg(long)]
    idle: bool,
    /// What browsers speak: plain, v1 (they number their messages, and come back when their
    /// connection breaks), mixed.
    #[arg(long, default_value = "plain", value_name = "plain|v1|mixed")]
    protocol: String,
    /// Write what browsers send and hear, for `check`.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// A server process whose CPU and memory to report; several.
    #[arg(long, value_name = "NAME=PID")]
    pid: Vec<String>,
    /// Write the report as JSON; - is stdout.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

/// What to do.
#[derive(Debug)]
struct Config {
    urls: Vec<String>,
    browsers: usize,
    duration: Duration,
    warm_up: Duration,
    workload: Workload,
    pace: Pace,
    protocol: Protocol,
    history: Option<PathBuf>,
    watched: Vec<Watched>,
    json: Option<PathBuf>,
}

/// When browsers send.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    /// The next message when the answer to the last one is there.
    Closed,
    /// So many messages a second of all together, measured from when each was due.
    Rate(f64),
    /// Two messages each, then nothing.
    Idle,
}

fn main() -> ExitCode {
    let config = match parse::<Args>(std::env::args_os()) {
        Parsed::Arguments(args, mistakes) => match check(args, mistakes) {
            Ok(config) => config,
            Err(mistakes) => return mistakes.report("swarm"),
        },
        Parsed::Exit(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    match LocalSet::new().block_on(&runtime, run::run(&config)) {
        Ok(report) => match report.publish(config.json.as_deref()) {
            Ok(()) if report.is_clean() => ExitCode::from(exit::CLEAN),
            Ok(()) => ExitCode::from(exit::FAILED),
            Err(error) => exit::failed(&error),
        },
        Err(error) => {
            eprintln!("swarm: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

fn check(args: Args, mut mistakes: Mistakes) -> Result<Config, Mistakes> {
    if args.url.is_empty() {
        mistakes.add("--url: say where to connect, such as --url ws://127.0.0.1:8000/ws");
    }
    for url in &args.url {
        let authority = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next());
        if !authority.is_some_and(|authority| authority.contains(':')) {
            mistakes.add(format!("--url {url:?}: give ws://HOST:PORT/ws"));
        }
    }
    let browsers = mistakes.parse::<usize>("--browsers", &args.browsers);
    if browsers == Some(0) {
        mistakes.add("--browsers 0: give at least 1");
    }
    let duration = mistakes.duration("--duration", &args.duration);
    let warm_up = mistakes.duration("--warm-up", &args.warm_up);
    let bytes = mistakes.parse::<usize>("--bytes", &args.bytes);
    let workload = Workload::named(&args.workload, bytes.unwrap_or_default());
    if workload.is_none() {
        mistakes.add(format!("--workload {:?}: give axpy or append", args.workload));
    }
    let protocol = Protocol::named(&args.protocol);
    if protocol.is_none() {
        mistakes.add(format!("--protocol {:?}: give plain, v1 or mixed", args.protocol));
    }
    let rate = args.rate.as_ref().and_then(|rate| mistakes.parse::<f64>("--rate", rate));
    if args.rate.is_some() && args.idle {
        mistakes.add("--rate and --idle: choose one");
    }
    if rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        mistakes.add("--rate: give a number above 0");
    }
    let watched: Vec<_> =
        args.pid.iter().map(|text| mistakes.parse::<Watched>("--pid", text)).collect();
    let pace = match rate {
        Some(rate) => Pace::Rate(rate),
        None if args.idle => Pace::Idle,
        None => Pace::Closed,
    };
    let config = (|| {
        Some(Config {
            urls: args.url,
            browsers: browsers?,
            duration: duration?,
            warm_up: warm_up?,
            workload: workload?,
            pace,
            protocol: protocol?,
            history: args.history,
            watched: watched.into_iter().flatten().collect(),
            json: args.json,
        })
    })();
    mistakes.into_result(config)
}
