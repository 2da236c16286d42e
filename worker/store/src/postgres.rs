//! Rows in PostgreSQL, 13 or later: one statement or one transaction for each call, on a connection
//! of its own. Owns the mapping from the trait's calls to their statements; which of them are
//! guarded, and by what, is said where they stand.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};

use crate::{
    Claim, Claimed, Due, InvalidUrl, Listed, Manners, Owner, Row, Save, Saved, Settings, Standing,
    Store, StoreError,
};

mod claim;
mod connect;
mod error;
mod operate;
mod owned;
mod save;
mod schema;
mod values;

use connect::{CallError, Connections, Lease};
use operate::{Expiry, Search};
use save::Statements;

/// Rows in PostgreSQL. Made without reaching for the server.
pub(crate) struct PostgresStore {
    connections: Connections,
    settings: Settings,
    statements: Statements,
    prepared: Cell<bool>,
    /// Id after which the next expiry goes on.
    expired_until: Cell<String>,
}

impl PostgresStore {
    /// A store in the database that `config` names.
    pub(crate) fn new(
        config: tokio_postgres::Config,
        settings: Settings,
    ) -> Result<Self, InvalidUrl> {
        Ok(Self {
            connections: Connections::new(config, &settings)?,
            statements: Statements::new(&settings),
            settings,
            prepared: Cell::new(false),
            expired_until: Cell::default(),
        })
    }

    fn cluster(&self) -> &str {
        &self.settings.cluster
    }

    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Lease) -> Result<T, CallError>,
    ) -> Result<T, StoreError> {
        if !self.prepared.get() {
            let server = &self.connections.names.server;
            return Err(StoreError::Away(format!("PostgreSQL at {server} is not prepared yet")));
        }
        self.connections.call(call).await
    }
}

impl Store for PostgresStore {
    fn prepare(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            let names = &self.connections.names;
            self.connections.call(async |lease| schema::prepare(lease, names).await).await?;
            self.prepared.set(true);
            Ok(())
        })
    }

    fn claim<'a>(
        &'a self,
        owner: &'a Owner,
        manners: &'a Manners,
        claims: &'a [Claim],
    ) -> LocalBoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        Box::pin(self.call(async move |lease| {
            claim::claim(lease, self.cluster(), owner, manners, claims).await
        }))
    }

    fn load<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(
            self.call(async move |lease| claim::load(lease, self.cluster(), session, epoch).await),
        )
    }

    fn save<'a>(
        &'a self,
        owner: &'a Owner,
        saves: &'a [Save],
    ) -> LocalBoxFuture<'a, Result<Vec<Saved>, StoreError>> {
        Box::pin(self.call(async move |lease| {
            save::save(lease, self.cluster(), &self.statements, owner, saves).await
        }))
    }

    fn confirm<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<Vec<Standing>, StoreError>> {
        Box::pin(
            self.call(async move |lease| claim::confirm(lease, self.cluster(), sessions).await),
        )
    }

    fn strike<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call(async move |lease| owned::strike(lease, self.cluster(), sessions).await))
    }

    fn release<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
        keep_strikes: bool,
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.call(async move |lease| {
            owned::release(lease, self.cluster(), sessions, keep_strikes).await
        }))
    }

    fn delete<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(
            self.call(async move |lease| {
                owned::delete(lease, self.cluster(), session, epoch).await
            }),
        )
    }

    fn kept<'a>(
        &'a self,
        session: &'a SessionId,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(
            self.call(async move |lease| owned::kept(lease, self.cluster(), session, name).await),
        )
    }

    fn due<'a>(
        &'a self,
        owner: &'a Owner,
        down: &'a [WorkerIndex],
        now: SystemTime,
        after: Option<&'a Due>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Due>, StoreError>> {
        let search = Search { owner, down, now, after, limit };
        Box::pin(self.call(async move |lease| operate::due(lease, self.cluster(), &search).await))
    }

    fn expire(
        &self,
        unused_for: Duration,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<usize, StoreError>> {
        // A part of the timeout, so that the last slice is finished within it.
        let until = Instant::now() + self.settings.timeout / 4;
        let expiry = Expiry { unused_for, limit, until };
        Box::pin(self.call(async move |lease| {
            let mut after = self.expired_until.take();
            let expired = operate::expire(lease, self.cluster(), &mut after, &expiry).await?;
            self.expired_until.set(after);
            Ok(expired)
        }))
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        Box::pin(
            self.call(async move |lease| operate::list(lease, self.cluster(), after, limit).await),
        )
    }

    fn show<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<Option<(Listed, Bytes)>, StoreError>> {
        Box::pin(self.call(async move |lease| operate::show(lease, self.cluster(), session).await))
    }

    fn discard<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.call(async move |lease| owned::discard(lease, self.cluster(), session).await))
    }

    fn free<'a>(&'a self, session: &'a SessionId) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.call(async move |lease| operate::free(lease, self.cluster(), session).await))
    }

    /// Two connections are left for claims and for all else.
    fn parallel_saves(&self) -> usize {
        self.settings.connections.saturating_sub(2).max(1)
    }
}
