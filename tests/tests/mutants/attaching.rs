//! Mistakes in who may have a channel or a session.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use single_state_faults::Mutant;
use single_state_proto::frame::Refused;
use single_state_proto::link::Event;
use single_state_tests::DEADLINE;
use single_state_tests::checker::{Options as Known, Violation, check};
use single_state_tests::client::{Client, Manners};
use single_state_tests::cluster::{Cluster, Options, PLACEMENT_KEY};
use single_state_tests::faults::Faults;
use single_state_tests::history::{Recorder, read};
use single_state_tests::peer::{Peer, open};
use single_state_tests::proxy::{Faults as Weather, Flow, Proxy};
use tokio::time::timeout;

/// What goes through the proxy at first is so late that its ways can be closed meanwhile.
const LATE: Duration = Duration::from_secs(1);
/// A mistake shows at once.
const SOON: Duration = Duration::from_secs(3);

type Judged = Result<(), Box<Violation>>;

fn judge(judged: Judged, mutant: Option<Mutant>, invariant: u8) -> Result<()> {
    match (judged, mutant) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(mutant)) => bail!("nobody has noticed {}", mutant.name()),
        (Err(violation), None) => Err((*violation).into()),
        (Err(violation), Some(mutant)) => {
            eprintln!("{}: I{}: {}", mutant.name(), violation.invariant, violation.text);
            ensure!(violation.invariant == invariant, "noticed as another mistake: {violation}");
            Ok(())
        }
    }
}

/// The hello of a client's first connection arrives when the client has long come again by another
/// gateway.
async fn an_older_connection_comes_later(mutant: Option<Mutant>) -> Result<Judged> {
    let options =
        Options { workers: 1, faults: Faults::default().and(mutant), ..Options::default() };
    let cluster = Cluster::start(options).await?;
    let other = cluster.another_gateway().await?;
    let proxy = Proxy::start(&cluster.gateway.address).await?;
    proxy.set(Weather { delay: LATE, ..Weather::default() });
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("client.jsonl");
    let recorder = Recorder::create(&file)?;
    let silence = LATE;
    let first_wait = Duration::from_millis(1);
    let manners = Manners { silence, first_wait, recorder: recorder.clone(), ..Manners::default() };
    let mut client = Client::new(&format!("ws://{}/ws?session=a", proxy.address()), manners);
    client.add_url(&format!("ws://{}/ws?session=a", other.address));

    let blocked = async {
        cluster.wait_for_metric("single_state_connections", |count| count == 1.0).await?;
        proxy.set(Weather { up: Flow::Block, ..Weather::default() });
        anyhow::Ok(())
    };
    tokio::try_join!(blocked, client.open())?;
    client.publish(&json!({"tag": "append", "item": "one"})).await?;
    client.settle().await?;
    ensure!(client.connections() == 2, "it has come twice");
    proxy.heal();
    // It is told of its end, if it has one; else it is quiet, and that has no end.
    let patience = if mutant.is_some() { DEADLINE } else { SOON };
    let told = timeout(patience, async {
        let is_over = cluster.wait_for_metric("single_state_connections", |count| count == 0.0);
        is_over.await?;
        // To be closed for good is an end as well.
        while client.connections() == 2 && client.next().await.is_ok() {}
        anyhow::Ok(())
    })
    .await;
    told.unwrap_or(Ok(()))?;
    recorder.flush()?;
    let known = Known { no_closes: true, ..Known::default() };
    Ok(check(&read(&[file])?, &known).map(drop))
}

#[tokio::test]
async fn an_older_connection_that_takes_a_channel_from_a_newer_one_is_noticed() -> Result<()> {
    let mutant = Some(Mutant::OlderAttachWins);
    let run = an_older_connection_comes_later;
    let (clean, faulty) = tokio::try_join!(run(None), run(mutant))?;
    judge(clean, None, 11)?;
    judge(faulty, mutant, 11)
}

/// A gateway that is mistaken asks a worker for a session that belongs to another one.
async fn the_wrong_worker_is_asked(mutant: Option<Mutant>) -> Result<(Judged, bool)> {
    let folder = tempfile::tempdir()?;
    let history = folder.path().join("worker-%i.jsonl");
    let options =
        Options { workers: 2, faults: Faults::default().and(mutant), ..Options::default() }
            .worker_flag("--history", &history.to_string_lossy());
    let cluster = Cluster::start(options).await?;
    let status: Value = cluster.gateway.status().await?;
    let generation = status["generation"].as_u64().context("a generation")?;
    let mut peer = Peer::connect(&cluster.workers[0].address, 0).await?;
    let theirs = cluster.session_on(1, "theirs").parse()?;
    // Its own gateway has told it who there is before it was linked in all eyes.
    let stream = peer.open(open(&theirs, "wrong", generation)).await?;
    let is_refused = peer.hears(|event| match event {
        Event::Refused(id, refused) if *id == stream => Some(*refused == Refused::WrongOwner),
        Event::Opened(id, _) if *id == stream => Some(false),
        _ => None,
    });
    let is_refused = is_refused.await?;
    let placement = Some((PLACEMENT_KEY, vec![2]));
    let files = [folder.path().join("worker-0.jsonl")];
    let known = Known { placement, ..Known::default() };
    Ok((check(&read(&files)?, &known).map(drop), is_refused))
}

#[tokio::test]
async fn a_worker_that_takes_what_belongs_to_another_one_is_noticed() -> Result<()> {
    let mutant = Some(Mutant::AnyPlacement);
    let run = the_wrong_worker_is_asked;
    let ((clean, was_refused), (faulty, was_refused_too)) =
        tokio::try_join!(run(None), run(mutant))?;
    ensure!(was_refused && !was_refused_too);
    judge(clean, None, 10)?;
    judge(faulty, mutant, 10)
}
