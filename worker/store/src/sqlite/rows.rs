//! Statements about many rows, and those of operators. Each function is part of one transaction
//! that nobody else's runs beside.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::{OptionalExtension, Result, Transaction, params};
use single_state_proto::id::{SessionId, WorkerIndex};

use super::value::{LISTED, from_time, listed, millis, number, session as session_column, time};
use crate::{Due, Listed, Owner};

pub(super) fn due(
    db: &Transaction<'_>,
    cluster: &str,
    owner: &Owner,
    down: &[WorkerIndex],
    now: SystemTime,
    after: Option<&Due>,
    limit: usize,
) -> Result<Vec<Due>> {
    let mut due = db.prepare_cached(
        "SELECT id, wake_at FROM session \
         WHERE cluster = ?1 AND wake_at IS NOT NULL AND wake_at <= ?2 \
         AND (owner_index IS NULL OR (owner_index = ?3 AND owner_incarnation < ?4) \
              OR owner_index IN (SELECT value FROM json_each(?5))) \
         AND (wake_at, id) > (?6, ?7) ORDER BY wake_at, id LIMIT ?8",
    )?;
    let down: Vec<String> = down.iter().map(WorkerIndex::to_string).collect();
    let (after_time, after_id) =
        after.map_or((i64::MIN, ""), |after| (time(after.wake_at), after.session.as_str()));
    let rows = due.query_map(
        params![
            cluster,
            time(now),
            owner.index.0,
            number(owner.incarnation.0)?,
            format!("[{}]", down.join(",")),
            after_time,
            after_id,
            count(limit),
        ],
        |row| Ok(Due { session: session_column(row, 0)?, wake_at: from_time(row.get(1)?) }),
    )?;
    rows.collect()
}

pub(super) fn expire(
    db: &Transaction<'_>,
    cluster: &str,
    unused_for: Duration,
    limit: usize,
) -> Result<usize> {
    let mut expire = db.prepare_cached(
        "DELETE FROM session WHERE rowid IN (SELECT rowid FROM session \
         WHERE cluster = ?1 AND updated_at <= ?2 AND wake_at IS NULL \
         AND (owner_index IS NULL OR updated_at <= ?3) ORDER BY updated_at LIMIT ?4)",
    )?;
    let before = |idle: Duration| time(SystemTime::now()).saturating_sub(millis(idle));
    expire.execute(params![
        cluster,
        before(unused_for),
        before(unused_for.saturating_mul(2)),
        count(limit),
    ])
}

pub(super) fn list(
    db: &Transaction<'_>,
    cluster: &str,
    after: Option<&SessionId>,
    limit: usize,
) -> Result<Vec<Listed>> {
    let mut list = db.prepare_cached(&format!(
        "SELECT {LISTED} FROM session WHERE cluster = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
    ))?;
    let after = after.map_or("", SessionId::as_str);
    let rows = list.query_map(params![cluster, after, count(limit)], listed)?;
    rows.collect()
}

pub(super) fn show(
    db: &Transaction<'_>,
    cluster: &str,
    session: &SessionId,
) -> Result<Option<(Listed, Bytes)>> {
    let mut show = db.prepare_cached(&format!(
        "SELECT {LISTED}, state FROM session WHERE cluster = ?1 AND id = ?2"
    ))?;
    let found = show.query_row(params![cluster, session.as_str()], |row| {
        Ok((listed(row)?, row.get::<_, Vec<u8>>(10)?.into()))
    });
    found.optional()
}

/// Also forgets the newest topology that claimed it, so that a worker that knows an older one may
/// take it at once.
pub(super) fn free(db: &Transaction<'_>, cluster: &str, session: &SessionId) -> Result<bool> {
    let mut free = db.prepare_cached(
        "UPDATE session SET owner_index = NULL, owner_incarnation = NULL, generation = 0, \
         strikes = 0, updated_at = ?3 WHERE cluster = ?1 AND id = ?2",
    )?;
    let freed = free.execute(params![cluster, session.as_str(), time(SystemTime::now())])?;
    Ok(freed == 1)
}

pub(super) fn kept(
    db: &Transaction<'_>,
    cluster: &str,
    session: &SessionId,
    name: &str,
) -> Result<Option<Bytes>> {
    let mut kept = db.prepare_cached(
        "SELECT bytes FROM kept WHERE cluster = ?1 AND session = ?2 AND name = ?3",
    )?;
    let found =
        kept.query_row(params![cluster, session.as_str(), name], |row| row.get::<_, Vec<u8>>(0));
    Ok(found.optional()?.map(Bytes::from))
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
