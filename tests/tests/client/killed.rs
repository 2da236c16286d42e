//! Workers and gateways that are killed under many channels and pages.

use std::time::Duration;

use anyhow::{Result, ensure};
use single_state_tests::client::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::page::Page;
use crate::{Run, append, come_to_rest, seconds};

const WORKERS: usize = 3;
/// Channels of clients, and sockets of plain pages.
const CHANNELS: usize = 30;
const PAGES: usize = 30;
/// Sessions that channels share, some of them with a page; the first one of which a page is.
const SESSIONS: usize = 20;
const FIRST_OF_PAGES: usize = 10;
/// Each sends an item so often.
const PACE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn every_item_arrives_once_and_no_socket_is_closed_while_workers_are_killed_relaxed()
-> Result<()> {
    over_killed_workers("relaxed").await
}

#[tokio::test]
async fn every_item_arrives_once_and_no_socket_is_closed_while_workers_are_killed_durable()
-> Result<()> {
    over_killed_workers("durable").await
}

#[tokio::test]
async fn every_item_arrives_once_and_in_order_while_the_gateway_is_killed_relaxed() -> Result<()> {
    over_killed_gateways("relaxed").await
}

#[tokio::test]
async fn every_item_arrives_once_and_in_order_while_the_gateway_is_killed_durable() -> Result<()> {
    over_killed_gateways("durable").await
}

async fn over_killed_workers(durability: &str) -> Result<()> {
    let mut run = Run::start(durability, WORKERS).await?;
    let duration = seconds("SINGLE_STATE_TEST_ONCE_SECONDS");
    let every = Duration::from_secs(3).min(duration / 4);
    let until = Instant::now() + duration;
    let clients = start_clients(&run, until);
    let pages = start_pages(&run, until);

    let mut kills = 0;
    while Instant::now() + every < until {
        sleep(every).await;
        let index = kills % WORKERS;
        run.cluster.kill_worker(index).await?;
        run.cluster.wait_for_worker(index, "down").await?;
        run.cluster.start_worker_again(index).await?;
        kills += 1;
    }
    let (clients, sent) = come_to_rest(clients).await?;
    let of_pages: u64 = pages.join_all().await.into_iter().sum::<Result<u64>>()?;
    let checked = run.check()?;
    eprintln!(
        "{durability}: {kills} workers killed, {sent} items of channels, {of_pages} of pages"
    );
    eprintln!("{checked}");
    let connections: u64 = clients.iter().map(Client::connections).sum();
    ensure!(connections == CHANNELS as u64, "some of {CHANNELS} sockets broke: {connections}");
    Ok(())
}

async fn over_killed_gateways(durability: &str) -> Result<()> {
    let mut run = Run::start(durability, WORKERS).await?;
    let duration = seconds("SINGLE_STATE_TEST_ONCE_SECONDS");
    let every = Duration::from_secs(5).min(duration / 4);
    let until = Instant::now() + duration;
    let clients = start_clients(&run, until);

    let mut kills = 0;
    while Instant::now() + every < until {
        sleep(every).await;
        run.cluster.replace_gateway().await?;
        kills += 1;
    }
    let (clients, sent) = come_to_rest(clients).await?;
    let checked = run.check()?;
    let connections: u64 = clients.iter().map(Client::connections).sum();
    eprintln!("{durability}: {kills} gateways killed, {connections} connections, {sent} items");
    eprintln!("{checked}");
    let came_again = clients.iter().all(|client| client.connections() > 1);
    ensure!(kills > 0 && came_again, "{connections} connections over {kills} gateways");
    Ok(())
}

fn start_clients(run: &Run, until: Instant) -> JoinSet<Result<(Client, u64)>> {
    let client = |number| {
        let url = run.cluster.url(&format!("?session=session-{}", number % SESSIONS));
        append(Client::new(&url, run.manners()), number, PACE, until)
    };
    (0..CHANNELS).map(client).collect()
}

fn start_pages(run: &Run, until: Instant) -> JoinSet<Result<u64>> {
    let page = |number| {
        let url = run.cluster.url(&format!("?session=session-{}", FIRST_OF_PAGES + number));
        let page = Page::new(url, format!("page-{number}"), PACE, run.recorder.clone());
        page.append_over_one_socket(until)
    };
    (0..PAGES).map(page).collect()
}
