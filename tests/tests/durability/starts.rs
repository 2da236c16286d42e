//! A worker whose database is away waits for it; one whose database cannot be used says why and ends.

use anyhow::{Context, Result, ensure};
use single_state_tests::append::{Appender, must_survive, wait_until};
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::postgres::TempPostgres;
use single_state_tests::process::{Process, program};
use tokio::process::Command;

use crate::sqlite;

#[tokio::test]
async fn a_worker_whose_database_is_away_serves_new_sessions_and_is_ready_when_it_is_there()
-> Result<()> {
    let server = TempPostgres::start().await?;
    server.stop_fast().await?;
    let mut cluster = Cluster::start(Options::default().store(&server.url())).await?;
    let ready = async |cluster: &Cluster| {
        let mut ready = Vec::new();
        for worker in &cluster.workers {
            ready.push(worker.admin_get("/readyz").await?.0);
        }
        anyhow::Ok(ready)
    };
    ensure!(ready(&cluster).await? == [503, 503, 503]);
    let mut fresh = Appender::connect(&cluster, None).await?;
    fresh.append_all(20).await?;
    // Whether this one is stored nobody knows yet: it waits.
    let mut stored = Appender::connect(&cluster, Some("stored")).await?;
    stored.append().await?;
    ensure!(ready(&cluster).await? == [503, 503, 503]);

    server.restart().await?;
    stored.wait_until_ahead(0).await?;
    wait_until("all workers are ready", async || Ok(ready(&cluster).await? == [200, 200, 200]))
        .await?;
    fresh.append_all(20).await?;
    must_survive(&mut cluster, &server.url(), vec![fresh, stored]).await
}

/// A worker with such a store ends with this code, and says this in the last line that it prints,
/// without its password.
async fn must_end(store: &str, code: i32, sentence: &str) -> Result<()> {
    let mut command = Command::new(program("worker"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--store", store]);
    let mut worker = Process::spawn("worker", command)?;
    let status = worker.wait().await?;
    ensure!(status.code() == Some(code), "{store}: {status}:\n{}", worker.output());
    let told = |line: &str| line.contains(sentence).then(|| line.to_owned());
    let line = worker.wait_for_line(told).await.with_context(|| store.to_owned())?;
    let output = worker.output();
    ensure!(!output.contains("hunter2"), "{output}");
    ensure!(output.matches(sentence).count() == 1, "once is enough:\n{output}");
    ensure!(!line.contains('\n') && line.len() < 400, "one sentence: {line}");
    Ok(())
}

#[tokio::test]
async fn a_worker_ends_with_1_and_one_sentence_when_its_file_cannot_be_used() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.sqlite");
    std::fs::write(&file, "no database at all, but long enough to be one ".repeat(100))?;
    must_end(&sqlite(&folder), 1, "is not an SQLite database").await?;
    std::fs::remove_file(&file)?;
    std::fs::create_dir(&file)?;
    must_end(&sqlite(&folder), 1, "cannot be opened for writing").await?;
    let within_a_file = folder.path().join("file").join("x.sqlite");
    std::fs::write(folder.path().join("file"), "")?;
    must_end(&format!("sqlite:{}", within_a_file.display()), 1, "cannot be made or written").await
}

#[tokio::test]
async fn a_worker_leaves_a_file_of_a_newer_build_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = sqlite(&folder);
    drop(Cluster::start(Options { workers: 1, ..Options::default() }.store(&store)).await?);
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (999, 'later', '2030-01-01T00:00:00Z', '1')";
    rusqlite::Connection::open(folder.path().join("x.sqlite"))?.execute(newer, [])?;
    must_end(&store, 1, "newer build").await
}

#[tokio::test]
async fn a_worker_ends_with_1_and_one_sentence_when_its_database_cannot_be_used() -> Result<()> {
    let server = TempPostgres::start().await?;
    let client = server.client().await?;
    let roles = "CREATE ROLE guest LOGIN; CREATE ROLE worker LOGIN PASSWORD 'right' IN ROLE locked";
    client.batch_execute(roles).await?;
    let url = |user: &str| server.url_of(user, "postgres");
    must_end(&url("worker:hunter2"), 1, "check user and password").await?;
    must_end(&url("guest:hunter2"), 1, "GRANT CREATE ON DATABASE").await?;
    let database = server.url_of("postgres:hunter2", "nowhere");
    must_end(&database, 1, "CREATE DATABASE \"nowhere\"").await?;

    let options = Options { workers: 1, ..Options::default() };
    drop(Cluster::start(options.store(&server.url())).await?);
    must_end(&url("guest:hunter2"), 1, "GRANT USAGE ON SCHEMA").await?;
    let newer = "INSERT INTO single_state.schema_history (version, name, applied_on, checksum)
        VALUES (999, 'later', '2030-01-01T00:00:00Z', '1')";
    client.batch_execute(newer).await?;
    must_end(&server.url(), 1, "newer build").await
}

#[tokio::test]
async fn a_worker_ends_with_64_when_the_url_of_its_store_is_none() -> Result<()> {
    for store in ["nonsense:hunter2", "sqlite:", "postgres://u:hunter2@h:notaport/d", ""] {
        must_end(store, 64, "--store").await?;
    }
    Ok(())
}
