//! `swarm nemesis`: faults of all kinds, in an order that a seed replays, done to a cluster while
//! browsers append; in the end it is judged what has become of what they have sent.
//!
//! ```text
//!   config.rs ─ kind.rs ─ schedule.rs     what is asked for, and what will happen: no IO
//!   stage.rs ─ inject.rs ─ crash.rs       the cluster, and what is done to it
//!   figures.rs ─ report.rs                what has come of it
//! ```

mod config;
mod crash;
mod figures;
mod inject;
mod kind;
mod report;
mod schedule;
mod stage;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use single_state_node::config::{Parsed, parse};
use single_state_node::exit;
use single_state_tests::history::now;
use tokio::time::sleep;

use self::config::{Args, Config};
use self::figures::{Done, Run};
use self::kind::Kind;
use self::report::Report;
use self::schedule::{Episode, Fault, Schedule};
use self::stage::Stage;
use crate::conclude;

/// Of the whole time, this share is calm at first, to compare with; so long at least and at most.
const CALM: u32 = 20;
const CALM_LEAST: Duration = Duration::from_secs(1);
const CALM_MOST: Duration = Duration::from_secs(30);

/// What follows `swarm nemesis`.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match parse::<Args>(args) {
        Parsed::Arguments(args, mistakes) => match args.check(mistakes) {
            Ok(config) => config,
            Err(mistakes) => return mistakes.report("swarm nemesis"),
        },
        Parsed::Exit(code) => return code,
    };
    // What is done to processes and files must not keep proxies and browsers waiting.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    conclude("swarm nemesis", runtime.block_on(run(&config)))
}

/// Whether all has survived.
async fn run(config: &Config) -> Result<bool> {
    eprintln!("nemesis: seed {}; again: {}", config.seed, config.replay());
    for (kind, why) in &config.left_out {
        eprintln!("nemesis: without {}: {why}", kind.name());
    }
    let schedule = Schedule::of(config.seed, config.duration, &config.kinds);
    let mut stage = Stage::set(config, schedule.sizes[0]).await?;
    let mut run = Run::begin();
    let suffered = suffer(config, &schedule, &mut stage, &mut run).await;
    run.faults_to = now();
    let left = match suffered {
        Ok(()) => run.leave(&mut stage).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &left {
        run.reasons.push(format!("{error:#}"));
    }
    let report = Report::of(config, &schedule, run, left.unwrap_or_default(), &stage)?;
    if !report.is_clean() {
        let folder = std::env::temp_dir().join(format!("single-state-nemesis-{}", config.seed));
        stage.keep_logs(&folder)?;
        eprintln!("nemesis: logs and histories are kept in {}", folder.display());
    }
    report.publish(config)?;
    Ok(report.is_clean())
}

/// Calm first, then one episode after the other; an error is a fault that was not survived.
async fn suffer(
    config: &Config,
    schedule: &Schedule,
    stage: &mut Stage,
    run: &mut Run,
) -> Result<()> {
    let calm = (config.duration / CALM).clamp(CALM_LEAST, CALM_MOST);
    sleep(calm).await;
    run.faults_from = now();
    for episode in &schedule.episodes {
        let began = now();
        let told = happen(stage, episode).await;
        let fault = &episode.fault;
        let told = told.with_context(|| format!("{} is not survived", fault.kind.name()))?;
        stage.fleet.wait_for_links().await.with_context(|| {
            format!("after {} not all gateways reach all workers", fault.kind.name())
        })?;
        let healed = now();
        for (fault, told) in [Some(fault), episode.within.as_ref()].into_iter().flatten().zip(told)
        {
            let done = Done { kind: fault.kind, closes: may_close(fault), began, healed, told };
            eprintln!("{}", done.line(fault, run.began));
            run.done.push(done);
        }
        sleep(Duration::from_millis(episode.rest_ms)).await;
        let gone = stage.visitors.gone().await?;
        ensure!(gone == 0, "{gone} browsers have given up");
    }
    Ok(())
}

/// A fault lasts; another one comes and goes meanwhile. What is to be told of each.
async fn happen(
    stage: &mut Stage,
    Episode { fault, within, .. }: &Episode,
) -> Result<[Option<String>; 2]> {
    let told = stage.begin(fault).await?;
    let is_over = matches!(fault.kind, Kind::LinkFlap | Kind::DatabaseBackends | Kind::CrashPoint);
    let lasts = Duration::from_millis(if is_over { 0 } else { fault.lasts_ms });
    if let Some(other) = within {
        sleep(lasts / 2).await;
        let told = stage.begin(other).await?;
        ensure!(told.is_none(), "only what is light comes meanwhile");
        sleep(Duration::from_millis(other.lasts_ms)).await;
        stage.end(other).await?;
        sleep(lasts / 2).await;
    } else {
        sleep(lasts).await;
    }
    stage.end(fault).await?;
    Ok([told, None])
}

fn may_close(fault: &Fault) -> bool {
    let is_gateway = || crash::point(fault).process() == single_state_faults::Process::Gateway;
    fault.kind.may_close() || fault.kind == Kind::CrashPoint && is_gateway()
}
