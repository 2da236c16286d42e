//! Pages that append items to lists of their own, and must find all of them: once, and in order.
//! Whatever happens to workers and databases meanwhile, their sockets stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use single_state_proto::id::SessionId;
use single_state_store::{Settings, open};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::DEADLINE;
use crate::browser::Browser;
use crate::cluster::Cluster;

/// So many items a page sends before it waits for one to be counted.
pub const WINDOW: u64 = 8;
/// A page that appends all the time sends an item so often: people do not type faster.
const PACE: Duration = Duration::from_millis(10);

/// A page with a session of its own.
#[derive(Debug)]
pub struct Appender {
    browser: Browser,
    session: String,
    sent: u64,
    counted: u64,
}

impl Appender {
    /// Connects to a new session, whose id is minted (`None`) or chosen.
    pub async fn connect(cluster: &Cluster, session: Option<&str>) -> Result<Self> {
        let query = session.map(|session| format!("?session={session}")).unwrap_or_default();
        let browser = Browser::connect(&cluster.url(&query)).await?;
        let minted = browser.header("x-single-state-session").map(str::to_owned);
        let session = minted.context("no session was named")?;
        Ok(Self { browser, session, sent: 0, counted: 0 })
    }

    /// So many pages; every other one has a session that nobody had before.
    pub async fn connect_many(cluster: &Cluster, count: usize) -> Result<Vec<Self>> {
        let mut pages = Vec::new();
        for page in 0..count {
            let chosen = format!("page-{page}");
            pages.push(Self::connect(cluster, (page % 2 == 0).then_some(&*chosen)).await?);
        }
        Ok(pages)
    }

    /// Appends one more item, and waits for nothing.
    pub async fn append(&mut self) -> Result<()> {
        let item = self.item(self.sent);
        self.sent += 1;
        self.browser.send(json!({"tag": "append", "item": item})).await
    }

    /// Appends so many items and waits until all are counted.
    pub async fn append_all(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.append().await?;
        }
        self.wait_until_ahead(0).await
    }

    /// Waits until no more than so many items are not counted.
    pub async fn wait_until_ahead(&mut self, most: u64) -> Result<()> {
        while self.sent - self.counted > most {
            let message = self.browser.receive().await.with_context(|| self.tell())?;
            self.hear(&message)?;
        }
        Ok(())
    }

    fn hear(&mut self, message: &Value) -> Result<()> {
        ensure!(message["tag"] != "error", "{}: {message}", self.tell());
        if message["tag"] == "assign" && message["key"] == "count" {
            let count = message["value"].as_u64().context("a count is a number")?;
            ensure!(count <= self.sent, "{}: {count} are there", self.tell());
            // An owner that has lost the last second begins to count where it finds the list.
            self.counted = self.counted.max(count);
        }
        Ok(())
    }

    /// The session, by its id.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Asks for the list: all items are there, once and in order.
    pub async fn must_have_all(&mut self) -> Result<()> {
        self.browser.send(json!({"tag": "items"})).await?;
        let list = self.browser.receive_where(|message| message["tag"] == "items").await;
        let list = list.with_context(|| self.tell())?;
        let expected: Vec<_> = (0..self.sent).map(|n| self.item(n)).collect();
        ensure!(list["items"] == json!(expected), "{}, and finds {}", self.tell(), list["items"]);
        Ok(())
    }

    fn item(&self, number: u64) -> String {
        format!("{}/{number}.", self.session)
    }

    fn tell(&self) -> String {
        format!("{} has sent {} and seen {}", self.session, self.sent, self.counted)
    }
}

/// Pages that append all the time.
#[derive(Debug)]
pub struct Crowd {
    pages: JoinSet<Result<Appender>>,
    over: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
}

impl Crowd {
    /// Lets pages append until the crowd is over.
    pub fn start(pages: Vec<Appender>) -> Self {
        let (over, counted) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let append = |mut page: Appender| {
            let (over, counted) = (over.clone(), counted.clone());
            async move {
                while !over.load(Ordering::Relaxed) {
                    page.append().await?;
                    let before = page.counted;
                    page.wait_until_ahead(WINDOW).await?;
                    counted.fetch_add(page.counted - before, Ordering::Relaxed);
                    sleep(PACE).await;
                }
                page.wait_until_ahead(0).await.map(|()| page)
            }
        };
        Self { pages: pages.into_iter().map(append).collect(), over, counted }
    }

    /// Items that pages have seen counted.
    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// Waits until so many more are.
    pub async fn wait_for_more(&self, items: u64) -> Result<()> {
        let until = self.counted() + items;
        wait_until("pages have appended more", async || Ok(self.counted() >= until)).await
    }

    /// Waits until none has been counted for a while: pages wait for something.
    pub async fn wait_until_stuck(&self) -> Result<()> {
        let (mut last, mut since, mut looks) = (self.counted(), Instant::now(), 0);
        wait_until("pages wait", async || {
            looks += 1;
            if self.counted() != last {
                (last, since, looks) = (self.counted(), Instant::now(), 0);
            }
            // This process may have stood still itself.
            Ok(since.elapsed() > Duration::from_secs(1) && looks > 50)
        })
        .await
    }

    /// No page appends more; all have seen everything counted and found in their lists.
    pub async fn end(mut self) -> Result<Vec<Appender>> {
        self.over.store(true, Ordering::Relaxed);
        let mut pages = Vec::new();
        while let Some(page) = self.pages.join_next().await {
            pages.push(page??);
        }
        must_have_all(&mut pages).await?;
        Ok(pages)
    }
}

/// Each page finds all that it has appended.
pub async fn must_have_all(pages: &mut [Appender]) -> Result<()> {
    for page in pages {
        page.must_have_all().await?;
    }
    Ok(())
}

/// Whether the rows themselves have all that pages have seen counted.
pub async fn is_stored(url: &str, pages: &[Appender]) -> Result<bool> {
    let store = open(url, Settings::default())?;
    store.prepare().await?;
    for page in pages.iter().filter(|page| page.counted > 0) {
        let (session, last): (SessionId, _) = (page.session.parse()?, page.item(page.counted - 1));
        let row = store.show(&session).await?;
        let has = |state: &[u8]| state.windows(last.len()).any(|part| part == last.as_bytes());
        if !row.is_some_and(|(_, state)| has(&state)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until they have.
pub async fn wait_until_stored(url: &str, pages: &[Appender]) -> Result<()> {
    wait_until("all that pages have seen is stored", async || is_stored(url, pages).await).await
}

/// Everything is committed, and nothing but what is committed is needed: workers that are killed and
/// started again have all of it.
pub async fn must_survive(
    cluster: &mut Cluster,
    url: &str,
    mut pages: Vec<Appender>,
) -> Result<()> {
    wait_until_stored(url, &pages).await?;
    kill_and_restart(cluster).await?;
    must_have_all(&mut pages).await
}

/// Kills all workers at once, as when the machine loses its power, and starts them again.
pub async fn kill_and_restart(cluster: &mut Cluster) -> Result<()> {
    for worker in &cluster.workers {
        worker.process.signal("KILL")?;
    }
    for index in 0..cluster.workers.len() {
        cluster.kill_worker(index).await?;
    }
    for index in 0..cluster.workers.len() {
        cluster.wait_for_worker(index, "down").await?;
        cluster.restart_worker(index).await?;
    }
    Ok(())
}

/// Waits for a condition that nobody announces.
pub async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await? {
        if Instant::now() > deadline {
            bail!("in vain waited until {what}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
