//! Encrypted connections: to the right server, or none.

use anyhow::Result;
use single_state_store::{Settings, SharedStore, open};
use single_state_tests::postgres::{Options, TempPostgres};

use crate::setting::{Saving, must_be_unusable, store};

fn trusting(server: &TempPostgres, host: &str) -> Result<SharedStore> {
    let url = format!("postgres://postgres@{host}:{}/postgres?sslmode=require", server.port());
    let ca_file = Some(server.authority());
    Ok(open(&url, Settings { ca_file, ..Settings::default() })?)
}

#[tokio::test]
async fn a_server_with_a_certificate_of_a_trusted_authority_is_used() -> Result<()> {
    let server = Options::default().with_tls().start().await?;
    let store = trusting(&server, "localhost")?;
    store.prepare().await?;
    Saving::begin(&store, "s").await?.save(&store).await?;
    let used = "SELECT count(*) FROM pg_stat_ssl WHERE ssl";
    let used: i64 = server.client().await?.query_one(used, &[]).await?.get(0);
    assert!(used > 0, "no connection is encrypted");
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_nobody_or_of_another_host_is_refused() -> Result<()> {
    let server = Options::default().with_tls().start().await?;
    let sentence = must_be_unusable(trusting(&server, "127.0.0.1")?.prepare().await)?;
    assert!(sentence.contains("certificate"), "{sentence}");
    for mode in ["require", "prefer"] {
        let port = server.port();
        let url = format!("postgres://postgres@localhost:{port}/postgres?sslmode={mode}");
        let sentence = must_be_unusable(store(&url).prepare().await)?;
        assert!(sentence.contains("certificate"), "{sentence}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() -> Result<()> {
    let server = TempPostgres::start().await?;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=require", server.port());
    let sentence = must_be_unusable(store(&url).prepare().await)?;
    assert!(sentence.contains("does not support TLS"), "{sentence}");
    Ok(())
}
