//! Wall clocks of single processes that jump while they run. Only tokens know of wall time: nothing else
//! changes (`swarm nemesis`, kind `clock-jump`, shows that for owners and saves).

use anyhow::{Context, Result, ensure};
use single_state_tests::append::wait_until;
use single_state_tests::clock::Clocks;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::history::Recorder;
use single_state_tests::page::Page;

const DAY: i64 = 24 * 3600;

async fn connect(cluster: &Cluster, token: &str) -> Result<Page> {
    let url = cluster.url(&format!("?session={token}"));
    Page::connect(&url, "page", Recorder::default()).await
}

#[tokio::test]
async fn a_token_ends_when_the_clock_jumps_beyond_its_end_and_is_good_again_when_it_is_back()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "5e".repeat(32))?;
    let clocks = Clocks::within(folder.path())?;
    let mut options = Options { workers: 1, ..Options::default() }.signed(&keys.to_string_lossy());
    options.clocks = Some(clocks.clone());
    let cluster = Cluster::start(options).await?;
    let mut first = Page::connect(&cluster.url(""), "first", Recorder::default()).await?;
    let token = first.token().context("a cookie")?.to_owned();
    for (days, is_good) in [(0, true), (31, false), (0, true)] {
        clocks.set("gateway", days * DAY)?;
        wait_until("the gateway's clock has jumped", async || {
            Ok(connect(&cluster, &token).await.is_ok() == is_good)
        })
        .await?;
    }
    // Who is there stays, whatever the clock says.
    first.send(r#"{"tag":"append","item":"one"}"#).await?;
    ensure!(first.items().await? == ["one"]);
    Ok(())
}
