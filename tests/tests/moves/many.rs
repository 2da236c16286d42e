//! Many sessions are moved by one change, half of them with nobody attached.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use single_state_tests::append::wait_until;
use single_state_tests::cluster::home;
use single_state_tests::history::now;
use single_state_tests::page::{Page, Received};

use crate::stage::{Scene, Stage, Store};

const AT_ONCE: usize = 64;
const BEFORE: usize = 3;
const AFTER: usize = 4;

#[tokio::test]
async fn sessions_with_and_without_visitors_go_where_they_belong_when_a_worker_is_added()
-> Result<()> {
    for store in Store::of_this_run() {
        let mut scene = Scene::new("3 workers become 4, half detached", *store);
        if scene.scale.is_full {
            // A process may have 20,000 files open: the visitors are in this one.
            scene.scale.sessions = 10_000;
            scene.scale.pace = Duration::from_secs(5);
            // They are asked for their items one after another, and hear no pings meanwhile.
            scene.gateway_flags = vec![["--idle-timeout", "0s"]];
        }
        let detached: Vec<_> =
            (0..scene.scale.sessions).map(|number| format!("detached-{number}")).collect();
        let mut stage = scene.set().await?;
        visit_all(&stage, &detached, "before", append).await?;
        stage.fleet.start_workers(AFTER).await?;
        stage.begin();
        let began = now();
        stage.resize(AFTER)?;
        stage.wait_until_home().await?;
        let attached = now() - began;
        wait_until_given_back(&stage, &detached).await?;
        let all = now() - began;
        stage.visitors.wait_for_beats(1).await?;
        visit_all(&stage, &detached, "after", find).await?;
        let moved = stage.sessions_between(BEFORE, AFTER);
        let away = detached.iter().filter(|id| home(id, BEFORE) != home(id, AFTER)).count();
        eprintln!(
            "{}: {} attached within {} ms, {away} detached within {} ms, {:.0} a second",
            stage.scene.name,
            moved.len(),
            attached / 1000,
            all / 1000,
            (moved.len() + away) as f64 * 1e6 / all.max(attached) as f64
        );
        let verdict = stage.end().await?;
        ensure!(moved.iter().all(|session| verdict.moves.contains_key(session)), "not all moved");
    }
    Ok(())
}

async fn visit_all<F: Future<Output = Result<()>>>(
    stage: &Stage,
    sessions: &[String],
    when: &str,
    what: impl Fn(Page) -> F,
) -> Result<()> {
    let visit = |(number, session): (usize, &String)| {
        let url = stage.fleet.url(number % 2, &format!("?session={session}"));
        let (channel, recorder) = (format!("{session}-{when}"), stage.recorder.clone());
        let what = &what;
        async move { what(Page::connect(&url, &channel, recorder).await?).await }
    };
    let visiting = stream::iter(sessions.iter().enumerate()).map(visit).buffer_unordered(AT_ONCE);
    visiting.try_collect::<Vec<()>>().await.map(drop)
}

async fn append(mut page: Page) -> Result<()> {
    let item = format!("{}-item", page.session());
    page.send(&json!({"tag": "append", "item": item}).to_string()).await?;
    while let Received::Message(bytes) = page.receive().await? {
        let message: Value = serde_json::from_slice(&bytes)?;
        if message["key"] == "count" && message["value"] == 1 {
            return Ok(());
        }
    }
    anyhow::bail!("{} was closed", page.session())
}

async fn find(mut page: Page) -> Result<()> {
    let expected = vec![format!("{}-item", page.session())];
    let items = page.items().await?;
    ensure!(items == expected, "{} has {items:?}", page.session());
    Ok(())
}

/// Each worker has only those in memory that belong to it.
async fn wait_until_given_back(stage: &Stage, detached: &[String]) -> Result<()> {
    let visited: std::collections::BTreeSet<_> = stage.visitors.sessions().iter().collect();
    wait_until("workers have given back what is not theirs", async || {
        for (index, worker) in stage.fleet.workers.iter().enumerate() {
            let is_here = |session: &&String| home(session, AFTER) == index;
            let stays = |session: &&String| is_here(session) && home(session, BEFORE) == index;
            let attached = visited.iter().filter(|session| is_here(session)).count();
            let most = attached + detached.iter().filter(stays).count();
            let status = worker.status().await?;
            if status["sessions"].as_u64().is_none_or(|here| here > most as u64) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}
