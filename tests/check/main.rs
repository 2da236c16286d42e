//! `check FILES…`: tests histories of clients and workers; what is wrong first, with its context, or
//! how often each invariant was put to the test.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use single_state_node::exit;
use single_state_tests::checker::{Options, check, check_answers};
use single_state_tests::history::read;

/// Tests the invariants from histories.
#[derive(Debug, Parser)]
#[command(name = "check", version, about)]
struct Args {
    /// Histories of clients (`swarm --history`) and of workers (`worker --history`).
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How many workers there are, to test where sessions live; several, if that has changed.
    #[arg(long, value_name = "N")]
    workers: Vec<u64>,
    /// The key that places sessions.
    #[arg(long, default_value = "00000000000000000000000000000000", value_name = "HEX32", value_parser = key)]
    placement_key: [u8; 16],
    /// No socket may have been closed by the server.
    #[arg(long)]
    no_closes: bool,
    /// When the last fault was over, in microseconds of the histories' clock: from then on all must be
    /// acknowledged within 10 s.
    #[arg(long, value_name = "T")]
    healed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(clean) => ExitCode::from(if clean { exit::CLEAN } else { exit::FAILED }),
        Err(error) => {
            eprintln!("check: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

fn key(text: &str) -> Result<[u8; 16], String> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    number.map(u128::to_be_bytes).ok_or_else(|| "give 32 hex digits".to_owned())
}

fn run(args: &Args) -> Result<bool> {
    let placement = (!args.workers.is_empty()).then(|| (args.placement_key, args.workers.clone()));
    let options = Options { placement, no_closes: args.no_closes };
    let mut out = std::io::stdout().lock();
    let events = read(&args.files)?;
    let answered = args.healed.map_or(Ok(0), |healed| check_answers(&events, healed));
    match answered.and_then(|answered| Ok((check(&events, &options)?, answered))) {
        Ok((checked, answered)) => writeln!(out, "{checked}, I12 {answered}")?,
        Err(violation) => {
            writeln!(out, "{violation}")?;
            return Ok(false);
        }
    }
    Ok(true)
}
