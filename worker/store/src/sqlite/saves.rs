//! Statements that write snapshots, and what is kept beside them. Each function is part of one
//! transaction that nobody else's runs beside.

use std::time::SystemTime;

use rusqlite::{Result, Transaction, params};
use single_state_faults::{self as faults, Point};
use single_state_proto::id::{Epoch, SessionId};

use super::owners::standing;
use super::value::{number, time};
use crate::memory::cut_to_minute;
use crate::{Owner, Save, Saved, Settings, Version};

/// The two tests protect committed state: an earlier owner's save, and a late one of an older
/// snapshot. One is not enough.
const SAVE: &str = "UPDATE session SET version = ?4, app_version = ?5, codec = ?6, state = ?7, \
                    wake_at = ?8, strikes = 0, updated_at = ?9 WHERE cluster = ?1 AND id = ?2";
const EPOCH_TEST: &str = " AND epoch = ?3";
const VERSION_TEST: &str = " AND version <= ?4";

/// The statement of guarded saves.
#[cfg(not(feature = "faults"))]
pub(super) fn statement(_: &Settings) -> String {
    [SAVE, EPOCH_TEST, VERSION_TEST].concat()
}

/// The statement of saves with those of their tests that are not left out.
#[cfg(feature = "faults")]
pub(super) fn statement(settings: &Settings) -> String {
    let epoch = if settings.guards.epoch { EPOCH_TEST } else { "" };
    let version = if settings.guards.version { VERSION_TEST } else { "" };
    [SAVE, epoch, version].concat()
}

pub(super) fn save(
    db: &Transaction<'_>,
    cluster: &str,
    statement: &str,
    owner: &Owner,
    saves: &[Save],
) -> Result<Vec<Saved>> {
    let saved = saves.iter().map(|save| save_one(db, cluster, statement, owner, save)).collect();
    faults::point(Point::SaveSent);
    saved
}

fn save_one(
    db: &Transaction<'_>,
    cluster: &str,
    statement: &str,
    owner: &Owner,
    save: &Save,
) -> Result<Saved> {
    let written = save.first && insert(db, cluster, owner, save)?
        || update(db, cluster, statement, owner, save)?;
    if written {
        keep(db, cluster, save)?;
        return Ok(Saved::Done);
    }
    Ok(match standing(db, cluster, &save.session)? {
        Some((epoch, _)) if epoch == save.epoch => Saved::Done,
        Some((epoch, _)) if epoch > save.epoch => Saved::Fenced,
        // A row that another epoch made is not this session's past, however low its number.
        Some(_) if save.first => Saved::Fenced,
        _ => Saved::Regressed,
    })
}

fn insert(db: &Transaction<'_>, cluster: &str, owner: &Owner, save: &Save) -> Result<bool> {
    let mut insert = db.prepare_cached(
        "INSERT INTO session (cluster, id, epoch, generation, owner_index, owner_incarnation, \
         app_version, version, codec, wake_at, updated_at, state) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING",
    )?;
    let inserted = insert.execute(params![
        cluster,
        save.session.as_str(),
        number(save.epoch.0)?,
        number(owner.generation.0)?,
        owner.index.0,
        number(owner.incarnation.0)?,
        owner.app_version,
        number(save.version.0)?,
        save.codec,
        wake_at(save),
        time(SystemTime::now()),
        &save.state[..],
    ])?;
    Ok(inserted == 1)
}

fn update(
    db: &Transaction<'_>,
    cluster: &str,
    statement: &str,
    owner: &Owner,
    save: &Save,
) -> Result<bool> {
    let mut update = db.prepare_cached(statement)?;
    let updated = update.execute(params![
        cluster,
        save.session.as_str(),
        number(save.epoch.0)?,
        number(save.version.0)?,
        owner.app_version,
        save.codec,
        &save.state[..],
        wake_at(save),
        time(SystemTime::now()),
    ])?;
    Ok(updated == 1)
}

fn wake_at(save: &Save) -> Option<i64> {
    save.wake_at.map(|at| time(cut_to_minute(at)))
}

fn keep(db: &Transaction<'_>, cluster: &str, save: &Save) -> Result<()> {
    for (name, bytes) in &save.kept {
        let session = save.session.as_str();
        match bytes {
            Some(bytes) => db
                .prepare_cached(
                    "INSERT INTO kept (cluster, session, name, bytes) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT DO UPDATE SET bytes = excluded.bytes",
                )?
                .execute(params![cluster, session, name, &bytes[..]])?,
            None => db
                .prepare_cached(
                    "DELETE FROM kept WHERE cluster = ?1 AND session = ?2 AND name = ?3",
                )?
                .execute(params![cluster, session, name])?,
        };
    }
    Ok(())
}

pub(super) fn delete(
    db: &Transaction<'_>,
    cluster: &str,
    session: &SessionId,
    epoch: Epoch,
) -> Result<Saved> {
    let Some((found, version)) = standing(db, cluster, session)? else {
        return Ok(Saved::Regressed);
    };
    if found == epoch {
        empty(db, cluster, session)?;
        return Ok(Saved::Done);
    }
    // What an earlier try of the same call left behind.
    let mut released = db
        .prepare_cached("SELECT owner_index IS NULL FROM session WHERE cluster = ?1 AND id = ?2")?;
    let is_tombstone = found.0 == epoch.0.saturating_add(1)
        && version == Version(0)
        && released.query_row(params![cluster, session.as_str()], |row| row.get(0))?;
    Ok(match is_tombstone {
        true => Saved::Done,
        false if found > epoch => Saved::Fenced,
        false => Saved::Regressed,
    })
}

/// Empties and releases a session, if it has a row. Its epoch rises, so that whoever had it brings
/// nothing back.
pub(super) fn empty(db: &Transaction<'_>, cluster: &str, session: &SessionId) -> Result<bool> {
    let mut empty = db.prepare_cached(
        "UPDATE session SET epoch = epoch + 1, owner_index = NULL, owner_incarnation = NULL, \
         unreleased = 0, version = 0, app_version = 0, codec = 0, strikes = 0, wake_at = NULL, state = x'', \
         updated_at = ?3 WHERE cluster = ?1 AND id = ?2",
    )?;
    let emptied = empty.execute(params![cluster, session.as_str(), time(SystemTime::now())])?;
    db.prepare_cached("DELETE FROM kept WHERE cluster = ?1 AND session = ?2")?
        .execute(params![cluster, session.as_str()])?;
    Ok(emptied == 1)
}
