//! What goes over the rows of all sessions: work that is due, expiry, and what operators ask.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use single_state_proto::id::{SessionId, WorkerIndex};

use super::connect::{CallError, Lease};
use super::values::{self, signed};
use crate::{Due, Listed, Owner};

const DUE: &str = "\
SELECT id, wake_at FROM single_state.session
WHERE cluster = $1 AND wake_at <= $2 AND (wake_at, id) > ($3, $4::text)
  AND (owner_index IS NULL OR owner_index = ANY ($5::integer[])
    OR (owner_index = $6::integer AND owner_incarnation < $7::bigint))
ORDER BY wake_at, id LIMIT $8";

/// Looks at a slice of the rows, in the order of their ids: an index on what changes with every
/// save would cost each of them more than this reading does. Rows in use are passed over.
const EXPIRE: &str = "\
WITH slice AS MATERIALIZED (
  SELECT id FROM single_state.session WHERE cluster = $1 AND id > $2 ORDER BY id LIMIT $3),
old AS MATERIALIZED (
  SELECT s.id FROM single_state.session s
  WHERE s.cluster = $1 AND s.id > $2 AND s.id <= (SELECT max(id) FROM slice)
    AND s.wake_at IS NULL AND s.updated_at <= now() - make_interval(secs =>
      CASE WHEN s.owner_index IS NULL THEN $4::float8 ELSE 2 * $4::float8 END)
  ORDER BY s.id LIMIT $5 FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM single_state.session s USING old
  WHERE s.cluster = $1 AND s.id = old.id RETURNING s.id)
SELECT (SELECT count(*) FROM gone) AS gone, (SELECT max(id) FROM gone) AS last_gone,
  (SELECT max(id) FROM slice) AS last_seen";

/// Rows that one statement of an expiry looks at.
const SLICE: i64 = 5_000;

macro_rules! listed {
    ($more:literal) => {
        concat!(
            "SELECT id, owner_index, epoch, version, app_version, codec, strikes,
              octet_length(state) AS bytes, wake_at, updated_at",
            $more
        )
    };
}

const LIST: &str =
    listed!(" FROM single_state.session WHERE cluster = $1 AND id > $2::text ORDER BY id LIMIT $3");

const SHOW: &str = listed!(", state FROM single_state.session WHERE cluster = $1 AND id = $2");

/// Also a worker that knows only an older topology may have it then.
const FREE: &str = "\
UPDATE single_state.session SET owner_index = NULL, owner_incarnation = NULL, generation = 0,
  strikes = 0, updated_at = now()
WHERE cluster = $1 AND id = $2";

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// What to look for, of those that are due.
pub(super) struct Search<'a> {
    pub(super) owner: &'a Owner,
    pub(super) down: &'a [WorkerIndex],
    pub(super) now: SystemTime,
    pub(super) after: Option<&'a Due>,
    pub(super) limit: usize,
}

pub(super) async fn due(
    lease: &Lease,
    cluster: &str,
    search: &Search<'_>,
) -> Result<Vec<Due>, CallError> {
    let index = i32::from(search.owner.index.0);
    let incarnation = signed(search.owner.incarnation.0);
    let down: Vec<i32> = search.down.iter().map(|index| i32::from(index.0)).collect();
    // No id is empty and no time before 1970, so without a place to begin at, all are after this.
    let start = (SystemTime::UNIX_EPOCH, "");
    let after = search.after.map_or(start, |due| (due.wake_at, due.session.as_str()));
    let limit = rows(search.limit);
    let statement = lease.prepare_cached(DUE).await?;
    let found = lease
        .query(
            &statement,
            &[&cluster, &search.now, &after.0, &after.1, &down, &index, &incarnation, &limit],
        )
        .await?;
    let mut due = Vec::with_capacity(found.len());
    for columns in &found {
        if let Some(session) = values::session(columns)? {
            due.push(Due { session, wake_at: columns.try_get("wake_at")? });
        }
    }
    Ok(due)
}

/// How far one expiry goes.
pub(super) struct Expiry {
    pub(super) unused_for: Duration,
    pub(super) limit: usize,
    pub(super) until: Instant,
}

/// Goes through the table once, from the id `after` on and around, or until a limit is reached: it
/// may be too large for one call. Leaves in `after` where the next one goes on.
pub(super) async fn expire(
    lease: &Lease,
    cluster: &str,
    after: &mut String,
    expiry: &Expiry,
) -> Result<usize, CallError> {
    let statement = lease.prepare_cached(EXPIRE).await?;
    let unused_for = values::seconds(expiry.unused_for);
    let start = after.clone();
    let mut is_before_start = false;
    let mut expired = 0;
    while expired < expiry.limit {
        let left = rows(expiry.limit - expired);
        let columns =
            lease.query_one(&statement, &[&cluster, &*after, &SLICE, &unused_for, &left]).await?;
        let gone: i64 = columns.try_get("gone")?;
        expired += usize::try_from(gone).unwrap_or_default();
        // With the limit reached, there may be more in this slice.
        let last: Option<String> =
            columns.try_get(if gone == left { "last_gone" } else { "last_seen" })?;
        let is_end = last.is_none();
        *after = last.unwrap_or_default();
        let is_round = if is_end {
            is_before_start || start.is_empty()
        } else {
            is_before_start && *after >= start
        };
        if is_round || Instant::now() >= expiry.until {
            break;
        }
        is_before_start |= is_end;
    }
    Ok(expired)
}

pub(super) async fn list(
    lease: &Lease,
    cluster: &str,
    after: Option<&SessionId>,
    limit: usize,
) -> Result<Vec<Listed>, CallError> {
    let statement = lease.prepare_cached(LIST).await?;
    let after = after.map_or("", SessionId::as_str);
    let found = lease.query(&statement, &[&cluster, &after, &rows(limit)]).await?;
    let mut list = Vec::with_capacity(found.len());
    for columns in &found {
        list.extend(values::listed(columns)?);
    }
    Ok(list)
}

pub(super) async fn show(
    lease: &Lease,
    cluster: &str,
    session: &SessionId,
) -> Result<Option<(Listed, Bytes)>, CallError> {
    let statement = lease.prepare_cached(SHOW).await?;
    let found = lease.query_opt(&statement, &[&cluster, &session.as_str()]).await?;
    let Some(columns) = found else { return Ok(None) };
    let state = Bytes::copy_from_slice(columns.try_get("state")?);
    Ok(values::listed(&columns)?.map(|listed| (listed, state)))
}

pub(super) async fn free(
    lease: &Lease,
    cluster: &str,
    session: &SessionId,
) -> Result<bool, CallError> {
    let statement = lease.prepare_cached(FREE).await?;
    Ok(lease.execute(&statement, &[&cluster, &session.as_str()]).await? > 0)
}
