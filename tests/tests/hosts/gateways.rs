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

#[test]
fn gateways_are_rolled_behind_their_service() -> Result<()> {
    Network::alone("gateways_are_rolled_behind_their_service", async |network| {
        let mut site = Site::open(network).await?;
        let swarm = site.let_come(&site.plan(ALL)?).await?;
        let mut closed = 0;
        for _ in 0..site.gateways.len() {
            site.add_gateway().await?;
            closed += site.end_gateway().await?.0;
        }
        site.until_home(&swarm).await?;
        ensure!(closed >= swarm.browsers(), "only {closed} browsers were sent away");
        swarm.end().await?.judge("gateways rolled behind their Service", closed as u64)
    })?;
    Ok(())
}

#[test]
fn a_worker_and_a_gateway_with_many_sessions_end_in_their_time() -> Result<()> {
    let name = "a_worker_and_a_gateway_with_many_sessions_end_in_their_time";
    Network::alone(name, async |network| {
        let sessions = std::env::var("SINGLE_STATE_TEST_SESSIONS");
        let sessions: usize = sessions.map_or(Ok(50), |number| number.parse())?;
        let mut site = Site::open(network).await?;
        // Two workers: each has half of the browsers.
        site.api.scale(2);
        site.workers.pop().context("a third worker")?.terminate().await?.is_clean("worker-2")?;
        site.until_linked().await?;
        let mut plan = site.plan(ALL)?;
        plan.browsers = 2 * sessions;
        plan.rate = (plan.browsers / 10).max(50);
        allow_descriptors(4 * plan.browsers as u64)?;
        let swarm = site.let_come(&plan).await?;

        let mut worker = site.workers.pop().context("a worker")?;
        let had = worker.node.status().await?["sessions"].clone();
        let grace = worker.template.grace;
        let ended = worker.terminate().await?;
        site.until_left(1, &swarm).await?;
        ended.is_clean(&worker.name)?;
        eprintln!("worker: {had} sessions handed over {:.1?} after TERM, of {grace:?}", ended.took);
        let worker = worker.start_again(&site.around)?;
        worker.until_ready(Duration::ZERO).await?;
        site.workers.push(worker);
        site.until_home(&swarm).await?;

        site.add_gateway().await?;
        let grace = site.gateways[0].template.grace - site.gateways[0].template.pre_stop;
        let (there, ended, left) = site.end_gateway().await?;
        let most = left.iter().max().copied().unwrap_or_default();
        eprintln!(
            "gateway: {there} browsers sent away {:.1?} after TERM, of {grace:?}; at most {most} in \
             a second, in the mean {:.0}",
            ended.took,
            there as f64 / left.len().max(1) as f64
        );
        site.until_home(&swarm).await?;
        swarm.end().await?.judge("a worker and a gateway end with many sessions", there as u64)
    })?;
    Ok(())
}

/// The relay has two for each browser.
fn allow_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    Ok(())
}
