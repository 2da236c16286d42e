//! The browser harness itself: it shows what a page shows, and leaves nothing behind.

use std::path::Path;
use std::time::{Duration, Instant};

use single_state_tests::chromium::{Chromium, DEADLINE, SCREENSHOTS};

const PAGE: &str = "data:text/html,<title>t</title><input id=in><button id=b \
    onclick=\"setTimeout(() => out.textContent = 'typed ' + document.getElementById('in').value, 100)\">\
    b</button><p id=out></p>";

#[tokio::test]
async fn a_click_is_seen_in_the_text_that_it_changes_later() {
    let browser = Chromium::start().await.unwrap();
    browser.goto(PAGE).await.unwrap();
    browser.fill("#in", "yak").await.unwrap();
    browser.click("#b").await.unwrap();
    browser.wait_text("#out", "typed yak").await.unwrap();
    browser.wait_until("document.title === 't'").await.unwrap();
    assert_eq!(browser.run("return 6 * 7").await.unwrap(), 42);
}

#[tokio::test]
async fn a_screenshot_is_a_png_file() {
    let browser = Chromium::start().await.unwrap();
    browser.goto(PAGE).await.unwrap();
    let file = Path::new(SCREENSHOTS).join("a-screenshot.png");
    // Of an earlier run.
    let _ = std::fs::remove_file(&file);
    browser.screenshot("a-screenshot.png").await.unwrap();
    assert!(std::fs::read(file).unwrap().starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn console_errors_are_collected_and_console_logs_are_not() {
    let browser = Chromium::start().await.unwrap();
    let page = "data:text/html,<script>console.log('fine'); console.error('bad'); null.x</script>";
    browser.goto(page).await.unwrap();
    let errors = browser.console_errors().await.unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("bad") && errors[1].contains("Uncaught"), "{errors:?}");
}

#[tokio::test]
async fn devtools_commands_reach_the_page() {
    let browser = Chromium::start().await.unwrap();
    let dark = serde_json::json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.devtools("Emulation.setEmulatedMedia", dark).await.unwrap();
    browser.goto(PAGE).await.unwrap();
    browser.wait_until("matchMedia('(prefers-color-scheme: dark)').matches").await.unwrap();
}

#[tokio::test]
async fn a_test_that_panics_leaves_no_browser_behind() {
    let (send, receive) = tokio::sync::oneshot::channel();
    let panicking = tokio::spawn(async move {
        let browser = Chromium::start().await.unwrap();
        let id = &browser.client().capabilities().unwrap()["goog:processID"];
        send.send(id.as_u64().unwrap()).unwrap();
        panic!("on purpose");
    });
    let process = receive.await.unwrap();
    panicking.await.unwrap_err();
    let start = Instant::now();
    while running(process) {
        assert!(start.elapsed() < DEADLINE, "chromium {process} is still running");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process that has ended but was not yet waited for has an empty command line.
fn running(process: u64) -> bool {
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}
