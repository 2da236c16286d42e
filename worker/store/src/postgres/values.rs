//! Between our numbers and PostgreSQL's, which have signs, and between its rows and ours.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use single_state_proto::id::{Epoch, Generation, SessionId, WorkerIndex};
use tokio_postgres::{Error, Row as Columns};

use crate::memory::cut_to_minute;
use crate::{Holder, Listed, Row, Version};

/// Numbers come from clocks and counters, so the upper half is never reached; if it were, the
/// largest one is still refused or fenced like any other.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

pub(super) fn epoch(columns: &Columns, column: &str) -> Result<Epoch, Error> {
    Ok(Epoch(unsigned(columns.try_get(column)?)))
}

pub(super) fn version(columns: &Columns) -> Result<Version, Error> {
    Ok(Version(unsigned(columns.try_get("version")?)))
}

pub(super) fn owner(columns: &Columns) -> Result<Option<WorkerIndex>, Error> {
    let index: Option<i32> = columns.try_get("owner_index")?;
    Ok(index.and_then(|index| u16::try_from(index).ok()).map(WorkerIndex))
}

fn app_version(columns: &Columns) -> Result<u32, Error> {
    let number: i64 = columns.try_get("app_version")?;
    // A version that no build can have is above all of them, so that none reads such a row.
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

fn small(columns: &Columns, column: &str) -> Result<u16, Error> {
    let number: i32 = columns.try_get(column)?;
    Ok(u16::try_from(number.max(0)).unwrap_or(u16::MAX))
}

pub(super) fn row(columns: &Columns) -> Result<Row, Error> {
    let state: Option<&[u8]> = columns.try_get("state")?;
    Ok(Row {
        epoch: epoch(columns, "epoch")?,
        version: version(columns)?,
        app_version: app_version(columns)?,
        codec: small(columns, "codec")?,
        strikes: small(columns, "strikes")?,
        unreleased: columns.try_get("unreleased")?,
        state: state.map(Bytes::copy_from_slice),
    })
}

pub(super) fn holder(columns: &Columns) -> Result<Holder, Error> {
    Ok(Holder {
        owner: owner(columns)?,
        app_version: app_version(columns)?,
        generation: Generation(unsigned(columns.try_get("generation")?)),
    })
}

/// `None` for a row whose id is none: not of our making, and nobody can ask for it.
pub(super) fn session(columns: &Columns) -> Result<Option<SessionId>, Error> {
    let id: &str = columns.try_get("id")?;
    Ok(id.parse().ok())
}

pub(super) fn listed(columns: &Columns) -> Result<Option<Listed>, Error> {
    let Some(session) = session(columns)? else { return Ok(None) };
    Ok(Some(Listed {
        session,
        owner: owner(columns)?,
        epoch: epoch(columns, "epoch")?,
        version: version(columns)?,
        app_version: app_version(columns)?,
        codec: small(columns, "codec")?,
        strikes: small(columns, "strikes")?,
        bytes: u64::from(columns.try_get::<_, i32>("bytes")?.unsigned_abs()),
        wake_at: columns.try_get("wake_at")?,
        updated_at: columns.try_get("updated_at")?,
    }))
}

/// A time that PostgreSQL can hold, cut to its minute.
pub(super) fn minute(time: SystemTime) -> SystemTime {
    /// The year 9999. Whoever wakes later does not wake.
    const LAST: Duration = Duration::from_secs(253_402_300_740);
    cut_to_minute(time).min(SystemTime::UNIX_EPOCH + LAST)
}

/// Seconds as an interval is made from; a century stands for all that is longer.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(3.2e9)
}
