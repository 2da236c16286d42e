//! The pages that the examples bring along, each by the one command that its author runs.

use std::path::Path;

use anyhow::Result;
use single_state_tests::chromium::Chromium;

use crate::stage::{EXAMPLE_PAGES, IRIS, choose_file, example, long_story};

fn web(name: &str) -> String {
    format!("{EXAMPLE_PAGES}/{name}")
}

#[tokio::test]
async fn the_counter_counts_with_a_page_that_knows_nothing_of_us() -> Result<()> {
    let (_project, dev) = example("counter", &["--web", &web("counter")]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#count", "0").await?;
    browser.click("#add").await?;
    browser.click("#add").await?;
    browser.wait_text("#count", "2").await?;
    browser.client().refresh().await?;
    browser.wait_text("#count", "2").await?;
    browser.click("#reset").await?;
    browser.wait_text("#count", "0").await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "example-counter-400.png").await
}

#[tokio::test]
async fn streamed_text_appears_word_by_word_and_is_cancelled() -> Result<()> {
    let (_project, dev) = example("stream", &["--web", &web("stream")]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    browser.fill("#about", &long_story()).await?;
    browser.click("#write button").await?;
    browser.wait_text_that("#text", |text| text.starts_with("Once upon")).await?;
    browser.click("#cancel").await?;
    browser.wait_text("#state", "cancelled").await?;
    browser.fill("#about", "").await?;
    browser.click("#write button").await?;
    browser.wait_text("#error", "say what to write about").await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "example-stream-400.png").await
}

#[tokio::test]
async fn a_table_that_is_uploaded_is_classified() -> Result<()> {
    let (_project, dev) = example("classify", &["--web", &web("classify")]).await?;
    let browser = Chromium::start().await?;
    browser.goto(&dev.page("/")).await?;
    choose_file(&browser, "#file", Path::new(IRIS)).await?;
    browser.wait_text("#done", "150 of 150 rows").await?;
    browser.wait_text_that("#accuracy", |text| text.ends_with("% as labelled")).await?;
    browser.click("#draw").await?;
    browser.wait_until("document.getElementById('map').naturalWidth === 128").await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    browser.fits(400, "example-classify-400.png").await
}
