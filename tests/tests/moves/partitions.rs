//! One gateway cannot reach one worker, which the other gateway still can.

use std::time::Duration;

use anyhow::{Result, ensure};
use single_state_tests::history::now;
use single_state_tests::proxy::{Faults, Flow};
use tokio::time::{Instant, sleep, sleep_until};

use crate::stage::{Scene, Stage, Store};

/// The gateway and the worker that are apart.
const GATEWAY: usize = 0;
const WORKER: usize = 1;
/// A connection that flaps is there for so long, and then away for so long.
const FLAP: Duration = Duration::from_millis(500);
/// A session that is taken away and called home again and again waits longer each time, from 2 s on.
const MOST_MOVES: usize = 12;

async fn set(name: &'static str, store: Store) -> Result<Stage> {
    let mut stage = Scene { has_proxies: true, ..Scene::new(name, store) }.set().await?;
    stage.begin();
    Ok(stage)
}

/// Everybody is served, whatever is between them and their workers.
async fn cut_off(name: &'static str, faults: Faults) -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = set(name, *store).await?;
        let apart = stage.scene.scale.pick(Duration::from_secs(5), Duration::from_secs(15));
        stage.fleet.proxies[GATEWAY][WORKER].set(faults);
        sleep(apart).await;
        stage.visitors.wait_for_beats(1).await?;
        heal_and_end(stage).await?;
    }
    Ok(())
}

async fn heal_and_end(mut stage: Stage) -> Result<()> {
    stage.fleet.proxies[GATEWAY][WORKER].heal();
    let healed = now();
    stage.visitors.wait_for_beats(1).await?;
    let served = now() - healed;
    stage.wait_until_home().await?;
    let at_home = now() - healed;
    stage.visitors.wait_for_beats(1).await?;
    let name = stage.scene.name;
    let verdict = stage.end().await?;
    eprintln!(
        "{name}: all heard of an item {} ms after healing, and were home after {} ms",
        served / 1000,
        at_home / 1000
    );
    ensure!(verdict.moved() > 0, "no session was moved");
    let most = verdict.most_moves();
    ensure!(most <= MOST_MOVES, "a session was moved {most} times: {:?}", verdict.moves);
    Ok(())
}

#[tokio::test]
async fn visitors_of_a_gateway_that_is_cut_off_from_a_worker_are_served_by_others() -> Result<()> {
    let faults = Faults { up: Flow::Block, down: Flow::Block, ..Faults::default() };
    cut_off("gateway and worker apart", faults).await
}

#[tokio::test]
async fn visitors_of_a_gateway_that_is_not_heard_by_a_worker_are_served_by_others() -> Result<()> {
    cut_off("apart to the worker", Faults { up: Flow::Block, ..Faults::default() }).await
}

#[tokio::test]
async fn visitors_of_a_gateway_that_does_not_hear_a_worker_are_served_by_others() -> Result<()> {
    cut_off("apart from the worker", Faults { down: Flow::Block, ..Faults::default() }).await
}

#[tokio::test]
async fn sessions_do_not_go_to_and_fro_with_a_link_that_flaps() -> Result<()> {
    for store in Store::of_this_run() {
        let mut stage = set("link flaps each 0.5 s", *store).await?;
        let flaps = if stage.scene.scale.is_full { 30 } else { 5 };
        let link = &stage.fleet.proxies[GATEWAY][WORKER];
        let mut next = Instant::now();
        for _ in 0..flaps {
            link.set(Faults { refuse: true, ..Faults::default() });
            link.cut();
            next += FLAP;
            sleep_until(next).await;
            link.heal();
            next += FLAP;
            sleep_until(next).await;
        }
        stage.visitors.wait_for_beats(1).await?;
        heal_and_end(stage).await?;
    }
    Ok(())
}
