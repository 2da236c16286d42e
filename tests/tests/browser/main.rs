//! The pages in a real Chromium, through a real `gateway dev`: what a person at a browser sees.
//!
//! Screenshots are written to `tests/browser/output/`, for a person to look at.

mod demo;
mod faults;
mod kept;
mod trouble;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use single_state_tests::chromium::{Chromium, SCREENSHOTS};
use single_state_tests::dev::{Dev, Project};

/// The npm packages that the pages import.
const VENDOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/client/node_modules");
/// A page that knows nothing of this repository's browser client.
const PAGE_2020: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/page-2020");

/// Pictures for the README are in the repository; they are taken anew with [`TAKE_PICTURES`].
const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/pictures");
/// Set to 1, it has the tests replace the pictures of the README.
const TAKE_PICTURES: &str = "SINGLE_STATE_TEST_PICTURES";
/// No picture of the README is larger.
const PICTURE_BYTES: usize = 100 << 10;

/// Runs before a page's own scripts: `sockets` is every websocket that the page ever made, and
/// `socketEvents` what they said of themselves.
const WATCH_SOCKETS: &str = "window.sockets = []; window.socketEvents = []; \
    window.WebSocket = class extends WebSocket { \
        constructor(...a) { \
            super(...a); window.sockets.push(this); \
            for (const type of ['open', 'error', 'close']) \
                this.addEventListener(type, () => window.socketEvents.push(type)); } };";

// The demo.

#[tokio::test]
async fn the_demo_opens_and_shows_what_its_session_computed() -> Result<()> {
    let project = Project::new().await?;
    // With the worker that lies beside the gateway, as in `make demo`.
    let dev = project.dev_of(&["--vendor", vendor()?], &[]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#connection", "connected").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    browser.click("#yak-shave").await?;
    browser.wait_text("#yak-count", "1").await?;
    let (session, worker) = owner(&browser).await?;
    assert!(!session.is_empty() && worker < 3, "session {session:?} on worker {worker}");
    assert!(!has(&browser, "#fallback, #error, #lost-banner, #notice").await?);
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn mistakes_are_explained_in_words_and_the_page_goes_on() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#connection", "connected").await?;

    // The page's own check, the session's check, and a handler that fails.
    browser.fill("#axpy-x", "1, two, 3").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-problem", "x, number 2: “two” is not a number").await?;
    browser.fill("#axpy-x", "1, 2").await?;
    browser.click("#axpy-run").await?;
    let unequal = "x has 2 elements and y has 3: give two vectors of one length";
    browser.wait_text_that("#error", |text| text.contains(unequal)).await?;
    browser.wait_text("#axpy-problem", "").await?;
    dismiss(&browser, "error").await?;
    browser.click("#broken-run").await?;
    browser.wait_text_that("#error", |text| text.contains("broken on purpose")).await?;
    dismiss(&browser, "error").await?;
    // Its author reads of it in the terminal, too.
    let (session, _) = owner(&browser).await?;
    let told = |line: &str| {
        let of_it = [&session, "handler failed", "broken on purpose"]
            .iter()
            .all(|part| line.contains(*part));
        of_it.then_some(())
    };
    dev.gateway.process.wait_for_line(told).await?;
    browser.fill("#axpy-x", "1, 2, 3").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    assert_eq!(browser.text("#connection").await?, "connected");
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_training_shows_progress_can_be_paused_and_goes_on_after_a_reload() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.click("#train-run").await?;
    browser.wait_until("document.getElementById('train-done')?.textContent >= 10").await?;
    assert_eq!(browser.text("#train-state").await?, "running");
    browser.click("#train-pause").await?;
    browser.wait_text("#train-state", "paused").await?;
    let done = browser.text("#train-done").await?;
    assert!(done != "0" && done != "1000", "{done}");

    browser.client().refresh().await?;
    browser.wait_text("#train-state", "paused").await?;
    assert_eq!(browser.text("#train-done").await?, done, "a step takes 20 ms, a reload longer");
    let shown = browser.run("return document.getElementById('train-progress').value").await?;
    assert_eq!(shown.to_string(), done);

    browser.click("#train-continue").await?;
    let further = format!("document.getElementById('train-done').textContent > {done}");
    browser.wait_until(&further).await?;
    assert_eq!(browser.text("#train-state").await?, "running");

    // The end of all its steps would take too long to wait for: a shorter training shows one.
    browser.run("session.publish({tag: 'train', steps: 5})").await?;
    browser.wait_text("#train-state", "done").await?;
    assert_eq!(browser.text("#train-done").await?, "5");
    let loss: f64 = browser.text("#train-loss").await?.parse()?;
    assert!(loss < 2.2, "of ten equally likely digits, who only guesses has 2.3, not {loss}");
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn two_tabs_of_one_session_show_the_same() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    let page = dev.page("/?session=shared");
    let client = browser.client();

    let first = client.window().await?;
    browser.goto(&page).await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    browser.fill("#append-item", "from the first").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;

    // Who comes later sees what was there, and then what comes, in both directions.
    let second = client.new_window(true).await?.handle;
    client.switch_to_window(second.clone()).await?;
    browser.goto(&page).await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    browser.wait_text("#count", "1").await?;
    browser.click("#items-run").await?;
    browser.wait_text("#items", "from the first").await?;
    browser.fill("#axpy-a", "0").await?;
    browser.click("#axpy-run").await?;

    client.switch_to_window(first).await?;
    browser.wait_text("#axpy-result", "10, 20, 30").await?;
    browser.fill("#append-item", "again").await?;
    browser.click("#append-run").await?;

    client.switch_to_window(second).await?;
    browser.wait_text("#count", "2").await?;
    browser.wait_text("#items", "from the first\nagain").await?;
    assert_eq!(browser.text("#axpy-result").await?, "10, 20, 30");
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_reload_keeps_the_session_and_the_link_starts_a_new_one() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.fill("#append-item", "kept").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    let (session, _) = owner(&browser).await?;

    browser.client().refresh().await?;
    browser.wait_text("#count", "1").await?;
    assert_eq!(owner(&browser).await?.0, session);

    browser.click("nav a").await?;
    browser.wait_until("location.search === ''").await?;
    let (new, _) = owner(&browser).await?;
    assert_ne!(new, session);
    assert_eq!(browser.text("#count").await?, "0");
    browser.client().refresh().await?;
    assert_eq!(owner(&browser).await?.0, new, "a reload does not start yet another one");
    Ok(())
}

// A page without our client.

#[tokio::test]
async fn a_page_written_the_2020_way_works_unmodified() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--web", PAGE_2020, "--vendor", vendor()?]).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#connection", "connected").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;

    browser.click("#broken-run").await?;
    browser.wait_text_that("#error", |text| text.contains("broken on purpose")).await?;
    browser.fill("#append-item", "after the error").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    browser.click("#items-run").await?;
    browser.wait_text("#items", "after the error").await?;
    browser.click("#yak-shave").await?;
    browser.wait_text("#yak-count", "1").await?;
    one_open_socket(&browser).await?;
    assert_eq!(browser.text("#connection").await?, "connected");
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_page_written_the_2020_way_does_not_notice_that_workers_crash() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--web", PAGE_2020, "--vendor", vendor()?]).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    let before = dev.incarnations().await?;
    for index in 0..3 {
        dev.kill_worker(index)?;
    }
    // It never opens a second socket, so the answer comes over the first.
    browser.fill("#axpy-a", "0").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "10, 20, 30").await?;
    dev.wait_until_rolled(&before).await?;
    one_open_socket(&browser).await?;
    assert_eq!(browser.text("#connection").await?, "connected");
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

// The pages' looks.

#[tokio::test]
async fn without_npm_packages_and_network_the_page_says_what_is_missing() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "1"]).await?;
    let browser = Chromium::start().await?;
    browser.devtools("Network.enable", json!({})).await?;
    // Wherever the tests run: nothing beyond this machine is to be had.
    let elsewhere = json!({"urls": ["https://*"]});
    browser.devtools("Network.setBlockedURLs", elsewhere).await?;
    browser.goto(&dev.page("/")).await?;
    let words = |text: &str| text.contains("npm") && text.contains("could not be loaded");
    browser.wait_text_that("#modules-missing", words).await?;
    assert_ne!(browser.text("#modules-error").await?, "", "and what the browser said");
    browser.wait_until("document.getElementById('loading').hidden").await?;
    browser.fits(400, "missing-400.png").await
}

#[tokio::test]
async fn no_page_scrolls_sideways_on_a_narrow_screen() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--web", PAGE_2020, "--vendor", vendor()?]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    browser.fits(400, "page-2020-400.png").await?;

    // Beside any page of an author, the demo is still there. It bears ids, notes, numbers and
    // errors without a place to break.
    let session = "s".repeat(64);
    let demo = dev.page(&format!("/client/demo/index.html?session={session}"));
    browser.goto(&demo).await?;
    owner(&browser).await?;
    browser.fits(400, "demo-400.png").await?;
    browser.fill("#append-item", &"note".repeat(50)).await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    browser.click("#items-run").await?;
    browser.wait_text_that("#items", |text| !text.is_empty()).await?;
    let digits = "9".repeat(100);
    browser.fill("#axpy-a", &digits).await?;
    browser.fill("#axpy-x", "1.1, 2.2, 3.3").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text_that("#axpy-result", |text| text.contains("e+100")).await?;
    browser.fill("#axpy-x", &format!("{digits}x")).await?;
    browser.click("#axpy-run").await?;
    browser.wait_text_that("#axpy-problem", |text| text.contains("is not a number")).await?;
    browser.click("#broken-run").await?;
    browser.wait_text_that("#error", |text| !text.is_empty()).await?;
    browser.fits(400, "demo-full-400.png").await?;
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.devtools("Emulation.setEmulatedMedia", dark).await?;
    browser.fits(1000, "demo-full-1000-dark.png").await
}

/// Takes the upper part of the page for the README, as WebP at three quarters of its size. It lies
/// with the other screenshots, and with the README's pictures if that is wanted.
async fn picture(browser: &Chromium, width: u32, height: u32, name: &str) -> Result<()> {
    let size =
        json!({"width": width, "height": height, "deviceScaleFactor": 0.75, "mobile": false});
    browser.devtools("Emulation.setDeviceMetricsOverride", size).await?;
    browser.wait_until(&format!("innerWidth === {width}")).await?;
    let scrolls = "scrollTo(0, 0); document.documentElement.style.scrollbarWidth = arguments[0]";
    browser.client().execute(scrolls, vec![json!("none")]).await?;
    let webp = json!({"format": "webp", "quality": 80});
    let taken = browser.devtools("Page.captureScreenshot", webp).await?;
    let bytes = STANDARD.decode(taken["data"].as_str().context("a picture")?)?;
    browser.client().execute(scrolls, vec![json!("")]).await?;
    browser.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await?;
    ensure!(bytes.len() < PICTURE_BYTES, "{name} has {} bytes", bytes.len());
    let is_wanted = std::env::var(TAKE_PICTURES).is_ok_and(|wish| wish == "1");
    for folder in [SCREENSHOTS].into_iter().chain(is_wanted.then_some(PICTURES)) {
        std::fs::create_dir_all(folder)?;
        std::fs::write(Path::new(folder).join(name), &bytes)?;
    }
    Ok(())
}

// What they share.

/// Puts a banner away, as who has read it does: it may cover what is to be clicked next.
async fn dismiss(browser: &Chromium, banner: &str) -> Result<()> {
    browser.click(&format!("#{banner}-dismiss")).await?;
    browser.wait_until(&format!("!document.getElementById('{banner}')")).await
}

async fn dev_with_modules(project: &Project) -> Result<Dev> {
    project.dev(&["--vendor", vendor()?]).await
}

fn vendor() -> Result<&'static str> {
    let modules: PathBuf = [VENDOR, "preact"].iter().collect();
    ensure!(modules.is_dir(), "no npm packages in {VENDOR}: `tests/setup.sh test` fetches them");
    Ok(VENDOR)
}

/// Session id and worker index, once the page shows them.
async fn owner(browser: &Chromium) -> Result<(String, u64)> {
    let words = browser.wait_text_that("#owner", |text| text.contains(" on worker ")).await?;
    let rest = words.strip_prefix("session ").with_context(|| format!("no session in {words}"))?;
    let (session, rest) = rest.split_once(" on worker ").context("no worker")?;
    let (worker, _) = rest.split_once(", process ").context("no process")?;
    Ok((session.to_owned(), worker.parse()?))
}

async fn has(browser: &Chromium, selector: &str) -> Result<bool> {
    let found = browser.run(&format!("return !!document.querySelector({selector:?})")).await?;
    Ok(found == Value::Bool(true))
}

/// For all pages that are opened from now on.
async fn watch_sockets(browser: &Chromium) -> Result<()> {
    let script = json!({"source": WATCH_SOCKETS});
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", script).await.map(drop)
}

/// The page has made one socket since it was loaded, which has opened and is open.
async fn one_open_socket(browser: &Chromium) -> Result<()> {
    let states = browser.run("return sockets.map((socket) => socket.readyState)").await?;
    ensure!(states == json!([1]), "sockets in the states {states}");
    let events = browser.run("return socketEvents").await?;
    ensure!(events == json!(["open"]), "the socket has said {events}");
    Ok(())
}
