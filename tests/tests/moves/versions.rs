//! Workers of two versions of an app side by side: the later version is rolled out, and taken back.
//! Highest index first, as a StatefulSet does it. A worker of the earlier version leaves alone what
//! the later one has saved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::stage::{Scene, Stage, Store, must_have_moved};

const EARLIER: u32 = 1;
const LATER: u32 = 2;
const WORKERS: usize = 3;
/// Where a rollout begins.
const LAST: usize = WORKERS - 1;
/// Longer than a gateway passes over a worker that cannot read a session.
const A_WHILE: Duration = Duration::from_secs(6);
/// Longer than browsers are kept when no worker is there.
const PARK_TIMEOUT: &str = "5s";

async fn set(name: &'static str, store: Store, version: u32) -> Result<Stage> {
    let mut scene = Scene { app_version: Some(version), ..Scene::new(name, store) };
    scene.gateway_flags.push(["--park-timeout", PARK_TIMEOUT]);
    scene.set().await
}

async fn wait_a_while(stage: &mut Stage) -> Result<()> {
    sleep(stage.scene.scale.pick(A_WHILE, 2 * A_WHILE)).await;
    stage.visitors.wait_for_beats(1).await
}

#[tokio::test]
async fn a_new_version_is_rolled_out_under_load_and_reads_what_the_old_one_has_saved() -> Result<()>
{
    for store in Store::of_this_run() {
        let mut stage = set("version 1 becomes 2", *store, EARLIER).await?;
        let all = stage.visitors.sessions().iter().cloned().collect();
        stage.begin();
        for index in (0..WORKERS).rev() {
            stage.fleet.roll_worker(index, LATER).await?;
        }
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        let verdict = stage.end().await?;
        must_have_moved(&verdict, &all)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_rollback_that_stops_half_way_leaves_what_is_newer_where_it_can_be_read() -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = set("2, then 1 at some, then 2", *store, LATER).await?;
        let rolled = [LAST, LAST - 1];
        let away = |stage: &Stage, index| stage.sessions_of(index, WORKERS);
        let (last, other) = (away(&stage, rolled[0]), away(&stage, rolled[1]));
        stage.begin();
        for index in rolled {
            stage.fleet.roll_worker(index, EARLIER).await?;
            wait_a_while(&mut stage).await?;
            // Gateways look again where sessions belong.
            stage.resize(WORKERS)?;
            stage.fleet.wait_for_links().await?;
            wait_a_while(&mut stage).await?;
            stage.wait_until_left(index).await?;
        }
        for index in rolled {
            stage.fleet.roll_worker(index, LATER).await?;
            stage.visitors.wait_for_beats(1).await?;
        }
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        let moved: BTreeSet<_> = last.union(&other).cloned().collect();
        // Away from both, by each of its gateways once called to each in vain, and home.
        let most = |session: &String| rolled.len() * (1 + stage.gateways_of(session)) + 1;
        let most: BTreeMap<_, _> = moved.iter().map(|one| (one.clone(), most(one))).collect();
        let verdict = stage.end().await?;
        must_have_moved(&verdict, &moved)?;
        let is_restless = |(session, moves): &(&String, &usize)| **moves > most[*session];
        let restless: Vec<_> = verdict.moves.iter().filter(is_restless).collect();
        ensure!(restless.is_empty(), "sessions go to and fro: {restless:?}");
    }
    Ok(())
}

#[tokio::test]
async fn sessions_that_no_worker_can_read_wait_with_open_sockets_until_one_can() -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = set("2, then 1 everywhere, then 2", *store, LATER).await?;
        stage.begin();
        for index in (0..WORKERS).rev() {
            stage.fleet.roll_worker(index, EARLIER).await?;
        }
        stage.wait_until_parked().await?;
        sleep(stage.scene.scale.pick(A_WHILE, 2 * A_WHILE)).await;
        stage.wait_until_parked().await?;
        stage.fleet.roll_worker(LAST, LATER).await?;
        stage.visitors.wait_for_beats(2).await?;
        for index in (0..LAST).rev() {
            stage.fleet.roll_worker(index, LATER).await?;
        }
        stage.wait_until_home().await?;
        stage.visitors.wait_for_beats(2).await?;
        let all = stage.visitors.sessions().iter().cloned().collect();
        must_have_moved(&stage.end().await?, &all)?;
    }
    Ok(())
}
