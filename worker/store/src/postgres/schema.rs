//! The schema `single_state`: that it is there, is as new as this build, and may be used. Knows the
//! migrations by name only; what the tables mean is for the statements.

use deadpool_postgres::tokio_postgres::Client;
use refinery::{Migration, Runner};
use tokio_postgres::error::SqlState;

use super::connect::{CallError, Lease};
use super::error::{self, Names};
use crate::StoreError;

/// In their order. One that was released never changes: its checksum is in the databases.
const MIGRATIONS: [(i32, &str, &str); 1] =
    [(1, "V1__sessions", include_str!("migrations/V1__sessions.sql"))];

const NEWEST: i32 = MIGRATIONS[MIGRATIONS.len() - 1].0;

const HISTORY: &str = "single_state.schema_history";

/// Names the lock that migrating workers take turns by: "single" in ASCII.
const LOCK: i64 = 0x7369_6e67_6c65;

const SURVEY: &str = "SELECT \
    pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, \
    current_setting('fsync')::boolean AND current_setting('synchronous_commit') <> 'off', \
    EXISTS (SELECT FROM pg_namespace WHERE nspname = 'single_state'), \
    EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
      WHERE n.nspname = 'single_state' AND c.relname = 'schema_history')";

const MISSING_RIGHTS: &str = "SELECT t || ' ' || p \
    FROM unnest(ARRAY['single_state.session', 'single_state.kept']) t, \
      unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p \
    WHERE NOT has_table_privilege(t, p)";

/// Makes sure that the store's statements will work. Many workers may do this at a time.
pub(super) async fn prepare(lease: &mut Lease, names: &Names) -> Result<(), CallError> {
    let survey = lease.query_one(SURVEY, &[]).await?;
    if survey.try_get(0)? {
        return Err(error::read_only(names).into());
    }
    if !survey.try_get(1)? {
        tracing::warn!(
            store.server = names.server,
            "PostgreSQL runs with fsync or synchronous_commit off: its crash may lose what it has \
             confirmed"
        );
    }
    let found = if survey.try_get(3)? { version(lease).await? } else { 0 };
    if found > NEWEST {
        return Err(newer(names).into());
    }
    if found < NEWEST {
        migrate(lease, names, survey.try_get(2)?).await?;
    }
    check_rights(lease, names).await
}

async fn version(lease: &Lease) -> Result<i32, CallError> {
    let newest = format!("SELECT coalesce(max(version), 0) FROM {HISTORY}");
    Ok(lease.query_one(&newest, &[]).await?.try_get(0)?)
}

/// The lock is the connection's own, so a worker that dies with it does not keep it.
async fn migrate(lease: &mut Lease, names: &Names, has_schema: bool) -> Result<(), CallError> {
    lease.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    if !has_schema {
        let created = lease.batch_execute("CREATE SCHEMA IF NOT EXISTS single_state").await;
        created.map_err(|error| needs(names, error, "CREATE ON DATABASE", &names.database))?;
    }
    let migrations = MIGRATIONS.iter().map(|(_, name, sql)| Migration::unapplied(name, sql));
    let migrations: Result<Vec<_>, _> = migrations.collect();
    let migrations = migrations.map_err(|error| StoreError::Unusable(error.to_string()))?;
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name(HISTORY);
    let client: &mut Client = lease;
    runner.run_async(client).await.map_err(|error| of_migration(names, error))?;
    lease.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
    Ok(())
}

async fn check_rights(lease: &Lease, names: &Names) -> Result<(), CallError> {
    let missing = lease.query(MISSING_RIGHTS, &[]).await?;
    let missing: Result<Vec<String>, _> = missing.iter().map(|row| row.try_get(0)).collect();
    let missing = missing?.join(", ");
    if missing.is_empty() { Ok(()) } else { Err(error::no_rights(names, &missing).into()) }
}

fn needs(names: &Names, error: tokio_postgres::Error, right: &str, object: &str) -> CallError {
    match error.as_db_error() {
        Some(db) if *db.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
            error::no_right(names, db.message(), right, object).into()
        }
        _ => error.into(),
    }
}

fn of_migration(names: &Names, error: refinery::Error) -> CallError {
    use refinery::error::Kind;
    match error.kind() {
        Kind::MissingVersion(_) => newer(names).into(),
        Kind::Connection(_, cause) => match cause.downcast_ref::<tokio_postgres::Error>() {
            Some(cause) => match cause.as_db_error() {
                Some(db) if *db.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                    let right = "USAGE, CREATE ON SCHEMA";
                    error::no_right(names, db.message(), right, "single_state").into()
                }
                _ => error::of_call(names, cause).into(),
            },
            None => StoreError::Away(error.to_string()).into(),
        },
        _ => StoreError::Unusable(format!(
            "the schema single_state in {} was made by another build: {error}; use that build, or \
             an empty database",
            names.database
        ))
        .into(),
    }
}

fn newer(names: &Names) -> StoreError {
    StoreError::Unusable(format!(
        "the schema single_state in {} is of a newer build, and this one knows it up to version \
         {NEWEST}: start a worker that is as new as the newest that ever ran there",
        names.database
    ))
}
