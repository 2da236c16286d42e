//! Connections that are cut all the time, half of them in the middle of what is under way, while
//! workers are killed.

use std::time::Duration;

use anyhow::{Result, ensure};
use single_state_tests::client::Client;
use single_state_tests::cluster::Cluster;
use single_state_tests::proxy::{Proxy, Way};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::page::Page;
use crate::{Run, append, come_to_rest, seconds};

/// A client sends an item so often.
const PACE: Duration = Duration::from_millis(5);
/// Connections are cut so often …
const CUTS: Duration = Duration::from_millis(200);
/// … and a worker is killed so often.
const KILLS: Duration = Duration::from_secs(2);
/// Sessions with a channel of their own, and how many clients share one more.
const ALONE: usize = 3;
const TOGETHER: usize = 2;
const PAGES: usize = 2;

#[tokio::test]
async fn every_item_arrives_once_and_in_order_over_broken_connections_relaxed() -> Result<()> {
    items_arrive_once("relaxed").await
}

#[tokio::test]
async fn every_item_arrives_once_and_in_order_over_broken_connections_durable() -> Result<()> {
    items_arrive_once("durable").await
}

async fn items_arrive_once(durability: &str) -> Result<()> {
    let mut run = Run::start(durability, 2).await?;
    let proxy = Proxy::start(&run.cluster.gateway.address).await?;
    let url = |session: &str| format!("ws://{}/ws?session={session}", proxy.address());
    let until = Instant::now() + seconds("SINGLE_STATE_TEST_ONCE_SECONDS");

    let mut clients = JoinSet::new();
    for number in 0..ALONE + TOGETHER {
        let session = if number < ALONE { format!("alone-{number}") } else { "together".into() };
        clients.spawn(append(Client::new(&url(&session), run.manners()), number, PACE, until));
    }
    let mut pages = JoinSet::new();
    for number in 0..PAGES {
        let name = format!("page-{number}");
        let page = Page::new(url(&name), name, PACE, run.recorder.clone());
        pages.spawn(page.append_over_and_over(until));
    }
    let (cuts, kills) = break_things(&mut run.cluster, &proxy, until).await?;

    let (clients, sent) = come_to_rest(clients).await?;
    while let Some(page) = pages.join_next().await {
        page??;
    }
    let checked = run.check()?;
    let connections: u64 = clients.iter().map(Client::connections).sum();
    eprintln!("{durability}: {cuts} cuts, {kills} kills, {connections} connections, {sent} items");
    eprintln!("{checked}");
    ensure!(connections > 3 * (ALONE + TOGETHER) as u64, "only {connections} connections");
    Ok(())
}

/// Cuts all connections again and again, half of them in the middle of what is under way, and kills
/// workers; how often it did which.
async fn break_things(
    cluster: &mut Cluster,
    proxy: &Proxy,
    until: Instant,
) -> Result<(usize, usize)> {
    let (mut cuts, mut kills) = (0, 0);
    let mut next_kill = Instant::now() + KILLS;
    while Instant::now() + CUTS < until {
        sleep(CUTS).await;
        match cuts % 4 {
            0 => proxy.cut_after(Way::Up, 37 + 101 * (cuts % 13)),
            2 => proxy.cut_after(Way::Down, 29 + 103 * (cuts % 11)),
            _ => drop(proxy.cut()),
        }
        cuts += 1;
        if Instant::now() > next_kill {
            let index = kills % cluster.workers.len();
            cluster.kill_worker(index).await?;
            cluster.start_worker_again(index).await?;
            kills += 1;
            next_kill = Instant::now() + KILLS;
        }
    }
    Ok((cuts, kills))
}
