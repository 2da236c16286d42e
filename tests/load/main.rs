//! `swarm`: simulated browsers that load a deployment, and figures of what it costs.
//!
//! ```text
//!   main ─ config.rs ─ limits.rs            what is asked for, and whether this machine can
//!     └─ crew.rs ══ news.rs ══ part.rs      the swarm and its processes, each with its browsers
//!          │                     └─ life.rs ─ peer.rs      one browser: plain, or single-state.v1
//!          ├─ usage.rs  timeline.rs  progress.rs           what is seen while it runs
//!          └─ verdict.rs ─ report.rs ─ page.rs, chart.rs   what has come of it
//!   nemesis/                              a cluster of its own, to which faults are done
//!   soak/                                 a cluster of its own, which is watched for hours
//! ```

mod chart;
mod config;
mod crew;
mod life;
mod limits;
mod nemesis;
mod news;
mod page;
mod part;
mod peer;
mod progress;
mod report;
mod soak;
mod timeline;
mod usage;
mod verdict;
mod workload;

use std::process::ExitCode;

use single_state_node::config::{Parsed, parse};
use single_state_node::exit;
use tokio::task::LocalSet;

use crate::config::{Args, Config};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|command| command.to_str()) {
        Some("nemesis") => return nemesis::main(args),
        Some("soak") => return soak::main(args),
        _ => {}
    }
    let config = match parse::<Args>(std::env::args_os()) {
        Parsed::Arguments(args, mistakes) => match args.check(mistakes) {
            Ok(config) => config,
            Err(mistakes) => return mistakes.report("swarm"),
        },
        Parsed::Exit(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    let ended = LocalSet::new().block_on(&runtime, run(config));
    // Whoever still looks up a name is not waited for.
    runtime.shutdown_background();
    conclude("swarm", ended)
}

/// What a command has come to, as an exit code; of an error its reason is said.
fn conclude(command: &str, ended: anyhow::Result<bool>) -> ExitCode {
    ExitCode::from(match ended {
        Ok(true) => exit::CLEAN,
        Ok(false) => exit::FAILED,
        Err(error) => {
            eprintln!("{command}: {error:#}");
            exit::FAILED
        }
    })
}

/// Whether all went well.
async fn run(config: Config) -> anyhow::Result<bool> {
    if let Some(part) = config.part.clone() {
        return part::run(config, &part).await.map(|()| true);
    }
    let report = crew::run(&config).await?;
    report.publish(config.json.as_deref(), config.html.as_deref())?;
    Ok(report.is_clean())
}
