//! A server that is away for a while, in each of its ways: calls fail as away, and later succeed
//! with the same store.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use single_state_store::{StoreError, Version};
use single_state_tests::postgres::{Options, TempPostgres};

use crate::setting::{
    Saving, hasty, id, must_be_away, must_be_unusable, prepared, store, wait_until,
};

#[tokio::test]
async fn a_server_that_stops_and_starts_again_is_used_again() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let mut saving = Saving::begin(&store, "s").await?;
    saving.save(&store).await?;
    server.stop_fast().await?;
    for _ in 0..10 {
        must_be_away(&saving.save(&store).await.unwrap_err())?;
        must_be_away(&store.show(&saving.session).await.unwrap_err())?;
    }
    let error = store.prepare().await.unwrap_err();
    assert!(must_be_away(&error)?.contains("cannot be reached"), "{error}");
    server.restart().await?;
    saving.save_in_the_end(&store).await?;
    saving.check(&store).await
}

#[tokio::test]
async fn a_store_may_be_there_before_its_server() -> Result<()> {
    let server = TempPostgres::start().await?;
    server.stop_fast().await?;
    let store = store(&server.url());
    must_be_away(&store.prepare().await.unwrap_err())?;
    must_be_away(&store.show(&id("s")).await.unwrap_err())?;
    server.restart().await?;
    store.prepare().await?;
    assert_eq!(store.show(&id("s")).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_away_after_the_timeout() -> Result<()> {
    // Takes connections, by the system's hand, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let store = hasty(&format!("postgres://u:hunter2@{}/d", silent.local_addr()?));
    let error = store.prepare().await.unwrap_err();
    assert!(must_be_away(&error)?.contains("did not answer within 1s"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_read_only_for_a_while_is_away() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let mut saving = Saving::begin(&store, "s").await?;
    server.set_read_only(true).await?;
    let sentence = saving.save_until_away(&store).await?;
    assert!(sentence.contains("read-only"), "{sentence}");
    let error = store.prepare().await.unwrap_err();
    assert!(must_be_away(&error)?.contains("read-only"), "{error}");
    saving.check(&store).await?;
    server.set_read_only(false).await?;
    saving.save_in_the_end(&store).await?;
    saving.check(&store).await
}

#[tokio::test]
async fn of_several_servers_the_one_that_takes_writes_is_used() -> Result<()> {
    let (standby, primary) = (TempPostgres::start().await?, TempPostgres::start().await?);
    standby.set_read_only(true).await?;
    let (one, other) = (standby.port(), primary.port());
    let url = format!(
        "postgres://postgres@127.0.0.1:{one},127.0.0.1:{other}/postgres?sslmode=disable&\
         target_session_attrs=read-write"
    );
    let store = prepared(&url).await?;
    let mut saving = Saving::begin(&store, "s").await?;
    saving.save(&store).await?;
    saving.check(&prepared(&primary.url()).await?).await?;
    // They change places: what is connected to the wrong one finds the other.
    primary.set_read_only(true).await?;
    saving.save_until_away(&store).await?;
    primary.set_read_only(false).await?;
    saving.save_in_the_end(&store).await
}

#[tokio::test]
async fn rows_that_others_lock_are_away_for_so_long() -> Result<()> {
    let server = TempPostgres::start().await?;
    let mut saving = Saving::begin(&prepared(&server.url()).await?, "s").await?;
    let store = hasty(&server.url());
    wait_until("it is prepared", async || Ok(store.prepare().await.is_ok())).await?;
    let client = server.client().await?;
    client.batch_execute("BEGIN; SELECT FROM single_state.session FOR UPDATE").await?;
    for _ in 0..2 {
        must_be_away(&saving.save(&store).await.unwrap_err())?;
    }
    client.batch_execute("ROLLBACK").await?;
    saving.save_in_the_end(&store).await?;
    saving.check(&store).await
}

#[tokio::test]
async fn a_server_without_a_connection_left_is_away() -> Result<()> {
    let options = Options::default().setting("max_connections=5");
    let server = options.setting("max_wal_senders=0").start().await?;
    let store = store(&server.url());
    let mut clients = Vec::new();
    while let Ok(client) = server.client().await {
        clients.push(client);
    }
    assert_eq!(clients.len(), 5);
    let error = store.prepare().await.unwrap_err();
    assert!(must_be_away(&error)?.contains("too many clients"), "{error}");
    clients.clear();
    wait_until("the server has a connection again", async || match store.prepare().await {
        Ok(()) => Ok(true),
        Err(error) => must_be_away(&error).map(|_| false),
    })
    .await
}

#[tokio::test]
async fn a_full_disk_is_away_until_there_is_room() -> Result<()> {
    let disk = SmallDisk::mount()?;
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let space = disk.0.path().join("space");
    server.give_folder(&space)?;
    let client = server.client().await?;
    let location = space.display();
    client.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{location}'")).await?;
    client.batch_execute("ALTER TABLE single_state.session SET TABLESPACE small").await?;
    let mut saving = Saving::begin(&store, "s").await?;
    saving.save(&store).await?;
    let ballast = disk.0.path().join("ballast");
    // Ends when the disk is full, which is an error.
    std::fs::write(&ballast, vec![0; SmallDisk::BYTES]).unwrap_err();
    // Each new row needs room, which the pages that are there soon have no more.
    let mut rows = 0;
    let sentence = loop {
        match Saving::begin(&store, &format!("s{rows}")).await {
            Ok(_) => rows += 1,
            Err(error) => break must_be_away(error.downcast_ref().context("of the store")?)?,
        }
        ensure!(rows < 10_000, "the disk is not full");
    };
    assert!(sentence.contains("No space left on device"), "{sentence}");
    saving.check(&store).await?;
    std::fs::remove_file(ballast)?;
    Saving::begin(&store, "another").await?.save(&store).await?;
    saving.save(&store).await?;
    saving.check(&store).await
}

/// A mount of its own, for which one must be root.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    const BYTES: usize = 8 * 1024 * 1024;

    fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = format!("size={},mode=0755", Self::BYTES);
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .status()?;
        ensure!(mount.success(), "a small disk is mounted by root only: run this test as root");
        Ok(Self(folder))
    }

    fn unmount(folder: &Path) {
        // Also while a server has files there: it is on its way out.
        let _ = Command::new("umount").arg("--lazy").arg(folder).status();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::unmount(self.0.path());
    }
}

#[tokio::test]
async fn many_workers_may_make_the_schema_at_once() -> Result<()> {
    let server = TempPostgres::start().await?;
    let stores: Vec<_> = (0..8).map(|_| store(&server.url())).collect();
    for prepared in join_all(stores.iter().map(|store| store.prepare())).await {
        prepared?;
    }
    let client = server.client().await?;
    let history = client.query("SELECT version FROM single_state.schema_history", &[]).await?;
    assert_eq!(history.len(), 1);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(client.query_one(locks, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn a_schema_of_a_newer_build_is_not_touched() -> Result<()> {
    let server = TempPostgres::start().await?;
    prepared(&server.url()).await?;
    let client = server.client().await?;
    let newer = "INSERT INTO single_state.schema_history VALUES (99, 'future', '2100', '1')";
    client.batch_execute(newer).await?;
    let sentence = must_be_unusable(store(&server.url()).prepare().await)?;
    assert!(sentence.contains("newer build"), "{sentence}");
    Ok(())
}

#[tokio::test]
async fn a_schema_that_vanishes_is_told_and_made_again() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    server.client().await?.batch_execute("DROP SCHEMA single_state CASCADE").await?;
    let answer = store.show(&id("s")).await;
    ensure!(matches!(answer, Err(StoreError::Unusable(_))), "{answer:?}");
    store.prepare().await?;
    let mut saving = Saving::begin(&store, "s").await?;
    saving.save(&store).await?;
    let shown = store.show(&saving.session).await?.context("it is saved")?;
    assert_eq!(shown.0.version, Version(1));
    Ok(())
}
