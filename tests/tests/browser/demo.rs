//! The demo's cards: a model that trains while its user interferes, and workers that are killed,
//! drained, added and removed by the page's own buttons.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::chromium::Chromium;
use single_state_tests::dev::Project;

use super::{
    VENDOR, dev_with_modules, dismiss, has, one_open_socket, owner, picture, watch_sockets,
};

/// All JavaScript that the page loads, as it is served.
const SCRIPT_BYTES: u64 = 100 << 10;

/// Points of the two lines of losses.
const POINTS: &str = "[...document.querySelectorAll('#train-curve polyline')] \
    .map((line) => line.getAttribute('points').split(' ').length)";

#[tokio::test]
async fn a_curve_goes_on_when_the_page_kills_the_owner_and_nothing_reconnects() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    let (_, worker) = owner(&browser).await?;
    let epoch = number(&browser, "#where-epoch").await?;
    browser.click("#train-run").await?;
    browser.wait_until("document.getElementById('train-done')?.textContent >= 40").await?;
    dev.wait_until_saved(worker).await?;
    let before = number(&browser, "#train-done").await?;

    browser.click("#dev-kill").await?;
    browser.wait_text_that("#handoffs", |text| text.contains("a pause of")).await?;
    let handoffs = browser.text("#handoffs").await?;
    eprintln!("a kill of the owner, as its page saw it: {handoffs}");
    let first = handoffs.strip_prefix("epoch ").and_then(|rest| rest.split_once(':'));
    let (later, _) = first.with_context(|| format!("no epoch in {handoffs}"))?;
    assert!(later.parse::<u64>()? > epoch, "{later} is not after {epoch}");
    assert!(number(&browser, "#where-epoch").await? > epoch);
    assert!(handoffs.contains(&format!("worker {worker}")), "{handoffs}");
    let further = format!("document.getElementById('train-done').textContent > {}", before + 20);
    browser.wait_until(&further).await?;
    assert_eq!(browser.text("#train-state").await?, "running");

    dismiss(&browser, "notice").await?;

    // No step is missing in the curve, and the handoff is marked in it.
    browser.click("#train-pause").await?;
    browser.wait_text("#train-state", "paused").await?;
    let done = number(&browser, "#train-done").await?;
    // A curve that is long has every other point left out, again and again.
    let mut every = 1;
    while done / every >= 200 {
        every *= 2;
    }
    let points = done / every;
    browser.wait_until(&format!("{POINTS}.every((count) => count === {points})")).await?;
    assert!(has(&browser, "#train-curve .handoff").await?);
    assert!(!has(&browser, "#error, #lost-banner, #trouble").await?);
    one_open_socket(&browser).await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "demo-handoff-400.png").await?;
    picture(&browser, 960, 1400, "demo.webp").await
}

#[tokio::test]
async fn what_is_set_while_it_trains_holds_in_every_tab_and_it_goes_on_without_any() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    let page = dev.page("/?session=shared");
    browser.goto(&page).await?;
    browser.run("session.publish({tag: 'train', steps: 40})").await?;
    let trains = |text: &str| ["running", "done"].contains(&text);
    browser.wait_text_that("#train-state", trains).await?;
    browser.click("#train-batch option[value='128']").await?;
    browser.click("#train-decay option[value='0.001']").await?;
    // As with the keyboard: a tenth of a power of ten to the right.
    let slider = "#train-rate";
    browser.wait_until("document.getElementById('train-rate').value === '-7'").await?;
    let element = browser.client().find(fantoccini::Locator::Css(slider)).await?;
    element.send_keys("\u{e014}").await?;
    browser.wait_text("#train-rate-value", "0.25").await?;
    browser.wait_until("session.view.state.assigned.settings?.rate === 0.25").await?;

    let first = browser.client().window().await?;
    let second = browser.client().new_window(true).await?.handle;
    browser.client().switch_to_window(second.clone()).await?;
    browser.goto(&page).await?;
    browser.wait_text("#train-rate-value", "0.25").await?;
    let chosen = "['batch', 'decay'].map((name) => document.getElementById(`train-${name}`).value)";
    browser.wait_until(&format!("{chosen}.join() === '128,0.001'")).await?;
    browser.wait_until("document.getElementById('train-done')?.textContent > 0").await?;
    browser.client().close_window().await?;
    browser.client().switch_to_window(first).await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);

    // Nobody looks on; what it came to is there for who returns.
    browser.goto("about:blank").await?;
    browser.goto(&page).await?;
    browser.wait_text("#train-state", "done").await?;
    assert_eq!(browser.text("#train-done").await?, "40");
    assert_eq!(browser.run(&format!("return {POINTS}")).await?, json!([40, 40]));
    let accuracy = browser.text("#train-accuracy").await?;
    let read: f64 = accuracy.trim_end_matches(" %").parse()?;
    assert!(read > 50.0, "who guesses reads a tenth, not {accuracy}");
    let words = "document.getElementById('train-confusion').getAttribute('aria-label')";
    let words = browser.run(&format!("return {words}")).await?;
    assert!(words.as_str().is_some_and(|words| words.contains("of 360 digits")), "{words}");
    browser.click("#train-reset").await?;
    browser.wait_text("#train-state", "not started").await?;
    browser.wait_text("#train-loss", "–").await
}

#[tokio::test]
async fn the_pages_buttons_drain_add_and_remove_workers_and_its_socket_stays_open() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.fill("#append-item", "kept").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    browser.wait_text("#dev-workers", "3 workers").await?;

    browser.click("#dev-drain").await?;
    browser.wait_text_that("#handoffs", |text| text.contains("a pause of")).await?;
    browser.click("#dev-add").await?;
    browser.wait_text("#dev-workers", "4 workers").await?;
    dev.wait_for_status(|status| up(status) == 4).await?;
    browser.click("#dev-remove").await?;
    browser.wait_text("#dev-workers", "3 workers").await?;
    dev.wait_for_status(|status| up(status) == 3).await?;

    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    assert_eq!(browser.text("#count").await?, "1");
    eprintln!("drained, one more, one fewer:\n{}", browser.text("#handoffs").await?);
    one_open_socket(&browser).await?;
    assert!(!has(&browser, "#error, #lost-banner, #trouble").await?);
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn the_page_loads_less_than_100_kib_of_javascript() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    let drawn = json!({"source": "new MutationObserver((_, observer) => { \
        if (!document.getElementById('connection')) return; \
        observer.disconnect(); window.drawnAt = performance.now(); \
    }).observe(document, {childList: true, subtree: true})"});
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", drawn).await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#connection", "connected").await?;
    let measure = "const scripts = performance.getEntriesByType('resource') \
            .filter(({name}) => name.endsWith('.js')); \
        return { count: scripts.length, drawn: Math.round(drawnAt), \
            bytes: scripts.reduce((sum, {decodedBodySize}) => sum + decodedBodySize, 0), \
            painted: Math.round(performance.getEntriesByName('first-contentful-paint')[0].startTime) }";
    let measured = browser.run(measure).await?;
    let bytes = measured["bytes"].as_u64().context("a number of bytes")?;
    eprintln!(
        "the demo: {bytes} bytes of JavaScript in {} modules; first paint after {} ms, cards after {} ms",
        measured["count"], measured["painted"], measured["drawn"],
    );
    ensure!(measured["count"].as_u64() > Some(20), "not all are counted: {measured}");
    ensure!(bytes < SCRIPT_BYTES, "{bytes} bytes of JavaScript");
    Ok(())
}

#[tokio::test]
async fn axe_finds_no_serious_issue_in_light_or_dark() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let axe = std::fs::read_to_string(format!("{VENDOR}/axe-core/axe.min.js"))?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    owner(&browser).await?;
    browser.run(&axe).await?;
    // The cards as they are at first, and with all that they can show.
    for full in [false, true] {
        if full {
            browser.run("session.publish({tag: 'train', steps: 5})").await?;
            browser.run("session.publish({tag: 'append', item: 'a note'})").await?;
            browser.run("session.publish({tag: 'items'})").await?;
            browser.wait_text("#train-state", "done").await?;
            browser.click("#dev-kill").await?;
            browser.wait_text_that("#notice", |text| !text.is_empty()).await?;
            browser.run("session.publish({tag: 'broken'})").await?;
            browser.wait_text_that("#error", |text| !text.is_empty()).await?;
            browser.wait_text("#items", "a note").await?;
        }
        for scheme in ["light", "dark"] {
            let wish = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            browser.devtools("Emulation.setEmulatedMedia", wish).await?;
            browser
                .wait_until(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches"))
                .await?;
            has_no_serious_issue(&browser).await.with_context(|| format!("{scheme}, {full}"))?;
        }
    }
    browser.fits(1000, "demo-dark.png").await?;
    browser.screenshot("demo-banners-dark.png").await
}

async fn has_no_serious_issue(browser: &Chromium) -> Result<()> {
    let judge = "window.judged = null; axe.run().then(({violations, passes}) => { \
        const bad = violations.filter(({impact}) => ['serious', 'critical'].includes(impact)); \
        window.judged = { passes: passes.length, \
            bad: bad.map(({id, nodes}) => `${id}: ${nodes.map(({html}) => html).join(' ')}`) }; \
    })";
    browser.run(judge).await?;
    browser.wait_until("window.judged").await?;
    let judged = browser.run("return judged").await?;
    ensure!(judged["passes"].as_u64() > Some(10), "axe has hardly looked: {judged}");
    ensure!(judged["bad"] == json!([]), "{judged}");
    Ok(())
}

fn up(status: &Value) -> usize {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter(|worker| worker["state"] == "up" && worker["retired"] == false).count()
}

async fn number(browser: &Chromium, selector: &str) -> Result<u64> {
    let text = browser.text(selector).await?;
    text.parse().with_context(|| format!("{selector} shows {text:?}"))
}
