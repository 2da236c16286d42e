//! Two clusters that know nothing of each other and share a database: two owners for each session.
//! The first cluster has one worker; of the second only the one with another index is used.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::postgres::TempPostgres;
use tokio::time::{Instant, sleep};

/// The index of the second cluster's worker.
const SECOND: usize = 1;

struct Two {
    first: Cluster,
    second: Cluster,
    /// Sessions that the first cluster places on its worker 0 and the second on its worker 1.
    sessions: Vec<String>,
}

impl Two {
    async fn start(store: &str, durability: &str) -> Result<Self> {
        let options = |workers| {
            let options = Options { workers, ..Options::default() };
            options.store(store).worker_flag("--durability", durability)
        };
        let (first, second) = (Cluster::start(options(1)), Cluster::start(options(2)));
        let (first, second) = tokio::try_join!(first, second)?;
        let sessions = (0..4).map(|n| second.session_on(SECOND, &format!("both{n}"))).collect();
        Ok(Self { first, second, sessions })
    }

    fn second(&self) -> &single_state_tests::cluster::Node {
        &self.second.workers[SECOND]
    }

    /// Saves of robbed owners that were refused.
    async fn fenced(&self) -> Result<f64> {
        let name = "single_state_saves_fenced_total";
        Ok(self.first.workers[0].metric(name).await? + self.second().metric(name).await?)
    }
}

/// A page at one of the clusters.
struct Page {
    browser: Browser,
    name: &'static str,
    sent: u64,
}

impl Page {
    async fn open(cluster: &Cluster, session: &str, name: &'static str) -> Result<Self> {
        let browser = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
        Ok(Self { browser, name, sent: 0 })
    }

    fn item(&self, number: u64) -> String {
        format!("{}{number}", self.name)
    }

    async fn append(&mut self) -> Result<()> {
        let item = self.item(self.sent);
        self.sent += 1;
        self.browser.send(json!({"tag": "append", "item": item})).await
    }

    /// The list, once it has all items of this page. One that is heard of earlier is the answer to an
    /// earlier question, which a robbed owner's successor has given again.
    async fn items(&mut self) -> Result<Vec<String>> {
        self.browser.send(json!({"tag": "items"})).await?;
        loop {
            let list = self.browser.receive_where(|message| message["tag"] == "items").await?;
            let items = list["items"].as_array().context("a list")?;
            let items = items.iter().filter_map(Value::as_str).map(str::to_owned);
            let items: Vec<String> = items.collect();
            let mine = items.iter().filter(|item| item.starts_with(self.name));
            let in_order = (0..).zip(mine.clone()).all(|(number, item)| *item == self.item(number));
            ensure!(in_order, "{} has sent {}: {items:?}", self.name, self.sent);
            if mine.count() as u64 == self.sent {
                return Ok(items);
            }
        }
    }
}

async fn sessions_are_used_through_both(store: &str, durability: &str) -> Result<()> {
    let two = Two::start(store, durability).await?;
    let use_one = async |session: &String| {
        let mut first = Page::open(&two.first, session, "first").await?;
        let mut second = Page::open(&two.second, session, "second").await?;
        for page in [&mut first, &mut second] {
            for _ in 0..5 {
                page.append().await?;
            }
        }
        // Each list waits until the page's owner has the session.
        for page in [&mut first, &mut second] {
            page.items().await?;
            page.append().await?;
        }
        both_have_everything(&mut first, &mut second).await
    };
    try_join_all(two.sessions.iter().map(use_one)).await?;
    ensure!(two.fenced().await? > 0.0, "nobody was robbed");
    Ok(())
}

/// One of them is robbed until both hear the same.
async fn both_have_everything(one: &mut Page, other: &mut Page) -> Result<()> {
    let everything = one.sent + other.sent;
    for page in [one, other] {
        while page.items().await?.len() as u64 != everything {}
    }
    Ok(())
}

#[tokio::test]
async fn a_session_with_two_owners_loses_nothing_relaxed_in_postgresql() -> Result<()> {
    let server = TempPostgres::start().await?;
    sessions_are_used_through_both(&server.url(), "relaxed").await
}

#[tokio::test]
async fn a_session_with_two_owners_loses_nothing_durable_in_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    sessions_are_used_through_both(&crate::sqlite(&folder), "durable").await
}

/// The first cluster's worker stands still, with work that is not committed and with messages that
/// it has not read, while the second takes its sessions. Not in SQLite: a process that stands still
/// within a transaction keeps everybody from the file.
async fn a_zombie_says_and_saves_nothing(
    store: &str,
    durability: &str,
    asleep: Duration,
) -> Result<()> {
    let two = Two::start(store, durability).await?;
    let (zombie, mut pages) = (&two.first.workers[0].process, Vec::new());
    for session in &two.sessions {
        let mut page = Page::open(&two.first, session, "first").await?;
        page.append().await?;
        page.items().await?;
        page.append().await?;
        pages.push(page);
    }
    zombie.signal("STOP")?;
    let stopped = Instant::now();
    for page in &mut pages {
        page.append().await?;
    }
    // At once: each waits until the session has been taken by force.
    let take = async |session: &String| {
        let mut page = Page::open(&two.second, session, "second").await?;
        for _ in 0..OTHERS {
            page.append().await?;
        }
        page.items().await.map(|_| page)
    };
    let mut others = try_join_all(two.sessions.iter().map(take)).await?;
    sleep(asleep.saturating_sub(stopped.elapsed())).await;
    // What was said before it stood still.
    for page in &mut pages {
        while page.browser.try_receive().is_some() {}
    }
    zombie.signal("CONT")?;
    let wake = async |(page, other): (&mut Page, &mut Page)| {
        must_know_of_the_others(page).await?;
        both_have_everything(page, other).await
    };
    try_join_all(pages.iter_mut().zip(&mut others).map(wake)).await.map(drop)
}

/// So many items the other owner has while a worker sleeps: more than its pages send in all.
const OTHERS: u64 = 5;

/// Until a page hears of its own last item, it hears of no list that only the zombie has.
async fn must_know_of_the_others(page: &mut Page) -> Result<()> {
    page.append().await?;
    loop {
        let message = page.browser.receive().await?;
        if message["tag"] == "assign" && message["key"] == "count" {
            let count = message["value"].as_u64().context("a count is a number")?;
            ensure!(count >= OTHERS, "a zombie says that there are {count} items");
            if count == page.sent + OTHERS {
                return Ok(());
            }
        }
    }
}

/// Its gateway has given it up by then.
const LONG: Duration = Duration::from_secs(5);
/// Its link is still there when it wakes.
const SHORT: Duration = Duration::ZERO;

#[tokio::test]
async fn a_worker_that_wakes_as_a_zombie_says_and_saves_nothing() -> Result<()> {
    let server = TempPostgres::start().await?;
    a_zombie_says_and_saves_nothing(&server.url(), "relaxed", LONG).await
}

#[tokio::test]
async fn a_worker_that_wakes_before_it_is_missed_says_and_saves_nothing_relaxed() -> Result<()> {
    let server = TempPostgres::start().await?;
    a_zombie_says_and_saves_nothing(&server.url(), "relaxed", SHORT).await
}

#[tokio::test]
async fn a_worker_that_wakes_before_it_is_missed_says_and_saves_nothing_durable() -> Result<()> {
    let server = TempPostgres::start().await?;
    a_zombie_says_and_saves_nothing(&server.url(), "durable", SHORT).await
}

#[tokio::test]
async fn a_page_whose_owner_is_robbed_sees_each_event_once_when_sessions_are_durable() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let two = Two::start(&crate::sqlite(&folder), "durable").await?;
    let session = &two.sessions[0];
    let mut first = Page::open(&two.first, session, "first").await?;
    first.append().await?;
    first.items().await?;
    let mut second = Page::open(&two.second, session, "second").await?;
    second.append().await?;
    second.items().await?;
    // Its owner learns by this that it has been robbed, and robs.
    first.append().await?;
    let seen = first.browser.receive_where(|message| message["tag"] != "assign").await?;
    let both = json!(["first0", "second0"]);
    ensure!(seen["items"] == both, "what the other asked for is new, this is not: {seen}");
    Ok(())
}
