//! Our types as SQLite's values and back.

use std::time::{Duration, SystemTime};

use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};

use crate::{Listed, Version};

/// A number as SQLite keeps it. Ours never come near the limit; one that does is refused.
pub(super) fn number(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}

/// What [`number`] wrote into a column.
pub(super) fn unsigned<T: TryFrom<i64>>(row: &Row<'_>, column: usize) -> Result<T> {
    let value: i64 = row.get(column)?;
    T::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}

/// A length of time in milliseconds, as long as can be.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A point in time as milliseconds since 1970.
pub(super) fn time(time: SystemTime) -> i64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// What [`time()`] wrote.
pub(super) fn from_time(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// A session's id in a column.
pub(super) fn session(row: &Row<'_>, column: usize) -> Result<SessionId> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| {
        Error::FromSqlConversionFailure(column, Type::Text, Box::<_>::from(format!("{error}")))
    })
}

/// An owner's index in a column.
pub(super) fn owner(row: &Row<'_>, column: usize) -> Result<Option<WorkerIndex>> {
    Ok(row.get::<_, Option<u16>>(column)?.map(WorkerIndex))
}

/// The columns that [`listed`] reads, in its order.
pub(super) const LISTED: &str = "id, owner_index, epoch, version, app_version, codec, strikes, \
                                 length(state), wake_at, updated_at";

/// A row that has the columns [`LISTED`] first.
pub(super) fn listed(row: &Row<'_>) -> Result<Listed> {
    Ok(Listed {
        session: session(row, 0)?,
        owner: owner(row, 1)?,
        epoch: Epoch(unsigned(row, 2)?),
        version: Version(unsigned(row, 3)?),
        app_version: row.get(4)?,
        codec: row.get(5)?,
        strikes: row.get(6)?,
        bytes: unsigned(row, 7)?,
        wake_at: row.get::<_, Option<i64>>(8)?.map(from_time),
        updated_at: from_time(row.get(9)?),
    })
}
