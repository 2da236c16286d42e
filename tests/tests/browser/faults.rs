//! The browser client between a real page and a real cluster, over a network with bad days.
//!
//! ```text
//!   Chromium ──▶ fault proxy ──▶ gateway ──▶ 2 workers, SQLite
//!   a second client ────────────▶ gateway      what is in the session, asked past the faults
//! ```
//!
//! The page of these tests publishes `append` messages, a few at a time, whose items are `TAB-0`,
//! `TAB-1` and so on. Up to where it has come lies in `sessionStorage`, so that a reload goes on.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::chromium::Chromium;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::proxy::{Faults, Flow, Proxy, Way};
use tempfile::TempDir;

const PAGE: &str = r#"<!doctype html>
<title>faults</title>
<link rel="icon" href="data:,">
<script type="module">
import { openSession } from "/client/single-state.js";

const tab = new URL(location.href).searchParams.get("tab");
const number = (name) => Number(sessionStorage.getItem(`${tab}-${name}`) ?? 0);
const note = (name, value) => sessionStorage.setItem(`${tab}-${name}`, value);
window.welcomes = 0;
window.problems = [];
const session = openSession({
  initial: { count: 0 },
  reducer: (state, message) =>
    message.tag === "assign" ? { ...state, [message.key]: message.value } : state,
  onWelcome: () => void welcomes++,
});
window.view = () => session.view;
window.published = () => number("next");
window.publish = (n) => note("goal", number("next") + n);
window.stop = () => (publish(0), published());
window.settled = () => published() === number("goal") && view().unacknowledged === 0;
window.channel = () => {
  const head = `single-state::ws://${location.host}/ws${new URL(location.href).search.split("&")[0]}`;
  return JSON.parse(sessionStorage.getItem(head)).id;
};
setInterval(() => {
  for (let i = 0; i < 3 && published() < number("goal") && view().unacknowledged < 900; i++) {
    const item = `${tab}-${published()}`;
    note("next", published() + 1);
    session.publish({ tag: "append", item }).catch(({ code }) => problems.push(code));
  }
}, 10);
</script>
"#;

/// More than a page publishes before it is stopped.
const WITHOUT_END: &str = "publish(1e9)";
const SESSION: &str = "faults";

#[tokio::test]
async fn a_page_whose_connection_is_cut_again_and_again_loses_and_doubles_nothing() -> Result<()> {
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    page.run(WITHOUT_END).await?;
    let cuts: [fn(&Proxy); 3] = [
        |proxy| assert!(proxy.cut() > 0, "there is a connection"),
        // In the middle of an input, and of what the gateway says.
        |proxy| proxy.cut_after(Way::Up, 333),
        |proxy| proxy.cut_after(Way::Down, 77),
    ];
    for cut in cuts {
        publishes(&page, 30).await?;
        let welcomes = page.run("return welcomes").await?;
        cut(&world.proxy);
        page.wait_until(&format!("welcomes > {welcomes}")).await?;
    }
    publishes(&page, 30).await?;
    let count = stop(&page).await?;
    world.must_have(&page, &[("a", count)]).await
}

#[tokio::test]
async fn a_page_notices_that_its_connection_is_half_open_and_publishes_over_another() -> Result<()>
{
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    page.run(WITHOUT_END).await?;
    publishes(&page, 30).await?;
    world.proxy.set(Faults { up: Flow::Swallow, down: Flow::Swallow, ..Faults::default() });
    publishes(&page, 30).await?;
    page.wait_until("view().connection.reason === 'no sign of life'").await?;
    // Its next try may be lost in the same hole.
    world.proxy.heal();
    world.proxy.cut();
    page.wait_until("view().connection.status === 'open'").await?;
    let count = stop(&page).await?;
    world.must_have(&page, &[("a", count)]).await
}

#[tokio::test]
async fn what_was_applied_but_never_acknowledged_is_not_applied_again() -> Result<()> {
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    world.proxy.set(Faults { down: Flow::Swallow, ..Faults::default() });
    page.run("publish(100)").await?;
    world.wait_for_items(100).await?;
    assert_eq!(page.run("return view().unacknowledged").await?, 100);
    assert_eq!(page.run("return view().state.count").await?, 0);
    world.proxy.heal();
    world.proxy.cut();
    world.must_have(&page, &[("a", 100)]).await
}

#[tokio::test]
async fn a_page_that_is_reloaded_while_it_publishes_loses_and_doubles_nothing() -> Result<()> {
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    page.run(WITHOUT_END).await?;
    for _ in 0..3 {
        publishes(&page, 30).await?;
        page.client().refresh().await?;
    }
    publishes(&page, 30).await?;
    let count = stop(&page).await?;
    world.must_have(&page, &[("a", count)]).await
}

#[tokio::test]
async fn a_reloaded_page_sends_again_what_was_applied_unheard_and_what_never_arrived() -> Result<()>
{
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    world.proxy.set(Faults { down: Flow::Swallow, ..Faults::default() });
    page.run("publish(40)").await?;
    world.wait_for_items(40).await?;
    world.proxy.set(Faults { up: Flow::Swallow, down: Flow::Swallow, ..Faults::default() });
    page.run("publish(40)").await?;
    page.wait_until("published() === 80").await?;
    assert_eq!(page.run("return view().unacknowledged").await?, 80);
    world.proxy.heal();
    page.client().refresh().await?;
    world.must_have(&page, &[("a", 80)]).await
}

#[tokio::test]
async fn a_copied_tab_publishes_beside_its_original_and_neither_loses_or_doubles() -> Result<()> {
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    let original = page.client().window().await?;
    page.run("publish(30)").await?;
    page.wait_until("settled()").await?;
    // The copy takes input along that is the original's to send.
    world.proxy.set(Faults { up: Flow::Block, down: Flow::Block, ..Faults::default() });
    page.run("publish(30)").await?;
    page.wait_until("published() === 60").await?;
    assert_eq!(page.run("return view().unacknowledged").await?, 30);
    page.run(&format!("open({:?}, '_blank', 'popup')", world.page("b"))).await?;
    world.proxy.heal();
    let first = page.run("return channel()").await?;
    page.run(WITHOUT_END).await?;

    let windows = page.client().windows().await?;
    let copy = windows.into_iter().find(|window| *window != original).context("a second tab")?;
    page.client().switch_to_window(copy.clone()).await?;
    page.wait_until("window.welcomes > 0").await?;
    assert_ne!(page.run("return channel()").await?, first, "it has a channel of its own");
    let copied = page.run("return sessionStorage.getItem('a-next')").await?;
    assert_eq!(copied, "60", "it is a copy of the original's storage");
    page.run(WITHOUT_END).await?;
    publishes(&page, 30).await?;
    let by_copy = stop(&page).await?;
    page.client().switch_to_window(original).await?;
    publishes(&page, 30).await?;
    let by_original = stop(&page).await?;

    let all = [("a", by_original), ("b", by_copy)];
    world.must_have(&page, &all).await?;
    page.client().switch_to_window(copy).await?;
    page.wait_until("settled()").await?;
    world.must_have_items(&all).await?;
    page.wait_until(&format!("view().state.count === {}", by_original + by_copy)).await
}

#[tokio::test]
async fn what_a_page_publishes_while_it_is_offline_is_there_once_it_is_back() -> Result<()> {
    let world = World::start().await?;
    let page = Chromium::start().await?;
    world.open(&page).await?;
    world.proxy.set(Faults { refuse: true, ..Faults::default() });
    world.proxy.cut();
    page.wait_until("view().connection.status !== 'open'").await?;
    page.run("publish(100)").await?;
    page.wait_until("published() === 100").await?;
    // It has tried again, in vain.
    page.wait_until("view().connection.failures >= 2").await?;
    assert_eq!(page.run("return view().unacknowledged").await?, 100);
    world.must_have_items(&[]).await?;
    world.proxy.heal();
    world.must_have(&page, &[("a", 100)]).await
}

/// A cluster, and the network between it and the browser.
struct World {
    proxy: Proxy,
    cluster: Cluster,
    _folder: TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("single-state-faults-")?;
        let web = folder.path().join("web");
        std::fs::create_dir(&web)?;
        std::fs::write(web.join("index.html"), PAGE)?;
        let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
        let options = Options { workers: 2, ..Options::default() }
            .store(&store)
            .gateway_flag("--web", web.to_str().context("a path in UTF-8")?);
        let cluster = Cluster::start(options).await?;
        let proxy = Proxy::start(&cluster.gateway.address).await?;
        Ok(Self { proxy, cluster, _folder: folder })
    }

    fn page(&self, tab: &str) -> String {
        format!("http://{}/?session={SESSION}&tab={tab}", self.proxy.address())
    }

    /// Opens the page through the proxy, and waits until its session has answered.
    async fn open(&self, page: &Chromium) -> Result<()> {
        page.goto(&self.page("a")).await?;
        page.wait_until("window.welcomes > 0").await
    }

    /// What the page believes to be acknowledged is there, once and in order, and it shows it.
    async fn must_have(&self, page: &Chromium, tabs: &[(&str, u64)]) -> Result<()> {
        page.wait_until("window.settled?.()").await?;
        self.must_have_items(tabs).await?;
        let count: u64 = tabs.iter().map(|(_, count)| count).sum();
        page.wait_until(&format!("view().state.count === {count}")).await?;
        assert_eq!(page.run("return problems").await?, json!([]), "no input was given up");
        Ok(())
    }

    /// Each tab's items are in the session once and in order, and no others.
    async fn must_have_items(&self, tabs: &[(&str, u64)]) -> Result<()> {
        let items = self.items().await?;
        let mut rest = items;
        for (tab, count) in tabs {
            let prefix = format!("{tab}-");
            let expected: Vec<_> = (0..*count).map(|n| format!("{prefix}{n}")).collect();
            let (found, others) = rest.into_iter().partition(|item| item.starts_with(&prefix));
            rest = others;
            let found: Vec<String> = found;
            ensure!(found == expected, "tab {tab} has published {count}, there is {found:?}");
        }
        ensure!(rest.is_empty(), "nobody has published {rest:?}");
        Ok(())
    }

    /// What the session has, by a client that does not go through the proxy.
    async fn items(&self) -> Result<Vec<String>> {
        let url = self.cluster.url(&format!("?session={SESSION}"));
        let mut other = Browser::connect(&url).await?;
        other.send(json!({"tag": "items"})).await?;
        let mut list = other.receive_where(|message| message["tag"] == "items").await?;
        Ok(serde_json::from_value(list["items"].take())?)
    }

    /// Waits until the session has so many, whether or not the page has heard of it.
    async fn wait_for_items(&self, count: u64) -> Result<()> {
        let url = self.cluster.url(&format!("?session={SESSION}"));
        let mut other = Browser::connect(&url).await?;
        let is_there = |message: &Value| message["key"] == "count" && message["value"] == count;
        other.receive_where(is_there).await.map(drop)
    }
}

/// Waits until the page has published so many more, acknowledged or not.
async fn publishes(page: &Chromium, more: u64) -> Result<()> {
    let before = page.run("return published()").await?.as_u64().context("a number")?;
    page.wait_until(&format!("published() >= {}", before + more)).await
}

/// Ends the publishing; how much it was.
async fn stop(page: &Chromium) -> Result<u64> {
    page.run("return stop()").await?.as_u64().context("a number")
}
