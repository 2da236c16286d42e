//! What an error of PostgreSQL means to a worker, as one sentence. Owns the line between what passes
//! by itself and what an operator must change. Never prints a password or a snapshot: only the
//! server's message is passed on, not its details, which may quote rows.

use std::error::Error as _;

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::StoreError;

/// What sentences call the server, the database and the role; taken from the URL.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Hosts with ports, or sockets.
    pub(super) server: String,
    /// Database.
    pub(super) database: String,
    /// Role, as written in the URL.
    pub(super) role: String,
}

/// What is to be done about a call that found no server in time.
pub(super) fn timed_out(names: &Names, timeout: std::time::Duration) -> StoreError {
    let server = &names.server;
    StoreError::Away(format!("PostgreSQL at {server} did not answer within {timeout:?}"))
}

/// Why no connection was to be had.
pub(super) fn of_pool(names: &Names, error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => of_call(names, &error),
        other => StoreError::Away(format!("no connection to PostgreSQL: {other}")),
    }
}

/// Why a statement or a connection failed.
pub(super) fn of_call(names: &Names, error: &Error) -> StoreError {
    match error.as_db_error() {
        Some(db) => of_server(names, db.code(), db.message()),
        None => of_connection(names, error),
    }
}

fn of_server(names: &Names, code: &SqlState, message: &str) -> StoreError {
    let Names { server, database, .. } = names;
    let said = format!("PostgreSQL at {server} says: {message}");
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return read_only(names);
    }
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return no_rights(names, message);
    }
    match &code.code()[..2] {
        "28" => StoreError::Unusable(format!(
            "{said}; check user and password of the store's URL, and the server's pg_hba.conf"
        )),
        "3D" => StoreError::Unusable(format!(
            "{said}; create it with: CREATE DATABASE \"{database}\", or correct the store's URL"
        )),
        "42" if *code == SqlState::UNDEFINED_TABLE => StoreError::Unusable(format!(
            "{said}; start a worker anew, which creates what is missing"
        )),
        // What the statement or its values are does not change when it is asked again.
        "22" | "23" | "3F" | "42" => StoreError::Unusable(said),
        _ => StoreError::Away(said),
    }
}

/// Rights that the store's statements need.
pub(super) fn no_rights(names: &Names, missing: &str) -> StoreError {
    let Names { server, role, .. } = names;
    StoreError::Unusable(format!(
        "PostgreSQL at {server} does not let \"{role}\" use the schema single_state ({missing}); \
         let its owner run: GRANT USAGE ON SCHEMA single_state TO \"{role}\"; GRANT SELECT, INSERT, \
         UPDATE, DELETE ON ALL TABLES IN SCHEMA single_state TO \"{role}\""
    ))
}

/// A right that creating or changing the schema needs.
pub(super) fn no_right(names: &Names, message: &str, right: &str, object: &str) -> StoreError {
    let Names { server, role, .. } = names;
    StoreError::Unusable(format!(
        "PostgreSQL at {server} does not let \"{role}\" bring the schema single_state up to date \
         ({message}); run: GRANT {right} \"{object}\" TO \"{role}\", or start one worker as a role \
         that may"
    ))
}

/// A standby, or a primary that takes no writes for now.
pub(super) fn read_only(names: &Names) -> StoreError {
    let server = &names.server;
    StoreError::Away(format!(
        "PostgreSQL at {server} is read-only; if it is a standby, let the store's URL name the \
         primary, or all servers with target_session_attrs=read-write"
    ))
}

fn of_connection(names: &Names, error: &Error) -> StoreError {
    let server = &names.server;
    let causes = causes(error);
    if is_bad_certificate(error) {
        return StoreError::Unusable(format!(
            "the certificate of PostgreSQL at {server} is not accepted: {causes}; name its \
             authority's certificate file in the settings, or correct the host's name"
        ));
    }
    // The driver tells these apart only by their texts; tests hold on to them.
    if ["invalid configuration", "authentication error", "server does not support TLS"]
        .iter()
        .any(|text| causes.contains(text))
    {
        return StoreError::Unusable(format!(
            "PostgreSQL at {server} cannot be used with this URL: {causes}; correct its user, \
             password or sslmode"
        ));
    }
    StoreError::Away(format!("PostgreSQL at {server} cannot be reached: {causes}"))
}

/// An error's text with those of its causes.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

fn is_bad_certificate(error: &Error) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let tls = io.and_then(|io| io.get_ref()).and_then(|cause| cause.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}
