//! A worker dies: its sessions go on elsewhere, and come home when it is back.

use anyhow::{Result, ensure};
use single_state_faults::Point;
use single_state_tests::faults::{Faults, Victim};
use single_state_tests::trial::{Case, Store, Trial, must_be_killed};

/// The worker that dies.
const ONE: usize = 1;

fn dies(point: Point, nth: u32) -> Faults {
    Faults::kill(Victim::Worker(ONE), point, nth)
}

/// It dies while browsers do nothing but append.
async fn dies_under_load(case: Case) -> Result<()> {
    let mut trial = Trial::start(case).await?;
    let status = trial.cluster.workers[ONE].process.wait().await?;
    must_be_killed(status)?;
    goes_on_and_comes_home(trial).await
}

/// It dies when it is told to end.
async fn dies_in_its_drain(case: Case) -> Result<()> {
    let mut trial = Trial::start(case).await?;
    trial.visitors.wait_for_beats(2).await?;
    let worker = &mut trial.cluster.workers[ONE].process;
    worker.signal("TERM")?;
    must_be_killed(worker.wait().await?)?;
    goes_on_and_comes_home(trial).await
}

async fn goes_on_and_comes_home(mut trial: Trial) -> Result<()> {
    trial.visitors.wait_for_beats(3).await?;
    trial.cluster.restart_worker(ONE).await?;
    goes_on(trial).await
}

async fn goes_on(mut trial: Trial) -> Result<()> {
    trial.visitors.wait_for_beats(3).await?;
    trial.end(true).await?.must_be_unnoticed().map(drop)
}

#[tokio::test]
async fn a_worker_that_dies_when_an_open_comes_is_not_noticed() -> Result<()> {
    dies_under_load(Case::new(Store::Sqlite, dies(Point::OpenReceived, 2))).await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_claim_that_nobody_knows_of_is_not_noticed() -> Result<()> {
    dies_under_load(Case::new(Store::Sqlite, dies(Point::Claimed, 2))).await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_claim_that_nobody_knows_of_is_not_noticed_in_postgresql()
-> Result<()> {
    dies_under_load(Case::new(Store::Postgres, dies(Point::Claimed, 2))).await
}

#[tokio::test]
async fn a_worker_that_dies_with_inputs_that_are_applied_and_not_saved_is_not_noticed() -> Result<()>
{
    dies_under_load(Case::new(Store::Sqlite, dies(Point::Applied, 30))).await
}

#[tokio::test]
async fn a_worker_that_dies_before_it_commits_is_not_noticed() -> Result<()> {
    dies_under_load(Case::new(Store::Sqlite, dies(Point::SaveSent, 5))).await
}

#[tokio::test]
async fn a_worker_that_dies_before_it_commits_is_not_noticed_where_nothing_is_said_before()
-> Result<()> {
    dies_under_load(Case::new(Store::Sqlite, dies(Point::SaveSent, 20)).durable()).await
}

#[tokio::test]
async fn a_worker_that_dies_while_postgresql_commits_is_not_noticed() -> Result<()> {
    dies_under_load(Case::new(Store::Postgres, dies(Point::SaveSent, 5))).await
}

#[tokio::test]
async fn a_worker_that_dies_while_postgresql_commits_is_not_noticed_where_nothing_is_said_before()
-> Result<()> {
    dies_under_load(Case::new(Store::Postgres, dies(Point::SaveSent, 20)).durable()).await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_commit_that_nobody_knows_of_is_not_noticed() -> Result<()> {
    dies_under_load(Case::new(Store::Sqlite, dies(Point::Committed, 5))).await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_commit_that_nobody_knows_of_is_not_noticed_in_postgresql()
-> Result<()> {
    dies_under_load(Case::new(Store::Postgres, dies(Point::Committed, 20)).durable()).await
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_of_its_acknowledgements_is_not_noticed() -> Result<()> {
    dies_under_load(Case::new(Store::Sqlite, dies(Point::AckHalfWritten, 7))).await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_session_that_it_has_given_up_is_not_noticed() -> Result<()> {
    dies_in_its_drain(Case::new(Store::Sqlite, dies(Point::Released, 2))).await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_session_that_it_has_given_up_is_not_noticed_in_postgresql()
-> Result<()> {
    dies_in_its_drain(Case::new(Store::Postgres, dies(Point::Released, 2))).await
}

#[tokio::test]
async fn a_worker_that_dies_while_it_says_that_it_goes_is_not_noticed() -> Result<()> {
    dies_in_its_drain(Case::new(Store::Sqlite, dies(Point::GoingAway, 1))).await
}

#[tokio::test]
async fn a_worker_that_dies_when_it_is_about_to_serve_again_is_not_noticed() -> Result<()> {
    for store in [Store::Sqlite, Store::Postgres] {
        let mut trial = Trial::start(Case::new(store, Faults::default())).await?;
        trial.cluster.kill_worker(ONE).await?;
        trial.cluster.set_faults(dies(Point::Starting, 1));
        must_be_killed(trial.cluster.start_worker_in_vain(ONE).await?)?;
        trial.cluster.set_faults(Faults::default());
        goes_on_and_comes_home(trial).await?;
    }
    Ok(())
}

/// A worker of the next version dies with its first save; the other worker is still of the older one.
async fn dies_in_its_upgrade(store: Store) -> Result<Trial> {
    let case = Case { app_version: Some(1), ..Case::new(store, Faults::default()) };
    let mut trial = Trial::start(case).await?;
    trial.visitors.wait_for_beats(2).await?;
    let worker = &mut trial.cluster.workers[ONE].process;
    worker.signal("TERM")?;
    ensure!(worker.wait().await?.success());
    trial.cluster.set_app_version(2);
    trial.cluster.set_faults(dies(Point::Upgrading, 1));
    trial.cluster.start_worker_again(ONE).await?;
    trial.cluster.set_faults(Faults::default());
    must_be_killed(trial.cluster.workers[ONE].process.wait().await?)?;
    Ok(trial)
}

/// Nothing was committed: the other worker can read what it finds.
#[tokio::test]
async fn a_worker_that_dies_with_the_first_save_of_a_newer_version_is_not_noticed() -> Result<()> {
    goes_on_and_comes_home(dies_in_its_upgrade(Store::Sqlite).await?).await
}

/// It may have been committed: then the session waits for who can read it.
#[tokio::test]
async fn a_worker_that_dies_with_the_first_save_of_a_newer_version_is_waited_for_in_postgresql()
-> Result<()> {
    let mut trial = dies_in_its_upgrade(Store::Postgres).await?;
    trial.cluster.restart_worker(ONE).await?;
    goes_on(trial).await
}
