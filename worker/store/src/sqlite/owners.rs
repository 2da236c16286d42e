//! Statements about who owns a session: claims, confirmations, releases, strikes. Each function is
//! part of one transaction that nobody else's runs beside, so what it has read stays true.

use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::{OptionalExtension, Result, Transaction, params};
use single_state_proto::id::{Epoch, Generation, SessionId};

use super::value::{number, owner as owner_column, time, unsigned};
use crate::{Claim, Claimed, Holder, INLINE_STATE, Manners, Owner, Row, Standing, Version};

pub(super) fn claim(
    db: &Transaction<'_>,
    cluster: &str,
    owner: &Owner,
    manners: &Manners,
    claims: &[Claim],
) -> Result<Vec<Claimed>> {
    claims.iter().map(|claim| claim_one(db, cluster, owner, manners, claim)).collect()
}

fn claim_one(
    db: &Transaction<'_>,
    cluster: &str,
    owner: &Owner,
    manners: &Manners,
    claim: &Claim,
) -> Result<Claimed> {
    let Some((holder, mut row, length)) = find(db, cluster, &claim.session)? else {
        return insert(db, cluster, owner, claim).map(Claimed::Owned);
    };
    if !holder.yields_to(owner, manners) {
        return Ok(Claimed::Held(holder));
    }
    row.unreleased = holder.owner.is_some();
    row.epoch = Epoch(row.epoch.0.saturating_add(1)).max(claim.at_least);
    let mut update = db.prepare_cached(
        "UPDATE session SET epoch = ?3, generation = ?4, owner_index = ?5, owner_incarnation = ?6, \
         unreleased = ?7, updated_at = ?8 WHERE cluster = ?1 AND id = ?2",
    )?;
    update.execute(params![
        cluster,
        claim.session.as_str(),
        number(row.epoch.0)?,
        number(owner.generation.0)?,
        owner.index.0,
        number(owner.incarnation.0)?,
        row.unreleased,
        time(SystemTime::now()),
    ])?;
    if length <= INLINE_STATE {
        row.state = Some(state(db, cluster, &claim.session)?);
    }
    Ok(Claimed::Owned(row))
}

/// Who has a session, its row without the snapshot, and the snapshot's length.
fn find(
    db: &Transaction<'_>,
    cluster: &str,
    session: &SessionId,
) -> Result<Option<(Holder, Row, usize)>> {
    let mut find = db.prepare_cached(
        "SELECT owner_index, app_version, generation, epoch, version, codec, strikes, \
         unreleased, length(state) FROM session WHERE cluster = ?1 AND id = ?2",
    )?;
    let found = find.query_row(params![cluster, session.as_str()], |found| {
        let holder = Holder {
            owner: owner_column(found, 0)?,
            app_version: found.get(1)?,
            generation: Generation(unsigned(found, 2)?),
        };
        let row = Row {
            epoch: Epoch(unsigned(found, 3)?),
            version: Version(unsigned(found, 4)?),
            app_version: holder.app_version,
            codec: found.get(5)?,
            strikes: found.get(6)?,
            unreleased: found.get(7)?,
            state: None,
        };
        Ok((holder, row, unsigned(found, 8)?))
    });
    found.optional()
}

fn state(db: &Transaction<'_>, cluster: &str, session: &SessionId) -> Result<Bytes> {
    let mut state =
        db.prepare_cached("SELECT state FROM session WHERE cluster = ?1 AND id = ?2")?;
    let bytes: Vec<u8> = state.query_row(params![cluster, session.as_str()], |row| row.get(0))?;
    Ok(bytes.into())
}

fn insert(db: &Transaction<'_>, cluster: &str, owner: &Owner, claim: &Claim) -> Result<Row> {
    let mut insert = db.prepare_cached(
        "INSERT INTO session (cluster, id, epoch, generation, owner_index, owner_incarnation, \
         app_version, version, codec, updated_at, state) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0, ?7, x'')",
    )?;
    insert.execute(params![
        cluster,
        claim.session.as_str(),
        number(claim.at_least.0)?,
        number(owner.generation.0)?,
        owner.index.0,
        number(owner.incarnation.0)?,
        time(SystemTime::now()),
    ])?;
    Ok(Row {
        epoch: claim.at_least,
        version: Version(0),
        app_version: 0,
        codec: 0,
        strikes: 0,
        unreleased: false,
        state: Some(Bytes::new()),
    })
}

pub(super) fn load(
    db: &Transaction<'_>,
    cluster: &str,
    session: &SessionId,
    epoch: Epoch,
) -> Result<Option<Row>> {
    let found = find(db, cluster, session)?.filter(|(_, row, _)| row.epoch == epoch);
    let Some((_, row, _)) = found else { return Ok(None) };
    let state = state(db, cluster, session)?;
    Ok(Some(Row { state: Some(state), ..row }))
}

pub(super) fn confirm(
    db: &Transaction<'_>,
    cluster: &str,
    sessions: &[(SessionId, Epoch)],
) -> Result<Vec<Standing>> {
    let one = |(session, epoch): &(SessionId, Epoch)| {
        Ok(match standing(db, cluster, session)? {
            Some((found, _)) if found == *epoch => Standing::Owned,
            Some((found, _)) if found > *epoch => Standing::Fenced,
            _ => Standing::Absent,
        })
    };
    sessions.iter().map(one).collect()
}

/// The epoch and version of a session's row.
pub(super) fn standing(
    db: &Transaction<'_>,
    cluster: &str,
    session: &SessionId,
) -> Result<Option<(Epoch, Version)>> {
    let mut find =
        db.prepare_cached("SELECT epoch, version FROM session WHERE cluster = ?1 AND id = ?2")?;
    find.query_row(params![cluster, session.as_str()], |row| {
        Ok((Epoch(unsigned(row, 0)?), Version(unsigned(row, 1)?)))
    })
    .optional()
}

pub(super) fn strike(
    db: &Transaction<'_>,
    cluster: &str,
    sessions: &[(SessionId, Epoch)],
) -> Result<()> {
    let mut strike = db.prepare_cached(
        "UPDATE session SET strikes = min(strikes + 1, 65535) \
         WHERE cluster = ?1 AND id = ?2 AND epoch = ?3",
    )?;
    for (session, epoch) in sessions {
        strike.execute(params![cluster, session.as_str(), number(epoch.0)?])?;
    }
    Ok(())
}

pub(super) fn release(
    db: &Transaction<'_>,
    cluster: &str,
    sessions: &[(SessionId, Epoch)],
    keep_strikes: bool,
) -> Result<()> {
    let mut release = db.prepare_cached(
        "UPDATE session SET owner_index = NULL, owner_incarnation = NULL, \
         strikes = iif(?4, strikes, 0), updated_at = ?5 \
         WHERE cluster = ?1 AND id = ?2 AND epoch = ?3",
    )?;
    let now = time(SystemTime::now());
    for (session, epoch) in sessions {
        release.execute(params![cluster, session.as_str(), number(epoch.0)?, keep_strikes, now])?;
    }
    Ok(())
}
