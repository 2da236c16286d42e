//! The database's file: opened, brought up to date, locked for each transaction, and opened again
//! after what leaves a connection in doubt. Knows no sessions.
//!
//! ```text
//!   unprepared ──prepare──▶ open ◀──────── the next transaction ───────┐
//!                             └── an I/O error, or the file was moved ──▶ closed
//! ```
//!
//! Invariant: whoever writes the file holds the `flock` beside it. Waiting there is in order of
//! arrival; SQLite's own waiting (a fallback here) starved one of three processes for seconds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use super::failure::{self, Moment};
use crate::StoreError;

mod embedded {
    refinery::embed_migrations!("src/sqlite/migrations");
}

/// Statements that stay prepared: more than this module's callers have.
const STATEMENTS: usize = 64;

/// The log that commits are written to is cut to this length when it was longer.
const MAX_LOG: i64 = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    lock_path: PathBuf,
    busy_timeout: Duration,
    moment: Moment,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    identity: Identity,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl Database {
    pub(super) fn new(path: PathBuf, busy_timeout: Duration) -> Self {
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        Self {
            path,
            lock_path: lock_path.into(),
            busy_timeout,
            moment: Moment::Preparing,
            open: None,
        }
    }

    /// Opens the file and brings its schema up to date; makes it, and its folder, if missing.
    pub(super) fn prepare(&mut self) -> Result<(), StoreError> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| failure::of_file("folder", folder, &error, self.moment))?;
        }
        let _lock = self.lock()?;
        self.open = Some(self.open()?);
        self.moment = Moment::Running;
        Ok(())
    }

    /// Does `work` in one transaction that nobody else's runs beside. Nothing of it stays when it
    /// fails, unless the failure is of the commit itself.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        if self.moment == Moment::Preparing {
            let path = self.path.display();
            return Err(StoreError::Away(format!("the database {path} is not prepared yet")));
        }
        let _lock = self.lock()?;
        let mut open = self.current()?;
        match run(&mut open.connection, work) {
            Ok(value) => {
                self.open = Some(open);
                Ok(value)
            }
            Err(error) => {
                let sound = failure::leaves_connection(&error) && open.connection.is_autocommit();
                self.open = sound.then_some(open);
                Err(self.failed(&error))
            }
        }
    }

    /// Closes the file; the next transaction opens it again.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// The open file, if it still is the one that has this name. Workers of one machine would
    /// otherwise go on with different files after one was moved away, and not see each other's
    /// claims.
    fn current(&mut self) -> Result<Open, StoreError> {
        let named = fs::metadata(&self.path).ok().map(|found| Identity::of(&found));
        match self.open.take() {
            Some(open) if Some(open.identity) == named => Ok(open),
            other => {
                drop(other);
                self.open()
            }
        }
    }

    fn open(&self) -> Result<Open, StoreError> {
        let mut connection = self.connect().map_err(|error| self.failed(&error))?;
        let log: String = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
            .map_err(|error| self.failed(&error))?;
        if log != "wal" {
            return Err(StoreError::Unusable(format!(
                "{} is on a file system that SQLite cannot share between processes: name a file \
                 on a local disk with --store sqlite:PATH",
                self.path.display()
            )));
        }
        self.migrate(&mut connection)?;
        let metadata = fs::metadata(&self.path)
            .map_err(|error| failure::of_file("database", &self.path, &error, self.moment))?;
        Ok(Open { connection, identity: Identity::of(&metadata) })
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update_and_check(None, "journal_size_limit", MAX_LOG, |_| Ok(()))?;
        Ok(connection)
    }

    fn migrate(&self, connection: &mut Connection) -> Result<(), StoreError> {
        // Grouped: a migration and the note that it was done are one transaction.
        let runner = embedded::migrations::runner().set_grouped(true);
        let Err(error) = runner.run(connection) else { return Ok(()) };
        Err(match error.kind() {
            refinery::error::Kind::Connection(_, source) => {
                match source.downcast_ref::<rusqlite::Error>() {
                    Some(error) => self.failed(error),
                    None => self.foreign(&error),
                }
            }
            refinery::error::Kind::MissingVersion(migration) => StoreError::Unusable(format!(
                "the database {} was made by a newer build (it has the migration {migration}): \
                 run that build or a later one",
                self.path.display()
            )),
            _ => self.foreign(&error),
        })
    }

    fn foreign(&self, error: &refinery::Error) -> StoreError {
        StoreError::Unusable(format!(
            "the tables of the database {} are not as this build makes them ({error}): run the \
             build that made them, or name another file with --store sqlite:PATH",
            self.path.display()
        ))
    }

    /// Ends the process after a flush that the disk did not confirm, see
    /// [`failure::is_of_flush`]: its sessions start again from what is on the disk.
    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        if failure::is_of_flush(error) {
            tracing::error!(
                store.path = %self.path.display(),
                %error,
                "the disk did not confirm a flush, ending this process"
            );
            std::process::exit(1);
        }
        failure::of_sqlite(&self.path, error, self.moment)
    }

    /// Waits for this machine's other workers. Given back when the file is closed.
    fn lock(&self) -> Result<File, StoreError> {
        lock(&self.lock_path)
            .map_err(|error| failure::of_file("lock file", &self.lock_path, &error, self.moment))
    }
}

fn lock(path: &Path) -> io::Result<File> {
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        // Who deleted the file while we waited would lock another one.
        let named = fs::metadata(path).ok().map(|found| Identity::of(&found));
        if named == Some(Identity::of(&file.metadata()?)) {
            return Ok(file);
        }
    }
}

fn run<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = work(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prepared database in a folder of its own, which ends with it.
    struct Prepared {
        folder: PathBuf,
        database: Database,
    }

    impl Prepared {
        fn new(name: &str) -> Self {
            let name = format!("single-state-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let path = folder.join("sessions.db");
            let mut database = Database::new(path, Duration::from_secs(5));
            database.prepare().unwrap();
            Self { folder, database }
        }
    }

    impl Drop for Prepared {
        fn drop(&mut self) {
            self.database.close();
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn every_commit_is_flushed_also_after_the_file_was_opened_again() {
        let mut prepared = Prepared::new("flushed");
        for _ in 0..2 {
            let (synchronous, journal): (i64, String) = prepared
                .database
                .transaction(|db| {
                    let synchronous = db.pragma_query_value(None, "synchronous", |row| row.get(0));
                    let journal = db.pragma_query_value(None, "journal_mode", |row| row.get(0));
                    Ok((synchronous?, journal?))
                })
                .unwrap();
            assert_eq!((synchronous, journal.as_str()), (2, "wal"), "2 is FULL");
            prepared.database.close();
        }
    }

    #[test]
    fn each_transaction_holds_the_lock_beside_the_file_and_gives_it_back() {
        let mut prepared = Prepared::new("locked");
        let lock_path = prepared.database.lock_path.clone();
        let is_free = || {
            let other = File::options().write(true).open(&lock_path).unwrap();
            flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        assert!(!prepared.database.transaction(|_| Ok(is_free())).unwrap());
        assert!(is_free());
        let failed = prepared.database.transaction(|db| db.execute("nonsense", []));
        assert!(failed.is_err());
        assert!(is_free());
    }

    #[test]
    fn nothing_of_a_transaction_that_failed_stays() {
        let mut prepared = Prepared::new("whole");
        let failed = prepared.database.transaction(|db| {
            db.execute("CREATE TABLE half (n INTEGER)", [])?;
            db.execute("nonsense", [])
        });
        assert!(failed.is_err());
        let tables: i64 = prepared
            .database
            .transaction(|db| {
                let half = "SELECT count(*) FROM sqlite_schema WHERE name = 'half'";
                db.query_row(half, [], |row| row.get(0))
            })
            .unwrap();
        assert_eq!(tables, 0);
    }
}
