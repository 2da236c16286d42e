//! A mistake that costs no data but memory (I13): a session that does not take what is sent to it fills
//! its worker.

use anyhow::{Result, ensure};
use serde_json::json;
use single_state_faults::Mutant;
use single_state_tests::append::wait_until;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::faults::Faults;

/// Messages to a session that is busy, of so many bytes each: three times what it may be sent.
const MESSAGES: u64 = 192;
const BYTES: usize = 1024;
/// What a busy session is sent, with all else that comes over the link meanwhile.
const MOST: f64 = 96.0 * 1024.0;

/// How many bytes the worker of a busy session is sent.
async fn is_sent(mutant: Option<Mutant>) -> Result<f64> {
    let faults = Faults::default().and(mutant);
    let cluster = Cluster::start(Options { workers: 1, faults, ..Options::fixture() }).await?;
    let mut busy = Browser::connect(&cluster.url("?session=busy")).await?;
    let mut other = Browser::connect(&cluster.url("?session=other")).await?;
    busy.send(json!({"tag": "wait", "seconds": 3600})).await?;
    for _ in 0..MESSAGES {
        busy.send(json!({"tag": "ping", "padding": "x".repeat(BYTES)})).await?;
    }
    let name = "single_state_messages_in_total";
    let are_read = async || Ok(cluster.gateway.metric(name).await? > MESSAGES as f64);
    wait_until("the gateway has read them", are_read).await?;
    // What the link takes at all it has taken after some more turns.
    for _ in 0..32 {
        other.send(json!({"tag": "ping"})).await?;
        other.receive_where(|message| message["tag"] == "pong").await?;
    }
    cluster.workers[0].metric("single_state_link_received_bytes_total").await
}

#[tokio::test]
async fn a_worker_that_makes_room_for_what_its_session_has_not_taken_is_noticed() -> Result<()> {
    let mutant = Mutant::CreditOnReceive;
    let (clean, faulty) = tokio::try_join!(is_sent(None), is_sent(Some(mutant)))?;
    ensure!(clean < MOST, "{clean} bytes were sent");
    ensure!(faulty > MOST, "nobody has noticed {}: {faulty} bytes", mutant.name());
    eprintln!("{}: I13: {faulty} bytes in place of {clean}", mutant.name());
    Ok(())
}
