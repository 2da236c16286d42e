//! A worker or a gateway dies at the worst places that there are, while pages and clients append: what
//! was sent is applied once and in order, and pages notice nothing of a worker's death. The places are
//! those of `single_state_faults::Point`; here is a scenario for each.

mod gateway;
mod stopped;
mod worker;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use single_state_faults::{CRASH_AT, MUTANT, Mutant, Point};
use single_state_tests::process::{Process, program};
use tokio::process::Command;

/// A place without a scenario is not tested.
#[test]
fn every_crash_point_has_a_scenario() {
    let scenarios = [include_str!("worker.rs"), include_str!("gateway.rs")].concat();
    let is_used = |point: &&Point| scenarios.contains(&format!("Point::{point:?}"));
    let missing: BTreeSet<_> =
        Point::ALL.iter().filter(|point| !is_used(point)).map(|point| point.name()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn a_name_that_there_is_not_is_bad_usage_and_answered_with_all_that_there_are() -> Result<()>
{
    let points: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
    let mutants: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    for name in ["gateway", "worker", "fixture"] {
        for (variable, names) in [(CRASH_AT, &points), (MUTANT, &mutants)] {
            let mut command = Command::new(program(name));
            command.env(variable, "nowhere:1");
            let mut process = Process::spawn(name, command)?;
            ensure!(process.wait().await?.code() == Some(64), "{name}, {variable}");
            for name in names {
                process.wait_for_line(|line| (line.trim() == *name).then_some(())).await?;
            }
        }
    }
    Ok(())
}
