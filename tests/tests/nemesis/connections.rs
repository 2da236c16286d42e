//! Faults of what is between processes.

use anyhow::{Result, ensure};

use crate::swarm::must_survive;

#[tokio::test]
async fn nothing_is_lost_when_connections_to_the_database_are_half_open() -> Result<()> {
    must_survive(&["database-link-half-open"], 1, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_connections_to_the_database_are_reset_in_the_middle_of_a_frame()
-> Result<()> {
    must_survive(&["database-link-mid-frame", "database-link-cut"], 4, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_connections_to_the_database_are_late_or_slow() -> Result<()> {
    must_survive(&["database-link-delay", "database-link-slow"], 2, "").await.map(drop)
}

#[tokio::test]
async fn nothing_is_lost_when_connections_to_the_database_carry_only_one_direction() -> Result<()> {
    must_survive(&["database-link-one-way"], 1, "").await.map(drop)
}

#[tokio::test]
async fn no_socket_is_closed_when_a_link_is_half_open() -> Result<()> {
    must_survive(&["link-half-open"], 1, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn no_socket_is_closed_when_links_are_reset_in_the_middle_of_a_frame() -> Result<()> {
    must_survive(&["link-mid-frame", "link-cut"], 4, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn no_socket_is_closed_when_links_are_late_or_slow() -> Result<()> {
    must_survive(&["link-delay", "link-slow"], 2, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn no_socket_is_closed_when_a_link_carries_nothing_or_only_one_direction() -> Result<()> {
    must_survive(&["link-block", "link-one-way"], 2, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn no_socket_is_closed_when_a_link_flaps() -> Result<()> {
    must_survive(&["link-flap"], 1, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn pages_whose_connections_are_reset_come_back_and_find_what_was_acknowledged() -> Result<()>
{
    let report = must_survive(&["browser-cut"], 2, "--store sqlite").await?;
    ensure!(report.closed_by_gateway_faults > 0, "{report:?}");
    Ok(())
}
