//! Rows in an SQLite file that the worker processes of one machine share. Owns how a call becomes
//! one transaction on the thread that has the connection. Knows no links and no snapshots.
//!
//! Invariant: a process has one connection, which writes and also checkpoints; what is answered is
//! flushed to the disk. When the disk does not confirm a flush, the process ends.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use rusqlite::Transaction;
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};

use crate::{
    Claim, Claimed, Due, Listed, Manners, Owner, Row, Save, Saved, Settings, Standing, Store,
    StoreError,
};

mod database;
mod failure;
mod owners;
mod rows;
mod saves;
mod thread;
mod value;

use database::Database;
use thread::Thread;

/// Sessions in one file of this machine.
#[derive(Debug)]
pub(crate) struct SqliteStore {
    path: PathBuf,
    timeout: Duration,
    cluster: Arc<str>,
    save_statement: Arc<str>,
    thread: OnceCell<Thread>,
}

impl SqliteStore {
    /// A store in the file `path`, which is not touched before [`Store::prepare`].
    pub(crate) fn new(path: PathBuf, settings: Settings) -> Self {
        Self {
            path,
            timeout: settings.timeout,
            save_statement: saves::statement(&settings).into(),
            cluster: settings.cluster.into(),
            thread: OnceCell::new(),
        }
    }

    /// The thread, from the first `prepare` on.
    fn thread(&self) -> Result<&Thread, StoreError> {
        self.thread.get().ok_or_else(|| {
            let path = self.path.display();
            StoreError::Away(format!("the database {path} is not prepared yet"))
        })
    }

    fn start_thread(&self) -> Result<&Thread, StoreError> {
        if self.thread.get().is_none() {
            // SQLite's own waiting is for programs that know nothing of the lock beside the file.
            let database = Database::new(self.path.clone(), self.timeout);
            let thread = Thread::start(database, self.timeout).map_err(|error| {
                StoreError::Away(format!("no thread for the database could be started ({error})"))
            })?;
            let _ = self.thread.set(thread);
        }
        self.thread()
    }

    /// Does `work` in one transaction.
    fn transaction<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce(&Transaction<'_>, &str) -> rusqlite::Result<T> + Send + 'static,
    ) -> LocalBoxFuture<'a, Result<T, StoreError>> {
        let cluster = self.cluster.clone();
        Box::pin(async move {
            let job = move |database: &mut Database| {
                database.transaction(|transaction| work(transaction, &cluster))
            };
            self.thread()?.call(job).await
        })
    }
}

impl Store for SqliteStore {
    fn prepare(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.start_thread()?.call(Database::prepare).await })
    }

    fn claim<'a>(
        &'a self,
        owner: &'a Owner,
        manners: &'a Manners,
        claims: &'a [Claim],
    ) -> LocalBoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        let (owner, manners, claims) = (*owner, manners.clone(), claims.to_vec());
        self.transaction(move |db, cluster| owners::claim(db, cluster, &owner, &manners, &claims))
    }

    fn load<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Option<Row>, StoreError>> {
        let session = session.clone();
        self.transaction(move |db, cluster| owners::load(db, cluster, &session, epoch))
    }

    fn save<'a>(
        &'a self,
        owner: &'a Owner,
        saves: &'a [Save],
    ) -> LocalBoxFuture<'a, Result<Vec<Saved>, StoreError>> {
        let (owner, batch, statement) = (*owner, saves.to_vec(), self.save_statement.clone());
        self.transaction(move |db, cluster| saves::save(db, cluster, &statement, &owner, &batch))
    }

    fn confirm<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<Vec<Standing>, StoreError>> {
        let sessions = sessions.to_vec();
        self.transaction(move |db, cluster| owners::confirm(db, cluster, &sessions))
    }

    fn strike<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        let sessions = sessions.to_vec();
        self.transaction(move |db, cluster| owners::strike(db, cluster, &sessions))
    }

    fn release<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
        keep_strikes: bool,
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        let sessions = sessions.to_vec();
        self.transaction(move |db, cluster| owners::release(db, cluster, &sessions, keep_strikes))
    }

    fn delete<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Saved, StoreError>> {
        let session = session.clone();
        self.transaction(move |db, cluster| saves::delete(db, cluster, &session, epoch))
    }

    fn kept<'a>(
        &'a self,
        session: &'a SessionId,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        let (session, name) = (session.clone(), name.to_owned());
        self.transaction(move |db, cluster| rows::kept(db, cluster, &session, &name))
    }

    fn due<'a>(
        &'a self,
        owner: &'a Owner,
        down: &'a [WorkerIndex],
        now: SystemTime,
        after: Option<&'a Due>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Due>, StoreError>> {
        let (owner, down, after) = (*owner, down.to_vec(), after.cloned());
        self.transaction(move |db, cluster| {
            rows::due(db, cluster, &owner, &down, now, after.as_ref(), limit)
        })
    }

    fn expire(
        &self,
        unused_for: Duration,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<usize, StoreError>> {
        self.transaction(move |db, cluster| rows::expire(db, cluster, unused_for, limit))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        let after = after.cloned();
        self.transaction(move |db, cluster| rows::list(db, cluster, after.as_ref(), limit))
    }

    fn show<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<Option<(Listed, Bytes)>, StoreError>> {
        let session = session.clone();
        self.transaction(move |db, cluster| rows::show(db, cluster, &session))
    }

    fn discard<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        let session = session.clone();
        self.transaction(move |db, cluster| saves::empty(db, cluster, &session))
    }

    fn free<'a>(&'a self, session: &'a SessionId) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        let session = session.clone();
        self.transaction(move |db, cluster| rows::free(db, cluster, &session))
    }

    /// All transactions of the file are one after the other.
    fn parallel_saves(&self) -> usize {
        1
    }
}
