//! The generic page: no author has written a line for it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::chromium::Chromium;
use single_state_tests::dev::Project;
use single_state_tests::process::program;

use crate::stage::{IRIS, VENDOR, choose_file, example, in_the_dark, long_story};

/// Fills the form and sends it.
async fn send(browser: &Chromium, tag: &str, fields: &[(&str, &str)]) -> Result<()> {
    browser.fill("#send-tag", tag).await?;
    for (i, (name, value)) in fields.iter().enumerate() {
        browser.fill(&format!("#send-name-{i}"), name).await?;
        browser.fill(&format!("#send-value-{i}"), value).await?;
    }
    browser.click("#send-run").await
}

/// The output of a key.
fn output(key: &str) -> String {
    format!("[data-key={key:?}] output")
}

#[tokio::test]
async fn a_counter_is_shown_and_driven_without_a_line_of_its_author() -> Result<()> {
    let (_project, dev) = example("counter", &[]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#connection", "connected").await?;
    browser.wait_text(&output("count"), "0").await?;
    for sum in ["3", "6", "9"] {
        send(&browser, "add", &[("n", "3")]).await?;
        browser.wait_text(&output("count"), sum).await?;
    }
    browser.wait_until("document.querySelector('[data-key=count] svg path')").await?;
    let label = "return document.querySelector('[data-key=count] svg').getAttribute('aria-label')";
    assert_eq!(browser.run(label).await?, "4 values, last 9, lowest 0, highest 9");
    browser.wait_text_that("#owner", |text| text.starts_with("worker ")).await?;
    browser.wait_text("#size", "1 key, 1 B").await?;
    browser.wait_text("#saved", "all (relaxed)").await?;
    browser
        .wait_until("document.querySelectorAll('#sent [data-outcome=saved]').length === 3")
        .await?;

    // What was sent is taken into the form again, as fields and as JSON.
    browser.click("#sent button").await?;
    browser.click("label[for=send-as-json]").await?;
    let json = browser.run("return document.getElementById('send-json').value").await?;
    let message: Value = serde_json::from_str(json.as_str().context("a text")?)?;
    assert_eq!(message, json!({"tag": "add", "n": 3}));
    browser.fill("#send-json", r#"{"tag": "reset"}"#).await?;
    browser.click("#send-run").await?;
    browser.wait_text(&output("count"), "0").await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "generic-counter-400.png").await
}

#[tokio::test]
async fn mistakes_and_errors_say_what_is_wrong_and_what_can_be_done() -> Result<()> {
    let (_project, dev) = example("counter", &[]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/?session=mine")).await?;
    browser.wait_text(&output("count"), "0").await?;

    // The form's own, before anything is sent.
    send(&browser, "", &[]).await?;
    browser.wait_text("#send-problem", "A message needs a tag.").await?;
    send(&browser, "add", &[("n", "[1,")]).await?;
    browser
        .wait_text_that("#send-problem", |text| text.starts_with("n: this is not JSON:"))
        .await?;
    send(&browser, "_step", &[("n", "1")]).await?;
    browser.wait_text("#send-problem", "Tags that begin with _ are the session's own.").await?;
    browser.click("label[for=send-as-json]").await?;
    browser.wait_text_that("#send-problem", |text| text.starts_with("Tags that begin")).await?;
    send(&browser, "add", &[("n", "1")]).await?;
    browser.click("label[for=send-as-json]").await?;
    browser.fill("#send-json", r#"{"tag": "add" "n": 1}"#).await?;
    browser.click("#send-run").await?;
    browser.wait_text_that("#send-problem", |text| text.starts_with("This is not JSON:")).await?;
    browser.fill("#send-json", r#"{"tag": "subtract", "n": 1}"#).await?;
    browser.click("#send-run").await?;

    // The session's: in the page, and in the terminal with its id.
    let words = "the app has no such message";
    browser.wait_text_that("#error", |text| text.contains(words)).await?;
    browser.wait_text_that("#errors", |text| text.contains(words)).await?;
    browser.wait_text("#send-problem", "").await?;
    let line = dev.gateway.process.wait_for_line(|line| {
        let tells = ["subtract", "mine", words].iter().all(|part| line.contains(part));
        tells.then(|| line.to_owned())
    });
    line.await?;
    browser.click("#error-dismiss").await?;
    browser.wait_until("!document.getElementById('error')").await?;
    assert_eq!(browser.text(&output("count")).await?, "1");
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "generic-errors-400.png").await
}

#[tokio::test]
async fn an_upload_is_followed_as_progress_numbers_bars_and_images() -> Result<()> {
    let (_project, dev) = example("classify", &[]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text(&output("trained_on"), "150").await?;
    // On its way: so far, at this pace. A table that takes long, for browsers that look seldom; the
    // next upload takes its place.
    let long = tempfile::NamedTempFile::new()?;
    let table = std::fs::read_to_string(IRIS)?;
    let (_, rows) = table.split_once('\n').context("a head and rows")?;
    std::fs::write(long.path(), rows.repeat(60))?;
    choose_file(&browser, "#send-file", long.path()).await?;
    browser.wait_text_that("[data-key=progress]", |text| text.contains(" left")).await?;
    choose_file(&browser, "#send-file", Path::new(IRIS)).await?;
    browser.wait_text(&output("progress"), "150 of 150").await?;
    browser.wait_text_that("[data-key=progress]", |text| text.ends_with("done")).await?;
    for (key, kind) in [
        ("progress", "progress"),
        ("counts", "bars"),
        ("sureness", "vector"),
        ("accuracy", "number"),
        ("shares", "image"),
    ] {
        let shown = format!("return document.querySelector('[data-key={key}]')?.dataset.kind");
        assert_eq!(browser.run(&shown).await?, kind, "{key}");
    }
    browser
        .wait_until(
            "document.querySelector('[data-key=sureness] path').getAttribute('d').length > 99",
        )
        .await?;
    browser
        .wait_until("document.querySelector('[data-key=shares] img').naturalWidth === 300")
        .await?;
    browser.wait_text_that("[data-key=counts]", |text| text.contains("setosa\n50")).await?;

    // A binary message that is an image, and an event.
    send(&browser, "draw", &[]).await?;
    browser
        .wait_until("document.querySelector('[data-kind=picture] img')?.naturalWidth === 128")
        .await?;
    send(&browser, "classify", &[("flower", "[5.1, 3.5, 1.4, 0.2]")]).await?;
    browser
        .wait_text_that("#events", |text| text.contains("classified") && text.contains("setosa"))
        .await?;

    // A file that is no table: the error names its line.
    let wrong = tempfile::NamedTempFile::new()?;
    std::fs::write(wrong.path(), "5.1,3.5,1.4,0.2\n5.1,wide,1.4,0.2\n")?;
    choose_file(&browser, "#send-file", wrong.path()).await?;
    browser.wait_text_that("#error", |text| text.contains("line 2: “wide”")).await?;

    // A second tab, or this one after a reload, shows the same without asking.
    browser.client().refresh().await?;
    browser.wait_text(&output("progress"), "150 of 150").await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "generic-classify-400.png").await?;
    in_the_dark(&browser).await?;
    browser.fits(1000, "generic-classify-1000-dark.png").await
}

#[tokio::test]
async fn streamed_text_grows_and_is_cancelled_and_owners_change_without_a_reconnect() -> Result<()>
{
    let (_project, dev) = example("stream", &[]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#connection", "connected").await?;
    send(&browser, "write", &[("about", &long_story())]).await?;
    browser.wait_text_that(&output("text"), |text| text.starts_with("Once upon")).await?;
    send(&browser, "cancel", &[]).await?;
    browser.wait_text(&output("state"), "cancelled").await?;
    browser.wait_text("#saved", "all (relaxed)").await?;
    let text = browser.text(&output("text")).await?;

    let owner = browser.text("#owner").await?;
    let index = owner.strip_prefix("worker ").and_then(|rest| rest.split(',').next());
    dev.kill_worker(index.context("a worker")?.parse()?)?;
    browser.wait_text_that("#owner", |now| now != owner).await?;
    browser.wait_text_that("#events", |text| text.contains("has the session now")).await?;
    assert_eq!(browser.text(&output("text")).await?, text);
    ensure!(
        !browser
            .run("return !!document.getElementById('trouble')")
            .await?
            .as_bool()
            .unwrap_or(true)
    );
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_page_whose_server_is_away_says_so_and_goes_on_when_it_is_back() -> Result<()> {
    let (project, dev) = example("counter", &["--workers", "1"]).await?;
    let address = dev.gateway.address.clone();
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/?session=mine")).await?;
    browser.wait_text("#connection", "connected").await?;
    dev.stop().await?;
    browser.wait_text_that("#trouble", |text| text.contains("Trying again")).await?;
    browser.wait_text("#connection", "no connection").await?;
    send(&browser, "add", &[("n", "5")]).await?;
    browser.wait_text_that("#trouble", |text| text.contains("1 message is kept")).await?;
    browser.fits(400, "generic-away-400.png").await?;
    browser.devtools("Network.enable", json!({})).await?;
    let network = |offline| json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
    browser.devtools("Network.emulateNetworkConditions", network(true)).await?;
    browser.wait_text_that("#trouble", |text| text.contains("offline")).await?;
    browser.devtools("Network.emulateNetworkConditions", network(false)).await?;

    // The server is back at its address; what was kept is there.
    let arguments =
        ["dev", "--listen", &address, "--workers", "1", "--vendor", VENDOR, "--", "bin/worker"];
    let _dev = Project::start(project.gateway(&arguments)).await?;
    browser.wait_text(&output("count"), "5").await?;
    browser.wait_until("!document.getElementById('trouble')").await?;
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_quarantined_offers_to_start_fresh() -> Result<()> {
    let project = Project::with_worker(&program("examples/counter")).await?;
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--vendor", VENDOR, "--", "bin/worker"];
    let mut command = project.gateway(&arguments);
    command.env("SINGLE_STATE_ON_UNREADABLE", "quarantine");
    let dev = Project::start(command).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    send(&browser, "add", &[("n", "5")]).await?;
    browser.wait_text(&output("count"), "5").await?;
    browser.wait_text("#saved", "all (relaxed)").await?;

    // The program that comes next cannot read a counter.
    let before = dev.incarnations().await?;
    project.install(&program("examples/stream")).await?;
    dev.wait_until_rolled(&before).await?;
    browser.wait_text_that("#trouble", |text| text.contains("quarantined")).await?;
    browser.wait_text("#connection", "closed").await?;
    browser.fits(400, "generic-quarantined-400.png").await?;
    browser.click("#start-fresh").await?;
    browser.wait_text("#connection", "connected").await?;
    browser.wait_until("!document.getElementById('trouble') && location.search === ''").await?;
    send(&browser, "write", &[("about", "Rust")]).await?;
    browser.wait_text(&output("state"), "done").await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}
