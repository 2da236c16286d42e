//! Faults of the database itself.

use anyhow::Result;

use crate::swarm::must_survive;

#[tokio::test]
async fn nothing_is_lost_when_the_primary_dies_and_its_synchronous_standby_takes_its_place()
-> Result<()> {
    // The second time it is the standby's standby.
    must_survive(&["database-failover"], 2, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_postgresql_stands_still_or_is_read_only() -> Result<()> {
    must_survive(&["database-freeze", "database-read-only"], 2, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_postgresql_stops_or_crashes_below_a_standby() -> Result<()> {
    must_survive(&["database-stop", "database-crash"], 2, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_backends_are_killed_and_rows_are_locked() -> Result<()> {
    must_survive(&["database-backends", "database-locks"], 2, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_the_disk_of_a_primary_with_a_standby_is_full() -> Result<()> {
    must_survive(&["disk-full"], 1, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_sqlites_disk_is_full_or_its_lock_is_kept_durable() -> Result<()> {
    sqlite("durable").await
}

#[tokio::test]
async fn nothing_is_lost_when_sqlites_disk_is_full_or_its_lock_is_kept_relaxed() -> Result<()> {
    sqlite("relaxed").await
}

async fn sqlite(durability: &str) -> Result<()> {
    let more = format!("--store sqlite --durability {durability}");
    must_survive(&["disk-full", "file-lock"], 2, &more).await.map(drop)
}
