//! What clients append arrives once and in order, whatever becomes of their connections, of the
//! workers and of the gateway: judged by the checker, from what clients and workers have written down.
//! `make exactly-once` and `make cuts` give it more time.

mod broken;
mod cut_off;
mod killed;
mod page;

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use single_state_tests::checker::{Checked, Options as Known, check_files};
use single_state_tests::client::{Client, Manners};
use single_state_tests::cluster::{Cluster, Options, PLACEMENT_KEY};
use single_state_tests::history::Recorder;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How long things are broken, unless the environment says otherwise.
const SECONDS: u64 = 6;

/// How long things are broken, as this variable says.
fn seconds(variable: &str) -> Duration {
    let seconds = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

/// A cluster whose workers write down what they do, and where clients do it too.
struct Run {
    cluster: Cluster,
    recorder: Recorder,
    folder: TempDir,
}

impl Run {
    async fn start(durability: &str, workers: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let history = folder.path().join("worker-%i.jsonl");
        let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
        let options = Options { workers, ..Options::default() }
            .store(&store)
            .worker_flag("--durability", durability)
            .worker_flag("--commit-interval", "100ms")
            .worker_flag("--history", &history.to_string_lossy());
        let cluster = Cluster::start(options).await?;
        let recorder = Recorder::create(&folder.path().join("clients.jsonl"))?;
        Ok(Self { cluster, recorder, folder })
    }

    /// Clients that come again soon.
    fn manners(&self) -> Manners {
        Manners {
            first_wait: Duration::from_millis(20),
            longest_wait: Duration::from_millis(200),
            recorder: self.recorder.clone(),
            ..Manners::default()
        }
    }

    /// What all have written down holds what is promised, and no socket was closed by the server.
    fn check(&self) -> Result<Checked> {
        self.recorder.flush()?;
        let workers = self.cluster.workers.len();
        let mut files = vec![self.folder.path().join("clients.jsonl")];
        let file = |index| self.folder.path().join(format!("worker-{index}.jsonl"));
        files.extend((0..workers).map(file));
        let known =
            Known { placement: Some((PLACEMENT_KEY, vec![workers as u64])), no_closes: true };
        check_files(&files, &known).map(|(_, checked)| checked)
    }
}

/// Appends an item so often until then, and waits until all are acknowledged; how many.
async fn append(
    mut client: Client,
    number: usize,
    pace: Duration,
    until: Instant,
) -> Result<(Client, u64)> {
    let mut items = 0;
    while Instant::now() < until {
        items += 1;
        client.publish(&json!({"tag": "append", "item": format!("c{number}-{items}")})).await?;
        let next = Instant::now() + pace;
        while let Ok(heard) = timeout_at(next, client.next()).await {
            heard?;
        }
    }
    client.settle().await?;
    Ok((client, items))
}

/// Waits until all have appended what they wanted, and compares what those of one session find and
/// mirror when nobody sends any more; how many items there are.
async fn come_to_rest(mut appending: JoinSet<Result<(Client, u64)>>) -> Result<(Vec<Client>, u64)> {
    let (mut clients, mut sent) = (Vec::new(), 0);
    while let Some(client) = appending.join_next().await {
        let (client, items) = client??;
        sent += items;
        clients.push(client);
    }
    clients.sort_by(|one, other| one.session().cmp(other.session()));
    for client in &mut clients {
        client.items().await?;
    }
    for together in clients.chunk_by_mut(|one, other| one.session() == other.session()) {
        if let [one, other] = together {
            while one.mirror() != other.mirror() {
                tokio::select! { heard = one.hear_soon() => heard?, heard = other.hear_soon() => heard? };
            }
        }
    }
    clients.iter().for_each(Client::record_mirror);
    Ok((clients, sent))
}
