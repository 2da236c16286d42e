//! The number of workers changes under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use single_state_tests::page::Page;
use tokio::time::sleep;

use crate::stage::{Scene, Stage, Store, must_be_handed_over, must_have_moved};

#[tokio::test]
async fn sessions_move_once_when_workers_are_added() -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = Scene::new("3 workers become 5", *store).set().await?;
        stage.fleet.start_workers(5).await?;
        stage.begin();
        stage.resize(5)?;
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        let moved = stage.sessions_between(3, 5);
        let verdict = stage.end().await?;
        must_have_moved(&verdict, &moved)?;
        must_be_handed_over(&verdict)?;
        ensure!(verdict.most_moves() == 1, "{:?}", verdict.moves);
    }
    Ok(())
}

#[tokio::test]
async fn workers_come_and_go_while_gateways_learn_of_it_one_after_the_other() -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = Scene::new("3, 5, 2, 1, 3 workers", *store).set().await?;
        let apart = stage.scene.scale.pick(Duration::from_secs(1), Duration::from_secs(5));
        stage.begin();
        stage.fleet.start_workers(5).await?;
        resize_apart(&mut stage, 5, apart).await?;
        // Nobody waits until these have moved.
        resize_apart(&mut stage, 2, apart).await?;
        end_workers(&mut stage, 2..5).await?;
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(1).await?;

        // The same moment is the end of the worker and of its place, and it begins with its place.
        stage.resize(1)?;
        end_workers(&mut stage, 1..2).await?;
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(1).await?;
        stage.resize(3)?;
        for index in 1..3 {
            stage.fleet.start_worker_again(index).await?;
        }
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        // All that are not at worker 0 in the end were there while it was the only one.
        let moved = stage.sessions_between(1, 3);
        let verdict = stage.end().await?;
        let stayed: Vec<_> =
            moved.iter().filter(|session| !verdict.moves.contains_key(*session)).collect();
        ensure!(stayed.is_empty(), "not moved: {stayed:?}");
    }
    Ok(())
}

/// The file that a gateway watches may be older than what it has learnt from workers.
#[tokio::test]
async fn a_gateway_keeps_the_newest_list_of_workers_whoever_has_told_it() -> Result<()> {
    let mut stage = Scene::new("an older list comes later", Store::Sqlite).set().await?;
    let home = stage.fleet.size();
    stage.fleet.start_workers(5).await?;
    stage.begin();
    let older = stage.fleet.next_topology(5);
    let newest = stage.fleet.next_topology(home);
    stage.fleet.tell(0, &newest)?;
    // Its workers know by now, and tell the other gateway when it asks them for a session.
    stage.fleet.wait_for_gateway(0, |status| status["generation"] == 3).await?;
    let url = stage.fleet.url(1, "?session=late");
    Page::connect(&url, "late", stage.recorder.clone()).await?.items().await?;
    stage.fleet.wait_for_gateway(1, |status| status["generation"] == 3).await?;
    stage.fleet.tell(1, &older)?;
    let ignored = "an older list of workers is ignored: the cluster knows a newer one";
    stage.fleet.gateways[1].process.wait_for_message(ignored).await?;
    stage.wait_until_home().await?;
    stage.visitors.wait_for_beats(2).await?;
    let verdict = stage.end().await?;
    ensure!(verdict.moved() == 0, "moved: {:?}", verdict.moves);
    Ok(())
}

async fn resize_apart(stage: &mut Stage, size: usize, apart: Duration) -> Result<()> {
    stage.expect_size(size);
    let topology = stage.fleet.next_topology(size);
    for gateway in 0..stage.fleet.gateways.len() {
        if gateway > 0 {
            sleep(apart).await;
        }
        stage.fleet.tell(gateway, &topology)?;
    }
    Ok(())
}

async fn end_workers(stage: &mut Stage, indexes: std::ops::Range<usize>) -> Result<()> {
    let ending = stage.fleet.workers[indexes].iter_mut().map(|worker| async {
        worker.process.signal("TERM")?;
        let status = worker.process.wait().await?;
        ensure!(status.success(), "a worker ends with {status}");
        Ok(())
    });
    try_join_all(ending).await.map(drop)
}
