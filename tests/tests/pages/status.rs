//! The status page of a gateway's admin listener, with real workers of which one is killed.

use anyhow::{Result, ensure};
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::chromium::Chromium;
use single_state_tests::cluster::{Cluster, Options, http};
use single_state_tests::dev::Project;

use crate::stage::in_the_dark;

fn state(index: usize, state: &str) -> String {
    format!("document.querySelector('[data-worker=\"{index}\"][data-state={state}]')")
}

#[tokio::test]
async fn the_status_page_shows_workers_sessions_moves_and_a_killed_worker() -> Result<()> {
    let store = tempfile::tempdir()?;
    let options = Options::default().store(&format!("sqlite:{}/s.sqlite", store.path().display()));
    let mut cluster = Cluster::start(options).await?;
    let session = cluster.session_on(1, "mine");
    let mut page = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
    page.send(json!({"tag": "append", "item": "one"})).await?;
    page.wait_for("count", &json!(1)).await?;

    let browser = Chromium::start().await?;
    browser.goto(&format!("http://{}/", cluster.gateway.admin)).await?;
    for index in 0..3 {
        browser.wait_until(&state(index, "up")).await?;
    }
    browser.wait_text("#connections .big", "1").await?;
    browser.wait_text_that("[data-worker='1']", |text| text.contains("browser here\n1\n")).await?;
    browser.wait_text_that("[data-worker='0']", |text| text.contains("browser here\n0\n")).await?;
    browser.wait_text_that("#about", |text| text.starts_with("3 of 3 workers up")).await?;
    // A line needs two looks.
    browser.wait_until("document.querySelector('[data-worker=\"1\"] svg path')").await?;

    cluster.kill_worker(1).await?;
    page.send(json!({"tag": "append", "item": "two"})).await?;
    page.wait_for("count", &json!(2)).await?;
    browser.wait_until(&state(1, "down")).await?;
    browser.wait_text_that("#events", |text| text.contains("worker 1: gone")).await?;
    browser.wait_text_that("#moves .big", |text| text.contains("1 failed over")).await?;
    browser.wait_text_that("[data-worker='1']", |text| text.contains("browser here\n0\n")).await?;
    browser.fits(400, "status-400.png").await?;

    cluster.restart_worker(1).await?;
    browser.wait_until(&state(1, "up")).await?;
    browser.wait_text_that("#moves .big", |text| text.contains("1 handed over")).await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    in_the_dark(&browser).await?;
    browser.fits(1000, "status-1000-dark.png").await?;
    // On a wide screen there are several narrow cards side by side.
    let wide = json!({"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": false});
    browser.devtools("Emulation.setDeviceMetricsOverride", wide).await?;
    browser.wait_until("innerWidth === 1200").await?;
    let lines = "return Math.max(...[...document.querySelectorAll('#workers dd')]
        .map((value) => value.offsetHeight / parseFloat(getComputedStyle(value).lineHeight)))";
    let lines = browser.run(lines).await?;
    ensure!(lines.as_f64().is_some_and(|lines| lines < 3.0), "a value has {lines} lines");

    // Nothing from outside, and nobody can make it do anything.
    let loaded = "return performance.getEntriesByType('resource').map((r) => new URL(r.name).host)";
    let hosts = browser.run(loaded).await?;
    let hosts = hosts.as_array().into_iter().flatten();
    let foreign: Vec<_> = hosts.filter(|host| **host != *cluster.gateway.admin).collect();
    ensure!(foreign.is_empty(), "loaded from {foreign:?}");

    // When the gateway is gone, the page says that it shows what was.
    cluster.gateway.process.kill().await?;
    browser.wait_text_that("#trouble", |text| text.contains("is old")).await.map(drop)
}

#[tokio::test]
async fn the_status_page_may_load_from_its_own_listener_only_and_writes_nothing() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let admin = &cluster.gateway.admin;
    let ask = async |line: &str| {
        http(admin, &format!("{line} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")).await
    };
    for path in ["/", "/client/status/app.js", "/client/status/style.css"] {
        let answer = ask(&format!("GET {path}")).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.contains("content-security-policy: default-src 'self';"), "{path}");
        let refused = ask(&format!("POST {path}")).await?;
        assert!(refused.starts_with("HTTP/1.1 405"), "{path}: {refused}");
    }
    let worker = &cluster.workers[0];
    assert_eq!(worker.admin_get("/").await?.0, 404, "a worker has no page");
    Ok(())
}

#[tokio::test]
async fn the_status_page_of_dev_also_shows_what_only_workers_know() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "1"]).await?;
    let mut page = Browser::connect(&dev.socket("?session=mine")).await?;
    page.send(json!({"tag": "append", "item": "one"})).await?;
    page.wait_for("count", &json!(1)).await?;
    let browser = Chromium::start().await?;
    browser.goto(&format!("http://{}/", dev.gateway.admin)).await?;
    let shows = |words: &'static str| move |text: &str| text.contains(words);
    browser.wait_text_that("[data-worker='0']", shows("sessions in memory\n1")).await?;
    browser.wait_text_that("[data-worker='0']", shows("uncommitted\nall committed")).await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}
