//! `swarm soak` at its shortest. Whether a figure rises is shown beside the arithmetic,
//! `tests/load/soak/flat.rs`.

use anyhow::{Context, Result, ensure};
use single_state_tests::DEADLINE;
use single_state_tests::process::program;
use tokio::process::Command;
use tokio::time::timeout;

async fn soak(line: &str) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(program("swarm"));
    command.arg("soak").args(line.split_whitespace()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.context("it does not end")??;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test]
async fn a_short_soak_tells_each_round_what_each_process_holds_and_ends_with_slopes() -> Result<()>
{
    let (code, text) = soak("--duration 4s --round 1s --browsers 10").await?;
    // So short a time may show what is only beginning.
    let verdict = if code == Some(0) { "\nflat\n" } else { "\nNOT FLAT\n" };
    ensure!(matches!(code, Some(0 | 1)) && text.ends_with(verdict), "{text}");
    for process in ["gateway 0", "gateway 1", "worker 0", "worker 1", "worker 2"] {
        // Five slopes, and a look each round, which may take longer than asked.
        ensure!(text.matches(process).count() > 5 + 2, "{process}:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_soak_that_makes_no_sense_is_told_all_at_once() -> Result<()> {
    let (code, text) = soak("--duration 2s --round 1s --browsers 0 --hours 3").await?;
    ensure!(code == Some(64), "{text}");
    for part in ["--duration 2s: give at least 4 times", "--browsers 0", "'--hours'"] {
        ensure!(text.contains(part), "{part} is missing in:\n{text}");
    }
    Ok(())
}
