//! A worker dies, stands still, or is told to end.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::stage::{Scene, Store, must_have_moved};

/// The worker to which something happens.
const ONE: usize = 1;

#[tokio::test]
async fn sessions_of_a_killed_worker_go_on_elsewhere_and_come_home_when_it_is_back() -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = Scene::new("kill -9, not restarted", *store).set().await?;
        let robbed = stage.sessions_of(ONE, stage.fleet.size());
        stage.begin();
        stage.fleet.workers[ONE].process.kill().await?;
        stage.visitors.wait_for_beats(2).await?;
        stage.fleet.wait_for_worker(ONE, "down").await?;
        let verdict = stage.end().await?;
        must_have_moved(&verdict, &robbed)?;
        // Nobody had to wait until it was taken by force from somebody who may be there.
        let by_force = verdict.stolen.iter().filter(|down| !down.contains(&(ONE as u16))).count();
        ensure!(by_force == 0, "{by_force} of {} thefts by force", verdict.stolen.len());

        let mut stage = Scene::new("kill -9, then back", *store).set().await?;
        let robbed = stage.sessions_of(ONE, stage.fleet.size());
        stage.fleet.workers[ONE].process.kill().await?;
        stage.visitors.wait_for_beats(2).await?;
        stage.begin();
        stage.fleet.start_worker_again(ONE).await?;
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        must_have_moved(&stage.end().await?, &robbed)?;
    }
    Ok(())
}

/// In PostgreSQL only: a process that stands still within a transaction keeps everybody from a file.
#[tokio::test]
async fn a_worker_that_stood_still_says_and_saves_nothing_of_sessions_that_it_has_lost()
-> Result<()> {
    let mut stage = Scene::new("SIGSTOP, then SIGCONT", Store::Postgres).set().await?;
    let robbed = stage.sessions_of(ONE, stage.fleet.size());
    let asleep = stage.scene.scale.pick(Duration::from_secs(5), Duration::from_secs(10));
    stage.begin();
    stage.fleet.workers[ONE].process.signal("STOP")?;
    sleep(asleep).await;
    stage.visitors.wait_for_beats(1).await?;
    stage.fleet.workers[ONE].process.signal("CONT")?;
    stage.wait_until_home().await?;
    stage.visitors.wait_for_beats(2).await?;
    must_have_moved(&stage.end().await?, &robbed)
}

#[tokio::test]
async fn workers_that_are_told_to_end_one_after_the_other_give_their_sessions_away_first()
-> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = Scene::new("rolling restart of workers", *store).set().await?;
        let all = stage.visitors.sessions().iter().cloned().collect();
        stage.begin();
        for index in 0..stage.fleet.size() {
            let status = stage.fleet.drain_worker(index).await?;
            ensure!(status.success(), "worker {index} ends with {status}");
            stage.fleet.start_worker_again(index).await?;
            stage.fleet.wait_for_worker(index, "up").await?;
            if stage.scene.scale.is_full {
                stage.wait_until_home().await?;
            }
        }
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        let verdict = stage.end().await?;
        must_have_moved(&verdict, &all)?;
    }
    Ok(())
}
