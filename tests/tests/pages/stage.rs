//! What the tests of pages share: an app with its page in a browser, and pictures of pages.

use std::path::Path;

use anyhow::{Result, ensure};
use fantoccini::Locator;
use serde_json::{Value, json};
use single_state_tests::chromium::Chromium;
use single_state_tests::dev::{Dev, Project};
use single_state_tests::process::program;

/// The npm packages that the pages import.
pub(crate) const VENDOR: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/client/node_modules");
const SCREENSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/output");
/// Irises, to be uploaded.
pub(crate) const IRIS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/examples/classify/iris.csv");
/// The pages of the example apps.
pub(crate) const EXAMPLE_PAGES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/examples/web");

/// An example app under `gateway dev`.
pub(crate) async fn example(name: &str, flags: &[&str]) -> Result<(Project, Dev)> {
    let project = Project::with_worker(&program(&format!("examples/{name}"))).await?;
    let dev = project.dev(&[&["--vendor", VENDOR], flags].concat()).await?;
    Ok((project, dev))
}

/// Takes a picture of the whole page at this width, and fails if it can be scrolled sideways.
pub(crate) async fn fits(browser: &Chromium, width: u32, name: &str) -> Result<()> {
    let size = |height: &Value| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
    browser.devtools("Emulation.setDeviceMetricsOverride", size(&json!(900))).await?;
    browser.wait_until(&format!("innerWidth === {width}")).await?;
    let height = browser.run("return document.documentElement.scrollHeight").await?;
    let wide = browser.run("return document.documentElement.scrollWidth").await?;
    browser.devtools("Emulation.setDeviceMetricsOverride", size(&height)).await?;
    browser.screenshot(&Path::new(SCREENSHOTS).join(name)).await?;
    browser.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await?;
    ensure!(wide.as_u64() <= Some(width.into()), "{name} is {wide} px wide instead of {width}");
    Ok(())
}

/// Shows pages as a system that wants them dark, from now on.
pub(crate) async fn in_the_dark(browser: &Chromium) -> Result<()> {
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.devtools("Emulation.setEmulatedMedia", dark).await.map(drop)
}

/// Gives a file to an input of a page, as its user does.
pub(crate) async fn choose_file(browser: &Chromium, selector: &str, file: &Path) -> Result<()> {
    let field = browser.client().find(Locator::Css(selector)).await?;
    Ok(field.send_keys(&file.canonicalize()?.to_string_lossy()).await?)
}
