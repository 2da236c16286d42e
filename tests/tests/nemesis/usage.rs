//! What is wrong with how it is called, or with the machine, is told at once.

use anyhow::{Result, ensure};

use crate::swarm::nemesis;

#[tokio::test]
async fn what_makes_no_sense_is_told_all_at_once() -> Result<()> {
    let line = "--seed minus --duration 0 --faults worker-kill,earthquake --store mysql \
        --durability never --browsers 0 --pace 0 --nonsense";
    let ended = nemesis(line, None).await?;
    ensure!(ended.code == Some(64), "{ended:?}");
    let told = [
        "--seed \"minus\"",
        "--duration 0: give more than nothing",
        "--faults \"earthquake\": there is no such kind of fault; the kinds are worker-kill,",
        "--store \"mysql\": give sqlite or postgres",
        "--durability \"never\"",
        "--browsers 0",
        "--pace 0",
        "'--nonsense'",
    ];
    for part in told {
        ensure!(ended.stderr.contains(part), "{part} is missing in:\n{}", ended.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn a_kind_that_a_store_does_not_have_is_told() -> Result<()> {
    let ended = nemesis("--store sqlite --faults database-failover", None).await?;
    ensure!(ended.code == Some(64), "{ended:?}");
    ensure!(ended.stderr.contains("--store sqlite has none"), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn the_kinds_are_listed() -> Result<()> {
    let ended = nemesis("--help", None).await?;
    ensure!(ended.code == Some(0) && ended.stdout.contains("database-failover"), "{ended:?}");
    Ok(())
}
