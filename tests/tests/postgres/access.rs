//! Who may use the database: what is missing is told in a sentence that an operator can follow.

use anyhow::{Context, Result};
use single_state_tests::postgres::TempPostgres;

use crate::setting::{Saving, must_be_unusable, prepared, store};

/// The statements that a sentence asks for.
fn advice(sentence: &str) -> Result<&str> {
    let (_, rest) = sentence.split_once("run: ").context("it says what to run")?;
    Ok(rest.split(", or ").next().unwrap_or(rest))
}

#[tokio::test]
async fn a_role_that_may_not_make_the_schema_is_told_how_it_may() -> Result<()> {
    let server = TempPostgres::start().await?;
    let client = server.client().await?;
    client.batch_execute("CREATE ROLE worker LOGIN").await?;
    let store = store(&server.url_of("worker:hunter2", "postgres"));
    let sentence = must_be_unusable(store.prepare().await)?;
    assert!(sentence.contains("GRANT CREATE ON DATABASE \"postgres\""), "{sentence}");
    client.batch_execute(advice(&sentence)?).await?;
    store.prepare().await?;
    Saving::begin(&store, "s").await?.save(&store).await?;
    Ok(())
}

#[tokio::test]
async fn a_role_that_may_not_use_the_schema_is_told_how_it_may() -> Result<()> {
    let server = TempPostgres::start().await?;
    prepared(&server.url()).await?;
    let client = server.client().await?;
    client.batch_execute("CREATE ROLE worker LOGIN").await?;
    let store = store(&server.url_of("worker:hunter2", "postgres"));
    let sentence = must_be_unusable(store.prepare().await)?;
    assert!(sentence.contains("GRANT USAGE ON SCHEMA"), "{sentence}");
    client.batch_execute(advice(&sentence)?).await?;
    store.prepare().await?;
    let mut saving = Saving::begin(&store, "s").await?;
    saving.save(&store).await?;
    client.batch_execute("REVOKE UPDATE ON single_state.session FROM worker").await?;
    let sentence = must_be_unusable(saving.save(&store).await)?;
    assert!(sentence.contains("GRANT SELECT, INSERT, UPDATE"), "{sentence}");
    let sentence = must_be_unusable(store.prepare().await)?;
    assert!(sentence.contains("single_state.session UPDATE"), "{sentence}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_is_told_without_repeating_it() -> Result<()> {
    let server = TempPostgres::start().await?;
    let client = server.client().await?;
    let role = "CREATE ROLE worker LOGIN PASSWORD 'right' IN ROLE locked;
        GRANT CREATE ON DATABASE postgres TO worker";
    client.batch_execute(role).await?;
    let with = |user: &str| store(&server.url_of(user, "postgres"));
    let sentence = must_be_unusable(with("worker:hunter2").prepare().await)?;
    assert!(sentence.contains("check user and password"), "{sentence}");
    let sentence = must_be_unusable(with("worker").prepare().await)?;
    assert!(sentence.contains("correct its user, password"), "{sentence}");
    with("worker:right").prepare().await?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_told_how_to_make_it() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = store(&server.url_of("postgres:hunter2", "sessions"));
    let sentence = must_be_unusable(store.prepare().await)?;
    assert!(sentence.contains("CREATE DATABASE \"sessions\""), "{sentence}");
    server.client().await?.batch_execute("CREATE DATABASE sessions").await?;
    store.prepare().await?;
    Ok(())
}

#[tokio::test]
async fn a_socket_is_as_good_as_an_address() -> Result<()> {
    let server = TempPostgres::start().await?;
    let (folder, port) = (server.socket_folder().display(), server.port());
    let url = format!("postgres://postgres@/postgres?host={folder}&port={port}");
    let store = prepared(&url).await?;
    Saving::begin(&store, "s").await?.save(&store).await?;
    Ok(())
}
