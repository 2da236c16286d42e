//! Mistakes in what is saved, acknowledged and applied.

use anyhow::{Result, ensure};
use single_state_faults::{Mutant, Point};
use single_state_tests::append::wait_until;
use single_state_tests::faults::{Faults, Victim};
use single_state_tests::trial::{Case, Store, Trial, must_be_killed};
use tokio::try_join;

/// The worker to which something happens.
const ONE: usize = 1;

/// Nothing happens but that browsers append.
async fn nothing_happens(case: Case) -> Result<Trial> {
    let mut trial = Trial::start(case).await?;
    trial.visitors.wait_for_beats(30).await?;
    Ok(trial)
}

/// Commits are so frequent that something is applied while one is under way.
async fn commits_all_the_time(mutant: Option<Mutant>) -> Result<Trial> {
    let case = Case::new(Store::Sqlite, Faults::default().and(mutant));
    nothing_happens(Case { commit_interval: "5ms", ..case }).await
}

/// Clients send again what was applied and not committed.
async fn gateway_dies(mutant: Option<Mutant>) -> Result<Trial> {
    let case = Case::new(Store::Sqlite, Faults::default().and(mutant));
    let mut trial = Trial::start(Case { commit_interval: "2s", ..case }).await?;
    trial.visitors.wait_for_beats(2).await?;
    trial.cluster.replace_gateway().await?;
    trial.visitors.wait_for_beats(2).await?;
    Ok(trial)
}

/// A gateway sends again what was committed and not acknowledged.
async fn worker_dies_with_a_commit(mutant: Option<Mutant>) -> Result<Trial> {
    let faults = Faults::kill(Victim::Worker(ONE), Point::Committed, 5).and(mutant);
    let mut trial = Trial::start(Case::new(Store::Sqlite, faults)).await?;
    must_be_killed(trial.cluster.workers[ONE].process.wait().await?)?;
    trial.visitors.wait_for_beats(2).await?;
    Ok(trial)
}

/// A worker that stood still saves what others have changed meanwhile.
async fn worker_stands_still(mutant: Option<Mutant>) -> Result<Trial> {
    let faults = Faults::stop(Victim::Worker(ONE), Point::Applied, 30).and(mutant);
    // What it had to save is due when it wakes, and what its successor has to save is not.
    let case = Case { commit_interval: "2s", ..Case::new(Store::Postgres, faults) };
    let mut trial = Trial::start(case).await?;
    trial.cluster.workers[ONE].process.wait_until_stopped().await?;
    trial.visitors.wait_for_beats(1).await?;
    trial.cluster.workers[ONE].process.signal("CONT")?;
    trial.cluster.wait_for_worker(ONE, "up").await?;
    trial.visitors.wait_for_beats(3).await?;
    Ok(trial)
}

/// A worker gives its sessions away while they are being saved.
async fn worker_drains(mutant: Option<Mutant>) -> Result<Trial> {
    let case = Case::new(Store::Sqlite, Faults::default().and(mutant)).durable();
    let mut trial = Trial::start(case).await?;
    trial.visitors.wait_for_beats(3).await?;
    let held = trial.hold_file()?;
    let worker = &mut trial.cluster.workers[ONE];
    let saves = async || Ok(worker.status().await?["dirty"] == 3);
    wait_until("all its sessions are to be saved", saves).await?;
    worker.process.signal("TERM")?;
    let drains = async || Ok(worker.admin_get("/readyz").await?.0 != 200);
    wait_until("the worker drains", drains).await?;
    // What is to be given away at once has been by the next answer.
    worker.status().await?;
    drop(held);
    ensure!(worker.process.wait().await?.success());
    trial.visitors.wait_for_beats(2).await?;
    Ok(trial)
}

/// The scenario is clean, and with the mistake one of these invariants does not hold.
async fn must_be_noticed(
    scenario: impl AsyncFn(Option<Mutant>) -> Result<Trial>,
    mutant: Mutant,
    invariants: &[u8],
) -> Result<()> {
    let clean = async { scenario(None).await?.end(false).await?.must_be_clean() };
    let faulty = async {
        scenario(Some(mutant)).await?.end(false).await?.must_be_noticed(mutant, invariants)
    };
    try_join!(clean, faulty).map(drop)
}

#[tokio::test]
async fn an_acknowledgement_before_its_commit_is_noticed() -> Result<()> {
    must_be_noticed(commits_all_the_time, Mutant::AckBeforeCommit, &[5]).await
}

#[tokio::test]
async fn an_acknowledgement_of_what_is_in_memory_only_is_noticed() -> Result<()> {
    must_be_noticed(commits_all_the_time, Mutant::AckOfMemory, &[5]).await
}

#[tokio::test]
async fn an_input_that_is_applied_each_time_it_comes_is_noticed() -> Result<()> {
    must_be_noticed(gateway_dies, Mutant::NoDedup, &[2]).await
}

#[tokio::test]
async fn a_snapshot_that_does_not_say_what_it_has_is_noticed() -> Result<()> {
    must_be_noticed(worker_dies_with_a_commit, Mutant::DedupNotSaved, &[1, 2]).await
}

#[tokio::test]
async fn a_save_of_an_owner_that_was_robbed_is_noticed() -> Result<()> {
    must_be_noticed(worker_stands_still, Mutant::NoEpochTest, &[8]).await
}

#[tokio::test]
async fn a_session_that_is_given_away_before_it_is_committed_is_noticed() -> Result<()> {
    must_be_noticed(worker_drains, Mutant::MovedBeforeCommit, &[9]).await
}
