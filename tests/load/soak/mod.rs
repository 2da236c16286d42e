//! `swarm soak`: a cluster of its own that serves steady browsers and such that come and go, for hours,
//! while it is watched whether any of its processes grows.
//!
//! In each round as many new sessions come as in the one before, and leave memory when they have been
//! quiet for a while: what is there at the end of the first rounds is what must be there at the end.

mod config;
mod flat;

use std::ffi::OsString;
use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use single_state_node::config::{Parsed, parse};
use single_state_node::exit;
use single_state_tests::cluster::{Node, Options};
use single_state_tests::fleet::{Fleet, Plan};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};

use self::config::{Args, Config};
use self::flat::{Sample, Watch};
use crate::conclude;

/// A session that nobody uses leaves memory after so long, so that a round's end is seen in the next.
const PASSIVATE_AFTER: &str = "10s";

/// What follows `swarm soak`.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match parse::<Args>(args) {
        Parsed::Arguments(args, mistakes) => match args.check(mistakes) {
            Ok(config) => config,
            Err(mistakes) => return mistakes.report("swarm soak"),
        },
        Parsed::Exit(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    conclude("swarm soak", runtime.block_on(run(&config)))
}

/// Whether all stayed as it was.
async fn run(config: &Config) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("sessions.sqlite").display());
    let options =
        Options::default().store(&store).worker_flag("--passivate-after", PASSIVATE_AFTER);
    let fleet = Fleet::start(Plan { options, gateways: 2, ..Plan::default() }).await?;
    let mut steady = swarm(&fleet, config, config.duration, &["--rate", &config.rate()])?;
    let mut watch = Watch::default();
    let ends = Instant::now() + config.duration;
    let mut out = std::io::stdout();
    writeln!(out, "{}", Sample::HEAD)?;
    let mut round = 0;
    // Fewer rounds than these would judge nothing; each may take longer than it was asked to.
    while Instant::now() < ends || round < config::ROUNDS {
        round += 1;
        let next = Instant::now() + config.round;
        let next = if round <= config::ROUNDS { next } else { next.min(ends) };
        let mut churn = swarm(&fleet, config, next - Instant::now(), &["--churn"])?;
        sleep_until(next).await;
        for (name, node) in nodes(&fleet) {
            let sample = sample(&name, node).await?;
            writeln!(out, "{round:>5}  {sample}")?;
            watch.add(sample);
        }
        must_be_clean("browsers that come and go", &mut churn).await?;
    }
    must_be_clean("steady browsers", &mut steady).await?;
    let verdicts = watch.verdicts();
    writeln!(out, "{}", flat::Verdict::HEAD)?;
    for verdict in &verdicts {
        writeln!(out, "{verdict}")?;
    }
    let is_flat = verdicts.iter().all(|verdict| verdict.is_flat);
    writeln!(out, "{}", if is_flat { "flat" } else { "NOT FLAT" })?;
    Ok(is_flat)
}

fn nodes(fleet: &Fleet) -> impl Iterator<Item = (String, &Node)> {
    let gateways =
        fleet.gateways.iter().enumerate().map(|(i, node)| (format!("gateway {i}"), node));
    let workers = fleet.workers.iter().enumerate().map(|(i, node)| (format!("worker {i}"), node));
    gateways.chain(workers)
}

/// A swarm of its own process, half of whose browsers are plain.
fn swarm(fleet: &Fleet, config: &Config, time: Duration, more: &[&str]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    for gateway in 0..fleet.gateways.len() {
        command.args(["--url", &fleet.url(gateway, "")]);
    }
    command.args(["--browsers", &config.browsers.to_string(), "--v1-share", "0.5"]);
    command.args(["--duration", &format!("{}ms", time.as_millis()), "--warm-up", "0s"]);
    command.args(more).args(["--json", "-"]);
    command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("start a swarm")
}

async fn must_be_clean(who: &str, swarm: &mut Child) -> Result<()> {
    let mut output = swarm.stdout.take().context("its output is a pipe")?;
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut output, &mut text).await?;
    let status = swarm.wait().await?;
    if !status.success() {
        bail!("{who}: {status}: {text}");
    }
    Ok(())
}

/// What a process holds now. One that has just answered something else answers again.
async fn sample(name: &str, node: &Node) -> Result<Sample> {
    let status = match node.status().await {
        Ok(status) => status,
        Err(_) => {
            sleep(Duration::from_secs(1)).await;
            node.status().await.with_context(|| name.to_owned())?
        }
    };
    let count = |field: &str| status[field].as_u64();
    let held = count("sessions").or_else(|| count("connections"));
    let streams = |workers: &Vec<Value>| {
        workers.iter().filter_map(|worker| worker["streams"].as_u64()).sum::<u64>()
    };
    Ok(Sample {
        name: name.to_owned(),
        resident_kib: node.process.resident_kib()?,
        descriptors: node.process.descriptors()? as u64,
        threads: node.process.threads()? as u64,
        held: held.context("no sessions and no connections in /status")?,
        streams: status["workers"].as_array().map_or(0, streams),
    })
}
