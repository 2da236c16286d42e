//! A worker takes a session whose owner only one of two gateways can still reach (R16).

use anyhow::Result;
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Options, home};
use single_state_tests::fleet::{Fleet, Plan};
use single_state_tests::proxy::Faults;

#[tokio::test]
async fn a_page_hears_at_once_of_a_session_that_was_taken_from_the_worker_it_is_at() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
    // Nothing is left to be saved, by which the owner would notice.
    let options = Options::default().store(&store).worker_flag("--durability", "durable");
    let fleet =
        Fleet::start(Plan { options, gateways: 2, has_proxies: true, ..Plan::default() }).await?;
    let mut sessions = (0..).map(|n| format!("taken-{n}"));
    let session = sessions.find(|id| home(id, fleet.size()) == 1).unwrap_or_default();
    let query = format!("?session={session}");
    let mut quiet = Browser::connect(&fleet.url(1, &query)).await?;
    let mut busy = Browser::connect(&fleet.url(0, &query)).await?;
    busy.send(json!({"tag": "append", "item": "one"})).await?;
    quiet.wait_for("count", &json!(1)).await?;

    let link = &fleet.proxies[0][1];
    link.set(Faults { refuse: true, ..Faults::default() });
    link.cut();
    busy.send(json!({"tag": "append", "item": "two"})).await?;
    busy.wait_for("count", &json!(2)).await?;
    // It has said nothing since, and the worker that it was at is alive.
    quiet.wait_for("count", &json!(2)).await?;

    // What it says goes to the same owner.
    quiet.send(json!({"tag": "append", "item": "three"})).await?;
    busy.wait_for("count", &json!(3)).await
}
