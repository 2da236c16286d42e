//! A worker stands still at such a place, until others have its sessions, and goes on: it says and saves
//! nothing of what it has lost.

use anyhow::Result;
use single_state_faults::Point;
use single_state_tests::faults::{Faults, Victim};
use single_state_tests::trial::{Case, Store, Trial};

/// The worker that stops.
const ONE: usize = 1;

async fn wakes_up_too_late(case: Case) -> Result<()> {
    let mut trial = Trial::start(case).await?;
    trial.cluster.workers[ONE].process.wait_until_stopped().await?;
    trial.visitors.wait_for_beats(3).await?;
    trial.cluster.workers[ONE].process.signal("CONT")?;
    trial.cluster.wait_for_worker(ONE, "up").await?;
    trial.visitors.wait_for_beats(3).await?;
    trial.end(true).await?.must_be_unnoticed().map(drop)
}

fn stops(point: Point, nth: u32) -> Case {
    // In a file a process that stands still within a transaction would keep everybody out.
    Case::new(Store::Postgres, Faults::stop(Victim::Worker(ONE), point, nth))
}

#[tokio::test]
async fn a_worker_that_stood_still_with_a_claim_goes_on_without_it() -> Result<()> {
    wakes_up_too_late(stops(Point::Claimed, 2)).await
}

#[tokio::test]
async fn a_worker_that_stood_still_with_what_it_had_applied_saves_nothing_of_it() -> Result<()> {
    wakes_up_too_late(stops(Point::Applied, 30)).await
}

#[tokio::test]
async fn a_worker_that_stood_still_while_it_saved_acknowledges_nothing_of_it() -> Result<()> {
    wakes_up_too_late(stops(Point::SaveSent, 20).durable()).await
}

#[tokio::test]
async fn a_worker_that_stood_still_with_a_commit_says_nothing_of_it() -> Result<()> {
    wakes_up_too_late(stops(Point::Committed, 5)).await
}
