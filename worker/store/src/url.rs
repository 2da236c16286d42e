//! Which store an URL names. Reaches for none, and repeats no password.

use std::path::PathBuf;
use std::rc::Rc;

use tokio_postgres::Config;

use crate::postgres::PostgresStore;
use crate::sqlite::SqliteStore;
use crate::{MemoryStore, Settings, SharedStore};

/// Why an URL names no store. Its printed form is a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(pub(crate) String);

/// Opens the store that `url` names, without reaching for it: `memory:`, `sqlite:PATH` or
/// `postgres://…`.
///
/// # Errors
/// When the URL names no store, or is written wrongly.
pub fn open(url: &str, settings: Settings) -> Result<SharedStore, InvalidUrl> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Rc::new(memory(&settings))),
        Some(("sqlite", rest)) => Ok(Rc::new(SqliteStore::new(sqlite_path(rest)?, settings))),
        Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
            Ok(Rc::new(PostgresStore::new(postgres_config(url)?, settings)?))
        }
        // The URL itself is not repeated: what it was meant to be may have a password.
        _ => refuse("a store is memory:, sqlite:PATH or postgres://USER@HOST/DATABASE"),
    }
}

fn refuse<T>(sentence: &str) -> Result<T, InvalidUrl> {
    Err(InvalidUrl(sentence.to_owned()))
}

#[cfg(not(feature = "faults"))]
fn memory(_: &Settings) -> MemoryStore {
    MemoryStore::new()
}

#[cfg(feature = "faults")]
fn memory(settings: &Settings) -> MemoryStore {
    MemoryStore::with_guards(settings.guards)
}

/// `sqlite:a/b`, `sqlite:/a/b` and `sqlite:///a/b` are paths as they stand behind `sqlite:` and
/// its two slashes.
fn sqlite_path(rest: &str) -> Result<PathBuf, InvalidUrl> {
    match rest.strip_prefix("//").unwrap_or(rest) {
        "" => refuse("name the file, as in sqlite:/var/lib/single-state/sessions.db"),
        ":memory:" => refuse("SQLite needs a file, as in sqlite:sessions.db; else write memory:"),
        path => Ok(PathBuf::from(path)),
    }
}

fn postgres_config(url: &str) -> Result<Config, InvalidUrl> {
    let address = url.split('?').next().unwrap_or_default();
    // Cut at the first @, a part of the password would be taken for the host, and be printed.
    if address.matches('@').count() > 1 {
        return refuse("write an @ in the user or password of the store's URL as %40");
    }
    let config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let causes = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let hint = if causes.contains("sslmode") {
            "; sslmode is disable, prefer or require, and certificates are always verified"
        } else {
            ""
        };
        InvalidUrl(format!("the store's URL is not one of PostgreSQL: {causes}{hint}"))
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return refuse(
            "the store's URL names no host: write postgres://USER@HOST/DATABASE, or, for a socket, \
             postgres://USER@/DATABASE?host=/var/run/postgresql",
        );
    }
    if config.get_dbname().is_none_or(str::is_empty) {
        return refuse("the store's URL names no database: write postgres://USER@HOST/DATABASE");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(url: &str) -> String {
        match open(url, Settings::default()) {
            Ok(_) => panic!("{url} must be refused"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_of_the_three_kinds_opens_without_being_there() {
        for url in [
            "memory:",
            "sqlite:sessions.db",
            "sqlite:/nowhere/sessions.db",
            "sqlite:///nowhere/sessions.db",
            "postgres://worker:secret@db.invalid/sessions?sslmode=disable",
            "postgresql://a.invalid,b.invalid:5433/sessions?target_session_attrs=read-write",
            "postgres://worker@%2Fvar%2Frun%2Fpostgresql/sessions",
            "postgres://worker@/sessions?host=/var/run/postgresql",
        ] {
            assert!(open(url, Settings::default()).is_ok(), "{url} must open");
        }
    }

    #[test]
    fn a_path_of_sqlite_may_be_relative_or_absolute() {
        for (rest, path) in [
            ("sessions.db", "sessions.db"),
            ("//sessions.db", "sessions.db"),
            ("/var/lib/a b.db", "/var/lib/a b.db"),
            ("///var/lib/sessions.db", "/var/lib/sessions.db"),
        ] {
            assert_eq!(sqlite_path(rest), Ok(PathBuf::from(path)));
        }
    }

    #[test]
    fn what_names_no_store_is_told_the_three_that_there_are() {
        for url in ["", "sessions.db", "mysql://root:secret@db/x", "postgres:x", "memory:x"] {
            assert_eq!(
                sentence(url),
                "a store is memory:, sqlite:PATH or postgres://USER@HOST/DATABASE"
            );
        }
    }

    #[test]
    fn a_url_that_lacks_something_is_told_what() {
        for (url, wish) in [
            ("sqlite:", "name the file"),
            ("sqlite::memory:", "needs a file"),
            ("postgres:///sessions", "no host"),
            ("postgres://worker@db", "no database"),
            ("postgres://worker@db/", "no database"),
            ("postgres://db/sessions?sslmode=verify-full", "always verified"),
            ("postgres://db/sessions?wish=1", "wish"),
            ("postgres://db:port/sessions", "port"),
        ] {
            assert!(sentence(url).contains(wish), "{url}: {}", sentence(url));
        }
    }

    #[test]
    fn a_refused_url_does_not_repeat_its_password() {
        for url in [
            "postgres://worker:secret@db:port/sessions",
            "postgres://worker:secret@db/sessions?sslmode=full",
            "postgres://worker:top@secret@db/sessions",
            "postgres://worker:top@se/secret@db/sessions",
            "postgres://worker@db?password=secret",
            "postgresq://worker:secret@db/sessions",
            "postgres://worker:secret@/sessions",
        ] {
            assert!(!sentence(url).contains("secret"), "{url}: {}", sentence(url));
        }
    }

    #[test]
    fn a_file_of_authorities_that_has_none_is_refused_at_once() {
        let url = "postgres://db.invalid/sessions";
        for file in ["/nowhere/authorities.pem", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]
        {
            let settings = Settings { ca_file: Some(file.into()), ..Settings::default() };
            let Err(error) = open(url, settings) else { panic!("{file} must be refused") };
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}
