//! Workers come, go, are cut off and die: no socket of any browser is closed by it.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use single_state_tests::network::Network;

use crate::site::Site;

/// Half of the browsers are plain pages.
const HALF: f64 = 0.5;

/// So long a host is cut off once its sessions are elsewhere, in `make hosts`.
const CUT: Duration = Duration::from_secs(10);

#[test]
fn workers_are_scaled_by_their_replicas_and_nothing_else() -> Result<()> {
    let name = "workers_are_scaled_by_their_replicas_and_nothing_else";
    Network::alone(name, async |network| {
        let mut site = Site::open(network).await?;
        let swarm = site.let_come(&site.plan(HALF)?).await?;
        site.api.scale(5);
        site.add_workers().await?;
        site.until_home(&swarm).await?;
        site.api.scale(2);
        let mut leaving = site.workers.split_off(2);
        let ended = try_join_all(leaving.iter_mut().map(|worker| worker.terminate())).await?;
        for (worker, ended) in leaving.iter().zip(ended) {
            ended.is_clean(&worker.name)?;
        }
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("workers 3 -> 5 -> 2 by spec.replicas", 0)
    })?;
    Ok(())
}

#[test]
fn workers_are_rolled_one_after_another_under_their_names() -> Result<()> {
    let name = "workers_are_rolled_one_after_another_under_their_names";
    Network::alone(name, async |network| {
        let mut site = Site::open(network).await?;
        let swarm = site.let_come(&site.plan(HALF)?).await?;
        // The last one first, as a StatefulSet does.
        for index in (0..site.workers.len()).rev() {
            let mut worker = site.workers.remove(index);
            worker.terminate().await?.is_clean(&worker.name)?;
            let worker = worker.start_again(&site.around)?;
            worker.until_ready(site.scale.time(worker.template.min_ready)).await?;
            site.workers.insert(index, worker);
        }
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("workers rolled (TERM, again at its address)", 0)
    })?;
    Ok(())
}

#[test]
fn a_node_that_is_cut_off_is_gone_round_and_comes_back() -> Result<()> {
    let name = "a_node_that_is_cut_off_is_gone_round_and_comes_back";
    Network::alone(name, async |network| {
        let site = Site::open(network).await?;
        let swarm = site.let_come(&site.plan(HALF)?).await?;
        site.workers[1].host.cut()?;
        site.until_left(1, &swarm).await?;
        tokio::time::sleep(site.scale.time(CUT)).await;
        site.workers[1].host.mend()?;
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("node of a worker cut off, and back", 0)
    })?;
    Ok(())
}

#[test]
fn a_node_that_dies_is_replaced_by_a_pod_with_another_address() -> Result<()> {
    let name = "a_node_that_dies_is_replaced_by_a_pod_with_another_address";
    Network::alone(name, async |network| {
        let mut site = Site::open(network).await?;
        let swarm = site.let_come(&site.plan(HALF)?).await?;
        site.workers.remove(1).die().await?;
        site.until_left(1, &swarm).await?;
        let again = site.start_worker(1)?;
        again.until_ready(Duration::ZERO).await?;
        site.workers.insert(1, again);
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("node of a worker killed, pod comes elsewhere", 0)
    })?;
    Ok(())
}
