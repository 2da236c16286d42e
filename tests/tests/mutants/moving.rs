//! Mistakes of a drain, which cost no data but time: no invariant, but the promise that sessions go on
//! elsewhere while their worker waits for one that is busy.

use anyhow::{Result, bail, ensure};
use serde_json::json;
use single_state_faults::Mutant;
use single_state_tests::append::wait_until;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::faults::Faults;

const ONE: usize = 1;

/// A worker that drains waits for a handler, and its other session is asked for something meanwhile.
/// Who answers, and how many sessions the worker still has then.
async fn is_served_while_another_waits(mutant: Option<Mutant>) -> Result<(u64, u64)> {
    // Long, but where only the worker's end shows the mistake.
    let soon = mutant == Some(Mutant::DrainingNotSkipped);
    let (grace, drain) = if soon { ("3s", "4s") } else { ("60s", "60s") };
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
    let faults = Faults::default().and(mutant);
    let options = Options { workers: 2, faults, ..Options::fixture() }
        .store(&store)
        .worker_flag("--handler-grace", grace)
        .worker_flag("--drain-timeout", drain);
    let cluster = Cluster::start(options).await?;
    let page = async |name| {
        let session = cluster.session_on(ONE, name);
        Browser::connect(&cluster.url(&format!("?session={session}"))).await
    };
    let (mut busy, mut other) = (page("busy").await?, page("other").await?);
    for page in [&mut busy, &mut other] {
        page.send(json!({"tag": "append", "n": 1})).await?;
        page.wait_for("length", &json!(1)).await?;
    }
    busy.send(json!({"tag": "wait", "seconds": 60})).await?;
    cluster.workers[ONE].process.signal("TERM")?;
    let drains = async || Ok(cluster.workers[ONE].admin_get("/readyz").await?.0 != 200);
    wait_until("the worker drains", drains).await?;
    other.send(json!({"tag": "ping"})).await?;
    let pong = other.receive_where(|message| message["tag"] == "pong").await?;
    let Some(worker) = pong["worker"].as_u64() else { bail!("{pong}") };
    let status = cluster.workers[ONE].status().await.unwrap_or_default();
    Ok((worker, status["sessions"].as_u64().unwrap_or_default()))
}

/// While one session keeps its worker, the other is served by the other worker; with the mistake it is
/// as `expected`.
async fn must_be_noticed(mutant: Mutant, expected: (u64, u64)) -> Result<()> {
    let run = is_served_while_another_waits;
    let (clean, faulty) = tokio::try_join!(run(None), run(Some(mutant)))?;
    ensure!(clean == (0, 1), "{clean:?}");
    ensure!(faulty == expected, "{faulty:?} with {}", mutant.name());
    Ok(())
}

#[tokio::test]
async fn a_worker_that_drains_and_hands_nothing_over_is_noticed() -> Result<()> {
    // Nobody has handed it over.
    must_be_noticed(Mutant::DrainWithoutHandover, (1, 2)).await
}

#[tokio::test]
async fn a_gateway_that_goes_on_to_ask_a_worker_that_drains_is_noticed() -> Result<()> {
    // Its gateway asks the worker that drains until that has ended.
    must_be_noticed(Mutant::DrainingNotSkipped, (0, 0)).await
}
