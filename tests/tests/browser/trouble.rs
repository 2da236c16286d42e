//! What the demo page says when something is in its way, and what its user can do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use single_state_tests::chromium::Chromium;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::dev::Project;
use single_state_tests::proxy::{Faults, Flow, Proxy};
use tempfile::TempDir;

use super::{dev_with_modules, has, owner, vendor};

#[tokio::test]
async fn what_is_done_offline_is_counted_and_there_once_the_page_is_back() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let network = Proxy::start(&dev.gateway.address).await?;
    let browser = Chromium::start().await?;
    browser.goto(&format!("http://{}/", network.address())).await?;
    owner(&browser).await?;
    browser.wait_text("#saving", "all saved").await?;
    assert!(!has(&browser, "#trouble").await?);

    // The next connection gets no answer, so that it is reconnecting for as long as it takes to see.
    network.set(Faults { up: Flow::Block, down: Flow::Block, ..Faults::default() });
    ensure!(network.cut() > 0, "there is a connection");
    browser.wait_text_that("#trouble", |text| text.starts_with("Reconnecting.")).await?;
    browser.fill("#append-item", "written offline").await?;
    browser.click("#append-run").await?;
    browser.wait_text_that("#trouble", |text| text.contains("1 change will be sent then.")).await?;
    network.set(Faults { refuse: true, ..Faults::default() });
    network.cut();
    browser.wait_text_that("#trouble", |text| text.starts_with("The server is away.")).await?;
    browser.fits(400, "demo-away-400.png").await?;

    network.heal();
    browser.wait_text("#connection", "connected").await?;
    browser.wait_text("#count", "1").await?;
    browser.wait_until("!document.getElementById('trouble')").await?;
    assert!(!has(&browser, "#error, #lost-banner").await?);
    Ok(())
}

#[tokio::test]
async fn a_page_whose_session_is_quarantined_can_start_fresh() -> Result<()> {
    let folder = TempDir::with_prefix("single-state-trouble-")?;
    let mut cluster = one_worker(&folder).await?;
    let browser = Chromium::start().await?;
    browser.goto(&format!("http://{}/?session=anna", cluster.gateway.address)).await?;
    browser.fill("#append-item", "kept for the operator").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#saving", "all saved").await?;
    // Where nobody obeys pages, they have no buttons that would ask for something.
    assert!(!has(&browser, "#dev-kill").await?);
    assert_eq!(browser.console_errors().await?, [""; 0]);

    let spoil = "UPDATE session SET state = x'00' WHERE id = 'anna'";
    ensure!(database(&folder)?.execute(spoil, [])? == 1, "it is saved");
    cluster.kill_worker(0).await?;
    cluster.restart_worker(0).await?;
    browser.wait_text_that("#trouble", |text| text.contains("quarantined")).await?;
    assert!(browser.text("#connection").await?.starts_with("closed (4503"));
    browser.fits(400, "demo-quarantined-400.png").await?;
    browser.click("#start-fresh").await?;
    browser.wait_text("#connection", "connected").await?;
    assert_ne!(owner(&browser).await?.0, "anna");
    assert_eq!(browser.text("#count").await?, "0");
    Ok(())
}

#[tokio::test]
async fn a_page_says_that_nothing_can_be_saved_until_it_can() -> Result<()> {
    let folder = TempDir::with_prefix("single-state-trouble-")?;
    let cluster = one_worker(&folder).await?;
    let browser = Chromium::start().await?;
    browser.goto(&format!("http://{}/", cluster.gateway.address)).await?;
    browser.fill("#append-item", "saved").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#saving", "all saved").await?;

    let other = database(&folder)?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    browser.fill("#append-item", "not saved yet").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "2").await?;
    let words = "1 change cannot be saved just now";
    browser.wait_text_that("#trouble", |text| text.starts_with(words)).await?;
    assert_eq!(browser.text("#connection").await?, "connected");

    other.execute_batch("ROLLBACK")?;
    browser.wait_text("#saving", "all saved").await?;
    browser.wait_until("!document.getElementById('trouble')").await
}

#[tokio::test]
async fn a_page_whose_worker_was_away_is_told_where_its_session_was_and_that_it_is_back()
-> Result<()> {
    let folder = TempDir::with_prefix("single-state-trouble-")?;
    let mut cluster = workers(&folder, 2).await?;
    let session = cluster.session_on(0, "anna");
    let browser = Chromium::start().await?;
    browser.goto(&format!("http://{}/?session={session}", cluster.gateway.address)).await?;
    assert_eq!(owner(&browser).await?.1, 0);

    cluster.kill_worker(0).await?;
    browser.wait_text_that("#where-worker", |text| text.starts_with("1, process ")).await?;
    cluster.restart_worker(0).await?;
    browser.wait_text_that("#where-worker", |text| text.starts_with("0, process ")).await?;
    let words = "Your session moved from worker 0 to worker 1 and back.";
    browser.wait_text_that("#notice", |text| text.starts_with(words)).await?;
    let handoffs = browser.text("#handoffs").await?;
    let [away, home] = ["from worker 0 to worker 1", "from worker 1 to worker 0"];
    assert!(handoffs.contains(away) && handoffs.contains(home), "{handoffs}");
    Ok(())
}

/// In `gateway run`, with sessions in SQLite.
async fn one_worker(folder: &TempDir) -> Result<Cluster> {
    workers(folder, 1).await
}

async fn workers(folder: &TempDir, workers: usize) -> Result<Cluster> {
    let store = format!("sqlite:{}", file(folder)?);
    let options = Options { workers, ..Options::default() };
    Cluster::start(options.store(&store).gateway_flag("--vendor", vendor()?)).await
}

fn database(folder: &TempDir) -> Result<rusqlite::Connection> {
    let database = rusqlite::Connection::open(file(folder)?)?;
    database.busy_timeout(Duration::from_secs(10))?;
    Ok(database)
}

fn file(folder: &TempDir) -> Result<String> {
    let path = folder.path().join("sessions.sqlite");
    path.to_str().map(str::to_owned).context("a path in UTF-8")
}
