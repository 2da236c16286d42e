//! What clients append arrives once and in order, whatever becomes of their connections and of the
//! workers: judged by the checker, from what clients and workers have written down.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::checker::{Checked, Options as Known, check_files};
use single_state_tests::client::{Client, Manners};
use single_state_tests::cluster::{Cluster, Options, PLACEMENT_KEY};
use single_state_tests::history::{End, Recorder, What};
use single_state_tests::proxy::{Proxy, Way};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long the connections of a test are broken; `make exactly-once` has more time.
const SECONDS: u64 = 6;
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

fn seconds() -> Duration {
    let variable = std::env::var("SINGLE_STATE_TEST_CUT_SECONDS").ok();
    Duration::from_secs(variable.and_then(|text| text.parse().ok()).unwrap_or(SECONDS))
}

#[tokio::test]
async fn every_item_arrives_once_and_in_order_over_broken_connections_relaxed() -> Result<()> {
    items_arrive_once("relaxed").await
}

#[tokio::test]
async fn every_item_arrives_once_and_in_order_over_broken_connections_durable() -> Result<()> {
    items_arrive_once("durable").await
}

async fn items_arrive_once(durability: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut cluster = start(&folder, durability).await?;
    let proxy = Proxy::start(&cluster.gateway.address).await?;
    let recorder = Recorder::create(&folder.path().join("clients.jsonl"))?;
    let until = Instant::now() + seconds();

    let mut clients = JoinSet::new();
    for number in 0..ALONE + TOGETHER {
        let session = if number < ALONE { format!("alone-{number}") } else { "together".into() };
        let client = Client::new(&url(&proxy, &session), manners(&recorder));
        clients.spawn(append(client, number, until));
    }
    let mut pages = JoinSet::new();
    for number in 0..PAGES {
        let page = Page::new(url(&proxy, &format!("page-{number}")), recorder.clone());
        pages.spawn(page.append(until));
    }
    let (cuts, kills) = break_things(&mut cluster, &proxy, until).await?;

    let (mut connections, mut sent) = (0, 0);
    let mut quiet = Vec::new();
    while let Some(client) = clients.join_next().await {
        let (client, items) = client??;
        connections += client.connections();
        sent += items;
        quiet.push(client);
    }
    // Nobody sends any more: what all of one session find and mirror is the same.
    for client in &mut quiet {
        client.items().await?;
    }
    let mut others = quiet.iter_mut().filter(|client| client.session() == "together");
    let (one, other) = (others.next(), others.next());
    if let (Some(one), Some(other)) = (one, other) {
        while one.mirror() != other.mirror() {
            tokio::select! { heard = one.hear_soon() => heard?, heard = other.hear_soon() => heard? };
        }
    }
    quiet.iter().for_each(Client::record_mirror);
    while let Some(page) = pages.join_next().await {
        page??;
    }
    recorder.flush()?;
    let checked = check_all(folder.path(), cluster.workers.len())?;
    eprintln!("{durability}: {cuts} cuts, {kills} kills, {connections} connections, {sent} items");
    eprintln!("{checked}");
    ensure!(connections > 3 * (ALONE + TOGETHER) as u64, "only {connections} connections");
    Ok(())
}

async fn start(folder: &TempDir, durability: &str) -> Result<Cluster> {
    let history = folder.path().join("worker-%i.jsonl");
    let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
    let options = Options { workers: 2, ..Options::default() }
        .store(&store)
        .worker_flag("--durability", durability)
        .worker_flag("--commit-interval", "100ms")
        .worker_flag("--history", &history.to_string_lossy());
    Cluster::start(options).await
}

fn check_all(folder: &Path, workers: usize) -> Result<Checked> {
    let mut files = vec![folder.join("clients.jsonl")];
    files.extend((0..workers).map(|index| folder.join(format!("worker-{index}.jsonl"))));
    let known = Known { placement: Some((PLACEMENT_KEY, vec![workers as u64])), no_closes: true };
    check_files(&files, &known).map(|(_, checked)| checked)
}

fn url(proxy: &Proxy, session: &str) -> String {
    format!("ws://{}/ws?session={session}", proxy.address())
}

fn manners(recorder: &Recorder) -> Manners {
    Manners {
        first_wait: Duration::from_millis(20),
        longest_wait: Duration::from_millis(200),
        recorder: recorder.clone(),
        ..Manners::default()
    }
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

/// Appends items until then, and waits until all are acknowledged; how many.
async fn append(mut client: Client, number: usize, until: Instant) -> Result<(Client, u64)> {
    let mut items = 0;
    while Instant::now() < until {
        items += 1;
        client.publish(&json!({"tag": "append", "item": format!("c{number}-{items}")})).await?;
        let next = Instant::now() + PACE;
        while let Ok(heard) = timeout_at(next, client.next()).await {
            heard?;
        }
    }
    client.settle().await?;
    Ok((client, items))
}

/// A plain page that connects again, each time as if it were new.
struct Page {
    url: String,
    recorder: Recorder,
    name: String,
    sockets: u64,
    items: u64,
}

impl Page {
    fn new(url: String, recorder: Recorder) -> Self {
        let name = url.rsplit('=').next().unwrap_or_default().to_owned();
        Self { url, recorder, name, sockets: 0, items: 0 }
    }

    async fn append(mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            self.sockets += 1;
            if let Ok(mut browser) = Browser::connect(&self.url).await {
                // It ends with the socket.
                let _ = self.talk(&mut browser, until).await;
                self.record(|channel| What::Closed { channel, code: 1006, end: End::Network });
            }
            sleep(PACE).await;
        }
        self.sockets += 1;
        let mut browser = Browser::connect(&self.url).await?;
        self.record(|channel| What::Send { channel, n: 1, item: None });
        browser.send(json!({"tag": "items"})).await?;
        let list = browser.receive_where(|message| message["tag"] == "items").await?;
        let items: Vec<String> = serde_json::from_value(list["items"].clone())?;
        ensure!(!items.is_empty(), "a page has been able to say nothing");
        self.record(|channel| What::Found { channel, after: 1, items });
        Ok(())
    }

    async fn talk(&mut self, browser: &mut Browser, until: Instant) -> Result<()> {
        for n in 1.. {
            if Instant::now() > until {
                break;
            }
            self.items += 1;
            let item = format!("{}-{}", self.name, self.items);
            self.record(|channel| What::Send { channel, n, item: Some(item.clone()) });
            browser.send(json!({"tag": "append", "item": item})).await?;
            while browser.try_receive().is_some() {}
            sleep_until(Instant::now() + PACE).await;
        }
        Ok(())
    }

    fn record(&self, what: impl FnOnce(String) -> What) {
        let channel = format!("{}-{}", self.name, self.sockets);
        self.recorder.record(&self.name, &self.name, || what(channel));
    }
}
