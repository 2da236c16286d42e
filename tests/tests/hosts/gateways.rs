//! Pods are told to end as Kubernetes does it: preStop, TERM, and KILL when the manifest's grace period
//! is over, which must never come to that. Sockets that a gateway closes are opened again by clients
//! of `single-state.v1`; nothing of it is lost or twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use single_state_tests::network::Network;

use crate::site::Site;

/// All come back when their socket is closed.
const ALL: f64 = 1.0;

/// So many browsers a gateway has at most, which needs descriptors for them.
const PER_GATEWAY: usize = 10_000;

#[test]
fn gateways_are_rolled_behind_their_service() -> Result<()> {
    Network::alone("gateways_are_rolled_behind_their_service", async |network| {
        let mut site = Site::open(network).await?;
        let swarm = site.let_come(&site.plan(ALL)?).await?;
        let mut closed = 0;
        for _ in 0..site.gateways.len() {
            site.add_gateway().await?;
            // All that were sent away are counted again where they are now.
            site.until_there(&swarm).await?;
            closed += site.end_gateway().await?.0;
        }
        site.until_home(&swarm).await?;
        ensure!(closed >= swarm.browsers(), "only {closed} browsers were sent away");
        swarm.end().await?.judge("gateways rolled behind their Service", closed as u64)
    })?;
    Ok(())
}

#[test]
fn a_gateway_with_many_browsers_sends_them_away_evenly() -> Result<()> {
    Network::alone("a_gateway_with_many_browsers_sends_them_away_evenly", async |network| {
        let mut site = Site::open(network).await?;
        let mut plan = site.plan(ALL)?;
        plan.browsers = sessions_of_this_run()?.min(most_relayed());
        plan.rate = (plan.browsers / 40).max(200);
        let swarm = site.let_come(&plan).await?;
        site.add_gateway().await?;
        let grace = site.gateways[0].template.grace - site.gateways[0].template.pre_stop;
        let (there, ended, left) = site.end_gateway().await?;
        let most = left.iter().copied().fold(0.0, f64::max);
        eprintln!(
            "gateway: {there} browsers sent away {:.1?} after TERM, of {grace:?}; at most {most:.0} in \
             a second, in the mean {:.0}",
            ended.took,
            there as f64 / ended.took.as_secs_f64()
        );
        site.until_there(&swarm).await?;
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("a gateway with many browsers ends", there as u64)
    })?;
    Ok(())
}

#[test]
fn a_worker_with_many_sessions_hands_them_over_in_its_time() -> Result<()> {
    Network::alone("a_worker_with_many_sessions_hands_them_over_in_its_time", async |network| {
        let mut site = Site::open(network).await?;
        // Two workers: each has half of the browsers.
        site.api.scale(2);
        site.workers.pop().context("a third worker")?.terminate().await?.is_clean("worker-2")?;
        site.until_linked().await?;
        let mut plan = site.plan(ALL)?;
        plan.browsers = 2 * sessions_of_this_run()?;
        plan.rate = (plan.browsers / 40).max(200);
        while plan.browsers > PER_GATEWAY * site.gateways.len() {
            site.add_gateway().await?;
        }
        // No gateway goes, so that nothing has to be relayed.
        let gateways = site.gateways.iter();
        plan.urls = gateways.map(|gateway| format!("ws://{}/ws", gateway.node.address)).collect();
        let swarm = site.let_come(&plan).await?;

        let mut worker = site.workers.pop().context("a worker")?;
        let had = worker.node.status().await?["sessions"].clone();
        let grace = worker.template.grace;
        let ended = worker.terminate().await?;
        ended.is_clean(&worker.name)?;
        site.until_left(1, &swarm).await?;
        eprintln!("worker: {had} sessions handed over {:.1?} after TERM, of {grace:?}", ended.took);
        let worker = worker.start_again(&site.around)?;
        worker.until_ready(Duration::ZERO).await?;
        site.workers.push(worker);
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("a worker with many sessions ends, and is back", 0)
    })?;
    Ok(())
}

/// How many sessions the one has that ends.
fn sessions_of_this_run() -> Result<usize> {
    let sessions = std::env::var("SINGLE_STATE_TEST_SESSIONS");
    Ok(sessions.map_or(Ok(50), |number| number.parse())?)
}

/// Browsers for which this process has descriptors: two for each, and for half of them two more while
/// they come back before their last socket is closed.
fn most_relayed() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // What is not permitted stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(limit.saturating_sub(500) / 3).unwrap_or(usize::MAX)
}
