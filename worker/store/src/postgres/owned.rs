//! What an owner does to its rows besides saving: count a strike, give up, end. Each change is for
//! the epoch that still owns the row, and passes over all others.

use bytes::Bytes;
use futures_util::future::try_join4;
use single_state_proto::id::{Epoch, SessionId};
use tokio_postgres::types::ToSql;

use super::connect::{CallError, Lease};
use super::values::{self, signed};
use crate::{Saved, Version};

/// Rows locked in the order of their ids, as for a save.
macro_rules! for_each_owned {
    ($set:literal) => {
        concat!(
            "WITH v AS (SELECT * FROM unnest($2::text[], $3::bigint[]) AS v(id, epoch)),
            l AS MATERIALIZED (SELECT s.id FROM single_state.session s JOIN v ON v.id = s.id
              WHERE s.cluster = $1 ORDER BY s.id FOR NO KEY UPDATE OF s)
            UPDATE single_state.session s SET ",
            $set,
            " FROM v JOIN l ON l.id = v.id
            WHERE s.cluster = $1 AND s.id = v.id AND s.epoch = v.epoch"
        )
    };
}

const STRIKE: &str = for_each_owned!("strikes = s.strikes + 1");

const RELEASE: &str = for_each_owned!(
    "owner_index = NULL, owner_incarnation = NULL, updated_at = now(),
    strikes = CASE WHEN $4::boolean THEN s.strikes ELSE 0 END"
);

/// Raises the epoch, so that whoever had the session brings nothing back.
macro_rules! empty {
    ($where:literal) => {
        concat!(
            "UPDATE single_state.session s SET epoch = s.epoch + 1, owner_index = NULL,
              owner_incarnation = NULL, unreleased = false, strikes = 0, wake_at = NULL,
              app_version = 0, version = 0, codec = 0, state = '', updated_at = now()
            WHERE s.cluster = $1 AND s.id = $2",
            $where
        )
    };
}

const DELETE: &str = empty!(" AND s.epoch = $3");

const DISCARD: &str = empty!("");

/// Only what the emptied session kept, not what a later owner keeps by now.
const FORGET_DELETED: &str = "\
DELETE FROM single_state.kept k USING single_state.session s
WHERE s.cluster = $1 AND s.id = $2 AND s.epoch = $3::bigint + 1 AND s.version = 0
  AND k.cluster = s.cluster AND k.id = s.id";

/// Runs under the lock that emptying holds on the row.
const FORGET_ALL: &str = "DELETE FROM single_state.kept WHERE cluster = $1 AND id = $2";

const REMAINS: &str = "\
SELECT epoch, version, owner_index FROM single_state.session WHERE cluster = $1 AND id = $2";

const KEPT: &str =
    "SELECT bytes FROM single_state.kept WHERE cluster = $1 AND id = $2 AND name = $3";

/// Sessions as the arrays that the statements take.
fn arrays(sessions: &[(SessionId, Epoch)]) -> (Vec<&str>, Vec<i64>) {
    sessions.iter().map(|(session, epoch)| (session.as_str(), signed(epoch.0))).unzip()
}

pub(super) async fn strike(
    lease: &Lease,
    cluster: &str,
    sessions: &[(SessionId, Epoch)],
) -> Result<(), CallError> {
    let (ids, epochs) = arrays(sessions);
    let statement = lease.prepare_cached(STRIKE).await?;
    lease.execute(&statement, &[&cluster, &ids, &epochs]).await?;
    Ok(())
}

pub(super) async fn release(
    lease: &Lease,
    cluster: &str,
    sessions: &[(SessionId, Epoch)],
    keep_strikes: bool,
) -> Result<(), CallError> {
    let (ids, epochs) = arrays(sessions);
    let statement = lease.prepare_cached(RELEASE).await?;
    lease.execute(&statement, &[&cluster, &ids, &epochs, &keep_strikes]).await?;
    Ok(())
}

pub(super) async fn delete(
    lease: &Lease,
    cluster: &str,
    session: &SessionId,
    epoch: Epoch,
) -> Result<Saved, CallError> {
    let (id, owned) = (session.as_str(), signed(epoch.0));
    let values: [&(dyn ToSql + Sync); 3] = [&cluster, &id, &owned];
    if empty(lease, DELETE, FORGET_DELETED, &values).await? {
        return Ok(Saved::Done);
    }
    let statement = lease.prepare_cached(REMAINS).await?;
    let Some(columns) = lease.query_opt(&statement, &[&cluster, &id]).await? else {
        return Ok(Saved::Regressed);
    };
    let found = values::epoch(&columns, "epoch")?;
    let is_empty = values::version(&columns)? == Version(0) && values::owner(&columns)?.is_none();
    if found.0 == epoch.0 + 1 && is_empty {
        // What an earlier try of the same call left behind.
        return Ok(Saved::Done);
    }
    Ok(if found > epoch { Saved::Fenced } else { Saved::Regressed })
}

pub(super) async fn discard(
    lease: &Lease,
    cluster: &str,
    session: &SessionId,
) -> Result<bool, CallError> {
    empty(lease, DISCARD, FORGET_ALL, &[&cluster, &session.as_str()]).await
}

/// One transaction, sent as a whole. Whether a row was emptied.
async fn empty(
    lease: &Lease,
    emptying: &str,
    forgetting: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<bool, CallError> {
    let emptying = lease.prepare_cached(emptying).await?;
    let forgetting = lease.prepare_cached(forgetting).await?;
    let (_, rows, _, _) = try_join4(
        lease.batch_execute("BEGIN"),
        lease.execute(&emptying, values),
        lease.execute(&forgetting, values),
        lease.batch_execute("COMMIT"),
    )
    .await?;
    Ok(rows > 0)
}

pub(super) async fn kept(
    lease: &Lease,
    cluster: &str,
    session: &SessionId,
    name: &str,
) -> Result<Option<Bytes>, CallError> {
    let statement = lease.prepare_cached(KEPT).await?;
    let columns = lease.query_opt(&statement, &[&cluster, &session.as_str(), &name]).await?;
    let bytes =
        |columns: tokio_postgres::Row| columns.try_get::<_, &[u8]>(0).map(Bytes::copy_from_slice);
    Ok(columns.map(bytes).transpose()?)
}
