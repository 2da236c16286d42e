//! What the tests of pages share: an app with its page in a browser.

use std::path::Path;

use anyhow::Result;
use fantoccini::Locator;
use serde_json::json;
use single_state_tests::chromium::Chromium;
use single_state_tests::dev::{Dev, Project};
use single_state_tests::process::program;

/// The npm packages that the pages import.
pub(crate) const VENDOR: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/client/node_modules");
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

/// What the example `stream` writes about for a minute: no browser is too slow to cancel that.
pub(crate) fn long_story() -> String {
    "and on ".repeat(150)
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
