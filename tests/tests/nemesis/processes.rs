//! Faults of workers and gateways, and a short run of everything.

use anyhow::{Result, ensure};

use crate::swarm::must_survive;

#[tokio::test]
async fn no_socket_is_closed_when_workers_are_killed_told_to_end_and_stopped() -> Result<()> {
    let faults = ["worker-kill", "worker-term", "worker-freeze"];
    must_survive(&faults, 3, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn no_socket_is_closed_when_workers_are_resized_restarted_and_run_an_older_app() -> Result<()>
{
    let faults = ["reshard", "rolling-restart", "app-version"];
    must_survive(&faults, 3, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_gateways_are_killed_told_to_end_and_stopped()
-> Result<()> {
    let faults = ["gateway-kill", "gateway-term", "gateway-freeze"];
    let report = must_survive(&faults, 3, "--store sqlite").await?;
    ensure!(report.closed_by_gateway_faults > 0, "{report:?}");
    Ok(())
}

#[tokio::test]
async fn wall_clocks_that_jump_by_an_hour_change_nothing() -> Result<()> {
    must_survive(&["clock-jump"], 2, "--store sqlite").await.map(drop)
}

#[tokio::test]
async fn a_short_run_of_many_kinds_is_survived() -> Result<()> {
    let faults = ["worker-kill", "database-crash", "gateway-kill", "link-cut"];
    must_survive(&faults, 4, "").await.map(drop)
}

#[cfg(feature = "faults")]
mod test_builds {
    use super::*;
    use crate::swarm::nemesis;

    #[tokio::test]
    async fn no_socket_is_closed_when_processes_die_at_points_of_their_code() -> Result<()> {
        must_survive(&["crash-point"], 2, "--store sqlite").await.map(drop)
    }

    #[tokio::test]
    async fn a_worker_that_acknowledges_too_early_is_found_and_the_run_can_be_repeated()
    -> Result<()> {
        let line = "--seed 1 --faults worker-kill --duration 9s --browsers 20 --pace 100ms \
            --store sqlite --durability relaxed";
        let mistake = Some(("SINGLE_STATE_MUTANT", "ack_before_commit"));
        let ended = nemesis(line, mistake).await?;
        ensure!(ended.code == Some(1), "{ended:?}");
        let again = "again: swarm nemesis --seed 1 --duration 9000ms --store sqlite";
        ensure!(ended.stdout.contains("RED: seed 1") && ended.stdout.contains(again), "{ended:?}");
        Ok(())
    }
}
