//! `bench-store`: what it costs to keep sessions. Four parts: saves and claims of the stores alone,
//! many resident sessions on one PostgreSQL, and our servers beside a stateless one.
//!
//! Owns: flags, which parts run, where tables go. CPU time counts, which holds on noisy machines.

#![expect(clippy::print_stdout, reason = "the tables are the command's result")]

mod claims;
mod contest;
mod database;
mod load;
mod meter;
mod resident;
mod saves;
mod servers;
mod table;
#[path = "../load/usage.rs"]
#[allow(dead_code, reason = "swarm watches itself, too")]
mod usage;
#[path = "../load/workload.rs"]
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tokio::task::LocalSet;

use crate::table::Table;

/// A folder for temporary files that is on a disk; `/tmp` may be in memory.
const DISK: &str = "/var/tmp";

/// Measures what it costs to keep sessions.
#[derive(Debug, Parser)]
#[command(name = "bench-store", version, about)]
struct Args {
    /// What to measure; several; default: all.
    #[arg(long, value_enum, value_name = "PART")]
    part: Vec<Part>,
    /// Sessions that are in memory.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    sessions: usize,
    /// Write all tables as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Saves of the stores alone.
    Saves,
    /// Claims of the stores alone.
    Claims,
    /// Many sessions in memory, few of them active.
    Resident,
    /// Ours beside a server that loads and saves at each message.
    Stateless,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| LocalSet::new().block_on(&runtime, run(&args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let wants = |part| args.part.is_empty() || args.part.contains(&part);
    let mut tables = Vec::new();
    if wants(Part::Saves) {
        show(&mut tables, saves::run().await?);
    }
    if wants(Part::Claims) {
        show(&mut tables, claims::run().await?);
    }
    if wants(Part::Resident) {
        show(&mut tables, resident::run(args.sessions).await?);
    }
    if wants(Part::Stateless) {
        show(&mut tables, contest::run().await?);
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&tables)?)?;
    }
    Ok(())
}

fn show(tables: &mut Vec<Table>, table: Table) {
    println!("\n{table}");
    tables.push(table);
}
