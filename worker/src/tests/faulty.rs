//! A store that does what it is asked, or not, and tells, or not.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::{FutureExt, LocalBoxFuture};
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};
use single_state_store::{
    Claim, Claimed, Due, Listed, Manners, MemoryStore, Owner, Row, Save, Saved, Standing, Store,
    StoreError,
};

/// What goes wrong with saves and claims from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// Nothing is done.
    Refuses,
    /// It is done, but the caller hears that it was not.
    LosesAnswers,
    /// It is done after a while, and the caller waits for it.
    AnswersLate,
    /// It is done after a while, when the caller has long given up.
    LosesAnswersAndIsLate,
}

const LATE: Duration = Duration::from_millis(700);

#[derive(Debug, Default)]
pub(super) struct FaultyStore {
    rows: Rc<MemoryStore>,
    fault: Cell<Fault>,
}

impl FaultyStore {
    pub(super) fn set(&self, fault: Fault) {
        self.fault.set(fault);
    }

    /// Does `call` as the fault of now has it.
    fn call<'a, A: 'static>(
        &'a self,
        call: impl FnOnce(Rc<MemoryStore>) -> LocalBoxFuture<'static, Result<A, StoreError>> + 'static,
    ) -> LocalBoxFuture<'a, Result<A, StoreError>> {
        let rows = self.rows.clone();
        let away = || Err(StoreError::Away("a fault on purpose".to_owned()));
        match self.fault.get() {
            Fault::None => call(rows),
            Fault::Refuses => async move { away() }.boxed_local(),
            Fault::LosesAnswers => async move {
                let _ = call(rows).await;
                away()
            }
            .boxed_local(),
            Fault::AnswersLate => async move {
                tokio::time::sleep(LATE).await;
                call(rows).await
            }
            .boxed_local(),
            Fault::LosesAnswersAndIsLate => async move {
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LATE).await;
                    let _ = call(rows).await;
                });
                away()
            }
            .boxed_local(),
        }
    }
}

impl Store for FaultyStore {
    fn prepare(&self) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        self.rows.prepare()
    }

    fn claim<'a>(
        &'a self,
        owner: &'a Owner,
        manners: &'a Manners,
        claims: &'a [Claim],
    ) -> LocalBoxFuture<'a, Result<Vec<Claimed>, StoreError>> {
        let (owner, manners, claims) = (*owner, manners.clone(), claims.to_vec());
        self.call(move |rows| {
            async move { rows.claim(&owner, &manners, &claims).await }.boxed_local()
        })
    }

    fn load<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Option<Row>, StoreError>> {
        let session = session.clone();
        self.call(move |rows| async move { rows.load(&session, epoch).await }.boxed_local())
    }

    fn save<'a>(
        &'a self,
        owner: &'a Owner,
        saves: &'a [Save],
    ) -> LocalBoxFuture<'a, Result<Vec<Saved>, StoreError>> {
        let (owner, saves) = (*owner, saves.to_vec());
        self.call(move |rows| async move { rows.save(&owner, &saves).await }.boxed_local())
    }

    fn confirm<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<Vec<Standing>, StoreError>> {
        self.rows.confirm(sessions)
    }

    fn strike<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        let sessions = sessions.to_vec();
        // A crash is no death of the process here: strikes would only end the test early.
        async move { drop(sessions) }.map(Ok).boxed_local()
    }

    fn release<'a>(
        &'a self,
        sessions: &'a [(SessionId, Epoch)],
        keep_strikes: bool,
    ) -> LocalBoxFuture<'a, Result<(), StoreError>> {
        self.rows.release(sessions, keep_strikes)
    }

    fn delete<'a>(
        &'a self,
        session: &'a SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'a, Result<Saved, StoreError>> {
        self.rows.delete(session, epoch)
    }

    fn kept<'a>(
        &'a self,
        session: &'a SessionId,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.rows.kept(session, name)
    }

    fn due<'a>(
        &'a self,
        owner: &'a Owner,
        down: &'a [WorkerIndex],
        now: SystemTime,
        after: Option<&'a Due>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Due>, StoreError>> {
        self.rows.due(owner, down, now, after, limit)
    }

    fn expire(
        &self,
        unused_for: Duration,
        limit: usize,
    ) -> LocalBoxFuture<'_, Result<usize, StoreError>> {
        self.rows.expire(unused_for, limit)
    }

    fn list<'a>(
        &'a self,
        after: Option<&'a SessionId>,
        limit: usize,
    ) -> LocalBoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        self.rows.list(after, limit)
    }

    fn show<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<Option<(Listed, Bytes)>, StoreError>> {
        self.rows.show(session)
    }

    fn discard<'a>(
        &'a self,
        session: &'a SessionId,
    ) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        self.rows.discard(session)
    }

    fn free<'a>(&'a self, session: &'a SessionId) -> LocalBoxFuture<'a, Result<bool, StoreError>> {
        self.rows.free(session)
    }

    fn parallel_saves(&self) -> usize {
        2
    }
}
