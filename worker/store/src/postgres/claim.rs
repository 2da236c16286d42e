//! Taking sessions and reading what was taken.
//!
//! Invariant: all statements that lock several rows do so in the order of their ids, so that two of
//! them never wait for each other.

use std::collections::HashMap;

use single_state_proto::id::{Epoch, Generation, SessionId};

use super::connect::{CallError, Lease};
use super::values::{self, signed};
use crate::{Claim, Claimed, Holder, INLINE_STATE, Manners, Owner, Row, Standing};

/// Creates a row, or raises its epoch. A row that does not yield is not returned.
const CLAIM: &str = "\
INSERT INTO single_state.session AS s
  (cluster, id, epoch, generation, owner_index, owner_incarnation, app_version, version, codec, state)
SELECT $1::text, c.id, c.at_least, $6::bigint, $4::integer, $5::bigint, 0, 0, 0, ''
FROM unnest($2::text[], $3::bigint[]) AS c(id, at_least) ORDER BY c.id COLLATE \"C\"
ON CONFLICT (cluster, id) DO UPDATE SET
  epoch = greatest(s.epoch + 1, EXCLUDED.epoch),
  generation = EXCLUDED.generation,
  owner_index = EXCLUDED.owner_index, owner_incarnation = EXCLUDED.owner_incarnation,
  unreleased = s.owner_index IS NOT NULL, updated_at = now()
WHERE s.app_version <= $7::bigint AND ($9::boolean OR (s.generation <= EXCLUDED.generation
  AND (s.owner_index IS NULL OR s.owner_index = $4 OR s.owner_index = ANY ($8::integer[]))))
RETURNING s.id, s.epoch, s.version, s.app_version, s.codec, s.strikes, s.unreleased,
  CASE WHEN octet_length(s.state) <= $10::integer THEN s.state END AS state";

const HOLDERS: &str = "\
SELECT id, owner_index, app_version, generation FROM single_state.session
WHERE cluster = $1 AND id = ANY ($2::text[])";

const LOAD: &str = "\
SELECT epoch, version, app_version, codec, strikes, unreleased, state FROM single_state.session
WHERE cluster = $1 AND id = $2 AND epoch = $3";

const EPOCHS: &str = "\
SELECT id, epoch FROM single_state.session WHERE cluster = $1 AND id = ANY ($2::text[])";

pub(super) async fn claim(
    lease: &Lease,
    cluster: &str,
    owner: &Owner,
    manners: &Manners,
    claims: &[Claim],
) -> Result<Vec<Claimed>, CallError> {
    let owned = owned(lease, cluster, owner, manners, claims).await?;
    let missing = claims.iter().map(|claim| claim.session.as_str());
    let missing: Vec<&str> = missing.filter(|id| !owned.contains_key(*id)).collect();
    let holders =
        if missing.is_empty() { HashMap::new() } else { holders(lease, cluster, &missing).await? };
    // A holder whose row is gone since holds nothing any more: asked again, the claim succeeds.
    let nobody = Holder { owner: None, app_version: 0, generation: Generation(0) };
    let one = |claim: &Claim| match owned.get(claim.session.as_str()) {
        Some(row) => Claimed::Owned(row.clone()),
        None => Claimed::Held(*holders.get(claim.session.as_str()).unwrap_or(&nobody)),
    };
    Ok(claims.iter().map(one).collect())
}

async fn owned(
    lease: &Lease,
    cluster: &str,
    owner: &Owner,
    manners: &Manners,
    claims: &[Claim],
) -> Result<HashMap<String, Row>, CallError> {
    let ids: Vec<&str> = claims.iter().map(|claim| claim.session.as_str()).collect();
    let at_least: Vec<i64> = claims.iter().map(|claim| signed(claim.at_least.0)).collect();
    let down: Vec<i32> = manners.down.iter().map(|index| i32::from(index.0)).collect();
    let statement = lease.prepare_cached(CLAIM).await?;
    let index = i32::from(owner.index.0);
    let incarnation = signed(owner.incarnation.0);
    let generation = signed(owner.generation.0);
    let app_version = i64::from(owner.app_version);
    let inline = i32::try_from(INLINE_STATE).unwrap_or(i32::MAX);
    let rows = lease
        .query(
            &statement,
            &[
                &cluster,
                &ids,
                &at_least,
                &index,
                &incarnation,
                &generation,
                &app_version,
                &down,
                &manners.force,
                &inline,
            ],
        )
        .await?;
    let one = |columns| Ok((tokio_postgres::Row::try_get(columns, "id")?, values::row(columns)?));
    rows.iter().map(one).collect()
}

async fn holders(
    lease: &Lease,
    cluster: &str,
    ids: &[&str],
) -> Result<HashMap<String, Holder>, CallError> {
    let statement = lease.prepare_cached(HOLDERS).await?;
    let rows = lease.query(&statement, &[&cluster, &ids]).await?;
    let one =
        |columns| Ok((tokio_postgres::Row::try_get(columns, "id")?, values::holder(columns)?));
    rows.iter().map(one).collect()
}

pub(super) async fn load(
    lease: &Lease,
    cluster: &str,
    session: &SessionId,
    epoch: Epoch,
) -> Result<Option<Row>, CallError> {
    let statement = lease.prepare_cached(LOAD).await?;
    let (id, epoch) = (session.as_str(), signed(epoch.0));
    let columns = lease.query_opt(&statement, &[&cluster, &id, &epoch]).await?;
    Ok(columns.as_ref().map(values::row).transpose()?)
}

pub(super) async fn confirm(
    lease: &Lease,
    cluster: &str,
    sessions: &[(SessionId, Epoch)],
) -> Result<Vec<Standing>, CallError> {
    let ids: Vec<&str> = sessions.iter().map(|(session, _)| session.as_str()).collect();
    let statement = lease.prepare_cached(EPOCHS).await?;
    let rows = lease.query(&statement, &[&cluster, &ids]).await?;
    let mut epochs: HashMap<&str, Epoch> = HashMap::with_capacity(rows.len());
    for columns in &rows {
        epochs.insert(columns.try_get("id")?, values::epoch(columns, "epoch")?);
    }
    let one = |(session, epoch): &(SessionId, Epoch)| match epochs.get(session.as_str()) {
        Some(found) if found == epoch => Standing::Owned,
        Some(found) if found > epoch => Standing::Fenced,
        _ => Standing::Absent,
    };
    Ok(sessions.iter().map(one).collect())
}
