//! Several gateways and a number of workers that changes: a cluster whose topology is a file, one for
//! each gateway, so that they can learn of a change one after the other. If it is asked for, each
//! gateway's link to each worker goes through a fault proxy of its own.

use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Node, Options, poll, start_gateway, start_worker};
use crate::faults::Faults;
use crate::place::Place;
use crate::proxy::{Crossing, Proxy};

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Workers at first, and flags of all processes.
    pub options: Options,
    /// How many gateways.
    pub gateways: usize,
    /// Links go through proxies.
    pub has_proxies: bool,
    /// What workers say to their database goes through proxies.
    pub has_store_proxies: bool,
    /// What browsers say to gateways goes through proxies.
    pub has_browser_proxies: bool,
}

/// A running fleet; all of it is killed when dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The gateways.
    pub gateways: Vec<Node>,
    /// All workers that were ever started, by index.
    pub workers: Vec<Node>,
    /// The proxy between a gateway and a worker, by both.
    pub proxies: Vec<Vec<Proxy>>,
    /// The proxy between a worker and the database, by the worker's index.
    pub store_proxies: Vec<Proxy>,
    /// The proxy between browsers and a gateway.
    pub browser_proxies: Vec<Proxy>,
    plan: Plan,
    crossings: Vec<Crossing>,
    /// Where the database is now, if it is elsewhere than at first.
    moved_to: Option<String>,
    generation: u64,
    size: usize,
    folder: TempDir,
}

/// A list of workers with its number, as gateways read it.
#[derive(Debug, Clone)]
pub struct Topology {
    generation: u64,
    workers: Vec<String>,
}

impl Fleet {
    /// Starts all processes and waits until each gateway has reached every worker.
    pub async fn start(plan: Plan) -> Result<Self> {
        let (gateways, size) = (plan.gateways, plan.options.workers);
        let mut fleet = Self {
            gateways: Vec::new(),
            workers: Vec::new(),
            proxies: Vec::new(),
            store_proxies: Vec::new(),
            browser_proxies: Vec::new(),
            plan,
            crossings: Vec::new(),
            moved_to: None,
            generation: 0,
            size: 0,
            folder: tempfile::tempdir()?,
        };
        fleet.start_workers(size).await?;
        let topology = fleet.next_topology(size);
        for gateway in 0..gateways {
            fleet.tell(gateway, &topology)?;
            let node = fleet.start_gateway(gateway, Place::free()?).await?;
            if fleet.plan.has_browser_proxies {
                fleet.browser_proxies.push(Proxy::start(&node.address).await?);
            }
            fleet.proxies.push(fleet.proxies_of(&node));
            fleet.gateways.push(node);
        }
        fleet.wait_for_links().await?;
        Ok(fleet)
    }

    // --- where browsers and sessions go ----------------------------------------------------------

    /// Where browsers connect to a gateway, with a query such as `?session=a` or nothing.
    pub fn url(&self, gateway: usize, query: &str) -> String {
        let proxy = self.browser_proxies.get(gateway).map(Proxy::address);
        let address = proxy.unwrap_or_else(|| self.gateways[gateway].address.clone());
        format!("ws://{address}/ws{query}")
    }

    /// Workers of the newest topology.
    pub fn size(&self) -> usize {
        self.size
    }

    // --- gateways --------------------------------------------------------------------------------

    async fn start_gateway(&self, gateway: usize, place: Place) -> Result<Node> {
        let source = format!("file:{}", self.file(gateway).display());
        start_gateway(&self.plan.options, place, ["--topology", &source]).await
    }

    /// Those between a gateway and the workers.
    fn proxies_of(&self, gateway: &Node) -> Vec<Proxy> {
        let process = gateway.process.id().unwrap_or_default();
        self.crossings.iter().map(|crossing| crossing.proxy_for(process)).collect()
    }

    /// Starts a gateway that has ended again, at its address.
    pub async fn start_gateway_again(&mut self, gateway: usize) -> Result<()> {
        let place = self.gateways[gateway].place()?;
        let node = self.start_gateway(gateway, place).await?;
        self.proxies[gateway] = self.proxies_of(&node);
        self.gateways[gateway] = node;
        Ok(())
    }

    /// Tells a gateway to end, and starts it again at its address when it has.
    pub async fn roll_gateway(&mut self, gateway: usize) -> Result<ExitStatus> {
        let node = &mut self.gateways[gateway];
        node.process.signal("TERM")?;
        let status = node.process.wait().await?;
        self.start_gateway_again(gateway).await?;
        self.wait_for_gateway(gateway, |_| true).await?;
        Ok(status)
    }

    /// Waits until every gateway knows the newest topology and is linked to all its workers.
    pub async fn wait_for_links(&self) -> Result<()> {
        let is_linked = |status: &Value| {
            let workers = status["workers"].as_array();
            let is_up = |worker: &Value| worker["state"] == "up";
            status["generation"] == self.generation
                && workers.is_some_and(|all| all.len() == self.size && all.iter().all(is_up))
        };
        for gateway in 0..self.gateways.len() {
            self.wait_for_gateway(gateway, is_linked).await?;
        }
        Ok(())
    }

    /// Waits until every gateway calls a worker `up`, `down` or `draining`.
    pub async fn wait_for_worker(&self, index: usize, state: &str) -> Result<()> {
        for gateway in 0..self.gateways.len() {
            let is_so = |status: &Value| status["workers"][index]["state"] == state;
            self.wait_for_gateway(gateway, is_so).await?;
        }
        Ok(())
    }

    /// Waits until a gateway's status fulfils a condition.
    pub async fn wait_for_gateway(
        &self,
        gateway: usize,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        poll(async || self.gateways[gateway].status().await, condition).await
    }

    // --- workers ---------------------------------------------------------------------------------

    /// Starts workers until so many have been started; no gateway knows of new ones yet.
    pub async fn start_workers(&mut self, count: usize) -> Result<()> {
        if self.plan.has_store_proxies {
            for _ in self.workers.len()..count {
                let target = self.moved_to.clone().map_or_else(|| self.database(), Ok)?;
                self.store_proxies.push(Proxy::start(&target).await?);
            }
        }
        let options: Vec<_> = (self.workers.len()..count)
            .map(|index| Ok((index, self.options_of(index)?, Place::free()?)))
            .collect::<Result<_>>()?;
        let new = options
            .iter()
            .map(|(index, options, place)| start_worker(options, *index, place.clone()));
        let new = try_join_all(new).await?;
        for worker in new {
            if self.plan.has_proxies {
                let crossing = Crossing::start(&worker.address).await?;
                for (gateway, proxies) in self.gateways.iter().zip(&mut self.proxies) {
                    let process = gateway.process.id().unwrap_or_default();
                    proxies.push(crossing.proxy_for(process));
                }
                self.crossings.push(crossing);
            }
            self.workers.push(worker);
        }
        Ok(())
    }

    /// Starts a worker again at its address.
    pub async fn start_worker_again(&mut self, index: usize) -> Result<()> {
        let place = self.workers[index].place()?;
        self.workers[index] = start_worker(&self.options_of(index)?, index, place).await?;
        Ok(())
    }

    /// A worker's, which may have a way of its own to the database.
    fn options_of(&self, index: usize) -> Result<Options> {
        let options = self.plan.options.clone();
        let Some(proxy) = self.store_proxies.get(index) else { return Ok(options) };
        let store = options.store.replace(&self.database()?, &proxy.address());
        Ok(Options { store, ..options })
    }

    /// Workers find their database there from their next connection on.
    pub fn move_database(&mut self, address: &str) {
        self.store_proxies.iter().for_each(|proxy| proxy.set_target(address));
        self.moved_to = Some(address.to_owned());
    }

    /// HOST:PORT of the database, as it was at first.
    fn database(&self) -> Result<String> {
        let after_user = self.plan.options.store.rsplit('@').next();
        let address = after_user.and_then(|rest| rest.split('/').next());
        Ok(address.context("no database is elsewhere")?.to_owned())
    }

    /// What processes that are started from now on do wrong.
    pub fn set_faults(&mut self, faults: Faults) {
        self.plan.options.faults = faults;
    }

    /// Which version of the app workers run that are started from now on.
    pub fn set_app_version(&mut self, version: u32) {
        self.plan.options.app_version = Some(version);
    }

    /// Ends a worker in good order, and starts it again at its address as this version of its app,
    /// as all workers that are started from now on.
    pub async fn roll_worker(&mut self, index: usize, version: u32) -> Result<()> {
        let status = self.drain_worker(index).await?;
        ensure!(status.success(), "worker {index} ends with {status}");
        self.set_app_version(version);
        self.start_worker_again(index).await?;
        self.wait_for_worker(index, "up").await
    }

    /// Tells a worker to end, and waits until it has.
    pub async fn drain_worker(&mut self, index: usize) -> Result<ExitStatus> {
        self.workers[index].process.signal("TERM")?;
        self.workers[index].process.wait().await
    }

    /// The sum of a metric over workers that run.
    pub async fn worker_metric(&self, name: &str) -> Result<f64> {
        let mut sum = 0.0;
        for worker in self.workers.iter().filter(|worker| worker.process.id().is_some()) {
            sum += worker.metric(name).await?;
        }
        Ok(sum)
    }

    // --- the topology ----------------------------------------------------------------------------

    /// The next topology, of the first so many workers; to be told to gateways.
    pub fn next_topology(&mut self, size: usize) -> Topology {
        self.generation += 1;
        self.size = size;
        let workers = match &self.crossings[..] {
            [] => self.workers[..size].iter().map(|worker| worker.address.clone()).collect(),
            crossings => crossings[..size].iter().map(Crossing::address).collect(),
        };
        Topology { generation: self.generation, workers }
    }

    /// A gateway can read it now.
    pub fn tell(&self, gateway: usize, topology: &Topology) -> Result<()> {
        let Topology { generation, workers } = topology;
        let text = json!({"generation": generation, "workers": workers, "placement": "modulo"})
            .to_string();
        let (new, file) = (self.folder.path().join("new"), self.file(gateway));
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, file)?)
    }

    /// Makes the first so many workers the topology, which all gateways can read now.
    pub fn resize(&mut self, size: usize) -> Result<()> {
        ensure!(size <= self.workers.len(), "{size} workers were never started");
        let topology = self.next_topology(size);
        (0..self.gateways.len()).try_for_each(|gateway| self.tell(gateway, &topology))
    }

    fn file(&self, gateway: usize) -> PathBuf {
        self.folder.path().join(format!("topology-{gateway}.json"))
    }
}
