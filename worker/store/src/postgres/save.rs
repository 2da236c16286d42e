//! Commits of snapshots: the one place where state is written. Knows nothing of why a session is
//! saved.
//!
//! Invariant: a save changes a row only while the row has its epoch and no higher version. Both are
//! needed: the epoch keeps earlier owners out, the version a late repetition of an earlier save.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use futures_util::future::try_join5;
use single_state_faults::{self as faults, Point};
use single_state_proto::id::Epoch;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::connect::{CallError, Lease};
use super::values::{self, signed};
use crate::{Owner, Save, Saved, Settings, Version};

/// Rows are locked in the order of their ids before any is updated: an update by a join takes them
/// in any order, and two of them then wait for each other until the deadlock detector's second is
/// over.
const UPDATE: &str = "\
WITH v AS (
  SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::bytea[],
    $7::timestamptz[]) AS v(id, epoch, version, codec, state, wake_at)),
l AS MATERIALIZED (
  SELECT s.id FROM single_state.session s JOIN v ON v.id = s.id
  WHERE s.cluster = $1 ORDER BY s.id FOR NO KEY UPDATE OF s)
UPDATE single_state.session s SET version = v.version, app_version = $8::bigint, codec = v.codec,
  state = v.state, wake_at = v.wake_at, strikes = 0, updated_at = now()
FROM v JOIN l ON l.id = v.id WHERE s.cluster = $1 AND s.id = v.id";

/// The same for one row, which needs no order: planning the join costs more than the update.
const UPDATE_ONE: &str = "\
UPDATE single_state.session s SET version = v.version, app_version = $8::bigint, codec = v.codec,
  state = v.state, wake_at = v.wake_at, strikes = 0, updated_at = now()
FROM (VALUES ($3::bigint, $4::bigint, $5::integer, $6::bytea, $7::timestamptz))
  AS v(epoch, version, codec, state, wake_at)
WHERE s.cluster = $1 AND s.id = $2";

/// With sessions that have no row yet: both kinds in one pass, because inserting before or after
/// the update would lock rows in another order than that of their ids. Rows that are not new are
/// taken only where they exist, so that this makes none of them.
const INSERT: &str = "\
INSERT INTO single_state.session AS s (cluster, id, epoch, generation, owner_index,
  owner_incarnation, app_version, version, codec, state, wake_at)
SELECT $1::text, v.id, v.epoch, $9::bigint, $10::integer, $11::bigint, $8::bigint, v.version,
  v.codec, v.state, v.wake_at
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::bytea[], $7::timestamptz[],
  $12::boolean[]) AS v(id, epoch, version, codec, state, wake_at, first)
WHERE v.first OR EXISTS (SELECT FROM single_state.session e WHERE e.cluster = $1 AND e.id = v.id)
ORDER BY v.id COLLATE \"C\"
ON CONFLICT (cluster, id) DO UPDATE SET version = EXCLUDED.version,
  app_version = EXCLUDED.app_version, codec = EXCLUDED.codec, state = EXCLUDED.state,
  wake_at = EXCLUDED.wake_at, strikes = 0, updated_at = now()
WHERE true";

/// What a session keeps is written under the lock that its save holds on the row, and only if the
/// save was this one.
const KEEP: &str = "\
INSERT INTO single_state.kept (cluster, id, name, bytes)
SELECT $1::text, k.id, k.name, k.bytes
FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[])
  AS k(id, epoch, version, name, bytes)
JOIN single_state.session s
  ON s.cluster = $1 AND s.id = k.id AND s.epoch = k.epoch AND s.version = k.version
ON CONFLICT (cluster, id, name) DO UPDATE SET bytes = EXCLUDED.bytes";

const FORGET: &str = "\
DELETE FROM single_state.kept d
USING unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS k(id, epoch, version, name),
  single_state.session s
WHERE s.cluster = $1 AND s.id = k.id AND s.epoch = k.epoch AND s.version = k.version
  AND d.cluster = $1 AND d.id = k.id AND d.name = k.name";

const REACHED: &str = "\
SELECT id, epoch, version FROM single_state.session WHERE cluster = $1 AND id = ANY ($2::text[])";

/// The statements that write snapshots, with their guards.
#[derive(Debug)]
pub(super) struct Statements {
    update: String,
    update_one: String,
    insert: String,
}

impl Statements {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            // The epoch of the save, not of the row: without the guard these may differ.
            update: format!("{UPDATE}{} RETURNING s.id, v.epoch", guard(settings, "v")),
            update_one: format!("{UPDATE_ONE}{} RETURNING s.id, v.epoch", guard(settings, "v")),
            insert: format!("{INSERT}{} RETURNING s.id, s.epoch", guard(settings, "EXCLUDED")),
        }
    }
}

#[cfg(not(feature = "faults"))]
fn guard(_: &Settings, new: &str) -> String {
    format!(" AND s.epoch = {new}.epoch AND s.version <= {new}.version")
}

#[cfg(feature = "faults")]
fn guard(settings: &Settings, new: &str) -> String {
    let epoch = format!(" AND s.epoch = {new}.epoch");
    let version = format!(" AND s.version <= {new}.version");
    let chosen = |chosen: bool, test: String| if chosen { test } else { String::new() };
    chosen(settings.guards.epoch, epoch) + &chosen(settings.guards.version, version)
}

/// The rows of a batch, as the arrays that its statements take.
struct Batch<'a> {
    ids: Vec<&'a str>,
    epochs: Vec<i64>,
    versions: Vec<i64>,
    codecs: Vec<i32>,
    states: Vec<&'a [u8]>,
    wakes: Vec<Option<SystemTime>>,
    firsts: Vec<bool>,
}

impl<'a> Batch<'a> {
    fn new(saves: &'a [Save]) -> Self {
        Self {
            ids: saves.iter().map(|save| save.session.as_str()).collect(),
            epochs: saves.iter().map(|save| signed(save.epoch.0)).collect(),
            versions: saves.iter().map(|save| signed(save.version.0)).collect(),
            codecs: saves.iter().map(|save| i32::from(save.codec)).collect(),
            states: saves.iter().map(|save| save.state.as_ref()).collect(),
            wakes: saves.iter().map(|save| save.wake_at.map(values::minute)).collect(),
            firsts: saves.iter().map(|save| save.first).collect(),
        }
    }
}

/// Kept inputs of a batch, as arrays; the names of those to be forgotten have no bytes.
#[derive(Default)]
struct Keeping<'a> {
    ids: Vec<&'a str>,
    epochs: Vec<i64>,
    versions: Vec<i64>,
    names: Vec<&'a str>,
    bytes: Vec<&'a [u8]>,
}

impl<'a> Keeping<'a> {
    fn push(&mut self, save: &'a Save, name: &'a str) {
        self.ids.push(save.session.as_str());
        self.epochs.push(signed(save.epoch.0));
        self.versions.push(signed(save.version.0));
        self.names.push(name);
    }

    /// What to keep and what to forget. Of several words on one name the last one counts.
    fn split(saves: &'a [Save]) -> (Self, Self) {
        let (mut keep, mut forget) = (Self::default(), Self::default());
        for save in saves {
            let last: BTreeMap<&str, _> =
                save.kept.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
            for (name, bytes) in last {
                match bytes {
                    Some(bytes) => {
                        keep.push(save, name);
                        keep.bytes.push(bytes);
                    }
                    None => forget.push(save, name),
                }
            }
        }
        (keep, forget)
    }
}

pub(super) async fn save(
    lease: &Lease,
    cluster: &str,
    statements: &Statements,
    owner: &Owner,
    saves: &[Save],
) -> Result<Vec<Saved>, CallError> {
    let written = write(lease, cluster, statements, owner, saves).await?;
    // A worker that has taken a session again may still try to save it for its earlier ownership.
    let is_written = |save: &Save| written.get(save.session.as_str()) == Some(&save.epoch);
    let refused = saves.iter().filter(|save| !is_written(save));
    let refused: Vec<&str> = refused.map(|save| save.session.as_str()).collect();
    let reached =
        if refused.is_empty() { HashMap::new() } else { reached(lease, cluster, &refused).await? };
    let one = |save: &Save| match is_written(save) {
        true => Saved::Done,
        false => judge(save, reached.get(save.session.as_str()).copied()),
    };
    Ok(saves.iter().map(one).collect())
}

/// What became of a save that wrote nothing, from where its row stands.
fn judge(save: &Save, reached: Option<(Epoch, Version)>) -> Saved {
    match reached {
        Some((epoch, version)) if epoch == save.epoch && version >= save.version => Saved::Done,
        Some((epoch, _)) if epoch > save.epoch => Saved::Fenced,
        // A row that another epoch made is not this session's past, however low its number.
        Some((epoch, _)) if save.first && epoch != save.epoch => Saved::Fenced,
        _ => Saved::Regressed,
    }
}

async fn write(
    lease: &Lease,
    cluster: &str,
    statements: &Statements,
    owner: &Owner,
    saves: &[Save],
) -> Result<HashMap<String, Epoch>, CallError> {
    if let [save] = saves
        && !save.first
        && save.kept.is_empty()
    {
        return write_one(lease, cluster, statements, owner, save).await;
    }
    let batch = Batch::new(saves);
    let app_version = i64::from(owner.app_version);
    let generation = signed(owner.generation.0);
    let index = i32::from(owner.index.0);
    let incarnation = signed(owner.incarnation.0);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![
        &cluster,
        &batch.ids,
        &batch.epochs,
        &batch.versions,
        &batch.codecs,
        &batch.states,
        &batch.wakes,
        &app_version,
    ];
    let some_are_first = batch.firsts.contains(&true);
    if some_are_first {
        values.extend([&generation as &(dyn ToSql + Sync), &index, &incarnation, &batch.firsts]);
    }
    let text = if some_are_first { &statements.insert } else { &statements.update };
    let statement = lease.prepare_cached(text).await?;
    let rows = if saves.iter().all(|save| save.kept.is_empty()) {
        faults::under_way(Point::SaveSent, lease.query(&statement, &values)).await?
    } else {
        write_with_kept(lease, cluster, &statement, &values, saves).await?
    };
    written(&rows)
}

async fn write_one(
    lease: &Lease,
    cluster: &str,
    statements: &Statements,
    owner: &Owner,
    save: &Save,
) -> Result<HashMap<String, Epoch>, CallError> {
    let statement = lease.prepare_cached(&statements.update_one).await?;
    let values: [&(dyn ToSql + Sync); 8] = [
        &cluster,
        &save.session.as_str(),
        &signed(save.epoch.0),
        &signed(save.version.0),
        &i32::from(save.codec),
        &save.state.as_ref(),
        &save.wake_at.map(values::minute),
        &i64::from(owner.app_version),
    ];
    let rows = faults::under_way(Point::SaveSent, lease.query(&statement, &values)).await?;
    written(&rows)
}

/// Which ownership of which session was written.
fn written(rows: &[tokio_postgres::Row]) -> Result<HashMap<String, Epoch>, CallError> {
    rows.iter()
        .map(|columns| Ok((columns.try_get("id")?, values::epoch(columns, "epoch")?)))
        .collect()
}

/// One transaction, sent as a whole. What fails within makes the rest fail too, and any failure
/// discards the connection.
async fn write_with_kept(
    lease: &Lease,
    cluster: &str,
    statement: &Statement,
    values: &[&(dyn ToSql + Sync)],
    saves: &[Save],
) -> Result<Vec<tokio_postgres::Row>, CallError> {
    let (keep, forget) = Keeping::split(saves);
    let keeping = lease.prepare_cached(KEEP).await?;
    let forgetting = lease.prepare_cached(FORGET).await?;
    let keep: [&(dyn ToSql + Sync); 6] =
        [&cluster, &keep.ids, &keep.epochs, &keep.versions, &keep.names, &keep.bytes];
    let forget: [&(dyn ToSql + Sync); 5] =
        [&cluster, &forget.ids, &forget.epochs, &forget.versions, &forget.names];
    // They are sent in the order in which they are first polled: as they stand here.
    let (_, rows, _, _, _) = try_join5(
        lease.batch_execute("BEGIN"),
        lease.query(statement, values),
        lease.execute(&keeping, &keep),
        lease.execute(&forgetting, &forget),
        lease.batch_execute("COMMIT"),
    )
    .await?;
    Ok(rows)
}

async fn reached(
    lease: &Lease,
    cluster: &str,
    ids: &[&str],
) -> Result<HashMap<String, (Epoch, Version)>, CallError> {
    let statement = lease.prepare_cached(REACHED).await?;
    let rows = lease.query(&statement, &[&cluster, &ids]).await?;
    let one = |columns: &tokio_postgres::Row| {
        let reached = (values::epoch(columns, "epoch")?, values::version(columns)?);
        Ok((columns.try_get("id")?, reached))
    };
    rows.iter().map(one).collect()
}
