//! All of it together: the overlay `dev` on hosts, and browsers that have come to it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use single_state_tests::DEADLINE;
use single_state_tests::cluster::http_get;
use single_state_tests::network::{Host, Network};
use single_state_tests::postgres::{Options, TempPostgres};
use single_state_tests::siphash::siphash24;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::pod::{Ended, Pod, Surroundings};
use crate::service::Service;
use crate::swarm::{Plan, Swarm};
use crate::template::{Template, value, variables};
use single_state_tests::manifests::{containers, render, the};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How much of it: little for `make test`, more for `make hosts`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) browsers: usize,
    /// Messages a second of all together.
    pub(crate) rate: usize,
    pub(crate) is_full: bool,
}

/// What runs.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) scale: Scale,
    pub(crate) api: Api,
    pub(crate) service: Service,
    pub(crate) gateways: Vec<Pod>,
    /// How many there have been.
    made: usize,
    /// By index.
    pub(crate) workers: Vec<Pod>,
    pub(crate) around: Surroundings,
    gateway: Template,
    worker: Template,
    names: BTreeMap<String, Ipv4Addr>,
    /// What follows the name of a worker in its address.
    domain: String,
    network: Network,
    _database: (TempPostgres, Host),
    _folder: TempDir,
}

impl Scale {
    pub(crate) fn of_this_run() -> Result<Self> {
        let Some(browsers) = std::env::var_os("SINGLE_STATE_TEST_HOSTS") else {
            return Ok(Self { browsers: 40, rate: 200, is_full: false });
        };
        let browsers = browsers.to_str().and_then(|text| text.parse().ok());
        let browsers = browsers.context("SINGLE_STATE_TEST_HOSTS is a number of browsers")?;
        Ok(Self { browsers, rate: browsers, is_full: true })
    }

    /// What takes its time in a cluster takes none of it in `make test`.
    pub(crate) fn time(self, full: Duration) -> Duration {
        if self.is_full { full } else { Duration::ZERO }
    }
}

impl Site {
    /// Starts all pods of the overlay `dev`, and waits until gateways have reached all workers.
    pub(crate) async fn open(network: Network) -> Result<Self> {
        let objects = render("overlays/dev")?;
        let set = the(&objects, "StatefulSet/worker")?;
        let text = |pointer: &str| set.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let domain = [text("/spec/serviceName"), text("/metadata/namespace"), "svc"].join(".");
        let api = Api::start(network.add()?, set, the(&objects, "Role/gateway")?)?;
        let folder = tempfile::tempdir()?;
        let database = database(&network, &objects, &folder)?;
        let around = Surroundings {
            names: folder.path().join("hosts"),
            api: api.variables(),
            account: api.account()?,
        };
        // The bridge is where every node of a cluster is that passes on what comes to a Service.
        let service = Service::start((network.address(), 80).into()).await?;
        let mut site = Self {
            scale: Scale::of_this_run()?,
            service,
            gateways: Vec::new(),
            made: 0,
            workers: Vec::new(),
            around,
            gateway: Template::of(&objects, "Deployment/gateway")?,
            worker: Template::of(&objects, "StatefulSet/worker")?,
            names: BTreeMap::new(),
            domain,
            network,
            _database: database,
            _folder: folder,
            api,
        };
        site.tell("postgres".to_owned(), site._database.1.address)?;
        site.add_workers().await?;
        let scaler = the(&objects, "HorizontalPodAutoscaler/gateway")?;
        for _ in 0..scaler["spec"]["minReplicas"].as_u64().context("minReplicas")? {
            site.add_gateway().await?;
        }
        site.until_linked().await?;
        Ok(site)
    }

    // --- names ----------------------------------------------------------------------------------

    /// From now on a name leads there. Written over, since containers have the very file.
    fn tell(&mut self, name: String, address: Ipv4Addr) -> Result<()> {
        self.names.insert(name, address);
        let lines: Vec<_> = self.names.iter().map(|(name, at)| format!("{at} {name}\n")).collect();
        let text = lines.concat();
        let path: &PathBuf = &self.around.names;
        let mut file =
            std::fs::File::options().create(true).write(true).truncate(false).open(path)?;
        file.write_all(text.as_bytes())?;
        Ok(file.set_len(text.len() as u64)?)
    }

    // --- pods -----------------------------------------------------------------------------------

    /// Starts workers until there are as many as the StatefulSet has replicas.
    pub(crate) async fn add_workers(&mut self) -> Result<()> {
        let first = self.workers.len();
        for index in first..self.api.replicas() {
            let worker = self.start_worker(index)?;
            self.workers.push(worker);
        }
        for worker in &self.workers[first..] {
            worker.until_ready(Duration::ZERO).await?;
        }
        Ok(())
    }

    /// Starts a worker on a new host.
    pub(crate) fn start_worker(&mut self, index: usize) -> Result<Pod> {
        let (name, host) = (format!("worker-{index}"), self.network.add()?);
        self.tell(format!("{name}.{}", self.domain), host.address)?;
        Pod::start(&name, host, &self.worker, &self.around)
    }

    /// Starts a gateway on a new host, and lets browsers come to it when it is ready.
    pub(crate) async fn add_gateway(&mut self) -> Result<()> {
        let name = format!("gateway-{}", self.made);
        self.made += 1;
        let gateway = Pod::start(&name, self.network.add()?, &self.gateway, &self.around)?;
        gateway.until_ready(Duration::ZERO).await?;
        self.service.add(&gateway.node.address);
        self.gateways.push(gateway);
        Ok(())
    }

    /// Ends the oldest gateway as a Deployment does once another one is ready in its place: what is
    /// new goes elsewhere soon, and those who are there are sent away. Returns how many were there,
    /// and how many went a second.
    pub(crate) async fn end_gateway(&mut self) -> Result<(usize, Ended, Vec<f64>)> {
        let mut gateway = self.gateways.remove(0);
        let half = self.scale.time(gateway.template.pre_stop / 2);
        // Endpoints are removed beside the pod's end, some time later.
        sleep(half).await;
        self.service.remove(&gateway.node.address);
        sleep(half).await;
        let there = connections(&gateway.node.admin).await?;
        let watch = watch_connections(gateway.node.admin.clone(), there);
        let (ended, left) = tokio::join!(gateway.terminate(), watch);
        let ended = ended?;
        ended.is_clean(&gateway.name)?;
        Ok((there, ended, left))
    }

    // --- browsers -------------------------------------------------------------------------------

    /// What browsers do who come by the Service.
    pub(crate) fn plan(&self, v1_share: f64) -> Result<Plan> {
        Ok(Plan {
            urls: vec![format!("ws://{}/ws", self.service.address)],
            browsers: self.scale.browsers,
            rate: self.scale.rate,
            v1_share,
            keys: self.gateway.file("session/keys")?.to_vec(),
        })
    }

    /// Lets browsers come, and waits until all are there and at home, and each has sent something.
    pub(crate) async fn let_come(&self, plan: &Plan) -> Result<Swarm> {
        let swarm = Swarm::start(self.network.add()?, plan)?;
        self.until_there(&swarm).await?;
        self.until_home(&swarm).await?;
        // Each sends one before any sends another.
        until_so_many("messages are handled", plan.browsers, async || {
            let mut handled = 0.0;
            for worker in &self.workers {
                handled += worker.node.metric("single_state_messages_handled_total").await?;
            }
            Ok(handled as usize)
        })
        .await?;
        Ok(swarm)
    }

    // --- what is waited for ---------------------------------------------------------------------

    /// What all gateways say.
    pub(crate) async fn statuses(&self) -> Result<Vec<Value>> {
        let mut statuses = Vec::new();
        for gateway in &self.gateways {
            statuses.push(gateway.node.status().await?);
        }
        Ok(statuses)
    }

    /// Waits until every gateway has a link to each worker, and to no other, and shows what these say
    /// of themselves.
    pub(crate) async fn until_linked(&self) -> Result<()> {
        wait_until("gateways are linked to all workers", async || {
            Ok(self.statuses().await?.iter().all(|status| self.is_linked(status)))
        })
        .await
    }

    fn is_linked(&self, status: &Value) -> bool {
        let workers = status["workers"].as_array();
        let is_up = |worker: &Value| worker["state"] == "up" && worker["load"]["sessions"].is_u64();
        workers.is_some_and(|all| all.len() == self.api.replicas() && all.iter().all(is_up))
    }

    /// Waits until every browser is connected. Some more must come all the while.
    pub(crate) async fn until_there(&self, swarm: &Swarm) -> Result<()> {
        until_so_many("browsers come", swarm.browsers(), async || {
            let mut there = 0;
            for gateway in &self.gateways {
                there += connections(&gateway.node.admin).await?;
            }
            Ok(there)
        })
        .await
    }

    /// Waits until every browser is at the worker to which its session belongs.
    pub(crate) async fn until_home(&self, swarm: &Swarm) -> Result<()> {
        let key = self.worker.variable("SINGLE_STATE_PLACEMENT_KEY")?;
        let key = u128::from_str_radix(key, 16)?.to_be_bytes();
        let workers = self.api.replicas();
        let mut expected = vec![0; workers];
        for browser in 0..swarm.browsers() {
            let hash = siphash24(&key, format!("s{browser}").as_bytes());
            expected[(hash % workers as u64) as usize] += 1;
        }
        ensure!(expected.iter().all(|count| *count > 0), "a worker has nobody: {expected:?}");
        let mut last = Vec::new();
        let home = wait_until("all browsers are at home", async || {
            last = self.statuses().await?;
            let at = |index: usize| -> u64 {
                let streams = last.iter().map(|status| &status["workers"][index]["streams"]);
                streams.filter_map(Value::as_u64).sum()
            };
            Ok(last.iter().all(|status| self.is_linked(status))
                && (0..workers).all(|index| at(index) == expected[index]))
        });
        home.await.with_context(|| format!("{expected:?}: {last:?}"))
    }

    /// Waits until no gateway has browsers at a worker, and all have found another one.
    pub(crate) async fn until_left(&self, index: usize, swarm: &Swarm) -> Result<()> {
        wait_until("all browsers have left a worker", async || {
            let (mut here, mut elsewhere) = (0, 0);
            for status in self.statuses().await? {
                for (worker, of) in status["workers"].as_array().into_iter().flatten().enumerate() {
                    let streams = of["streams"].as_u64().unwrap_or_default() as usize;
                    if worker == index { here += streams } else { elsewhere += streams }
                }
            }
            Ok(here == 0 && elsewhere == swarm.browsers())
        })
        .await
    }
}

/// Waits until something is so. Looks less often than others do: each look asks all gateways.
async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await? {
        ensure!(Instant::now() < deadline, "in vain waited until {what}");
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until a number is there. It may take its time, but must rise all the while.
async fn until_so_many(
    what: &str,
    all: usize,
    mut count: impl AsyncFnMut() -> Result<usize>,
) -> Result<()> {
    let mut now = 0;
    while now < all {
        let before = now;
        wait_until(&format!("more {what}"), async || {
            now = count().await?;
            Ok(now > before)
        })
        .await?;
    }
    Ok(())
}

/// Browsers of the gateway that has this admin listener.
async fn connections(admin: &str) -> Result<usize> {
    let (_, body) = http_get(admin, "/status").await?;
    let status: Value = serde_json::from_str(&body)?;
    let connections = status["connections"].as_u64();
    Ok(connections.context("a gateway counts its browsers")? as usize)
}

/// How many leave a second, looked at each second until the gateway is gone.
async fn watch_connections(admin: String, mut before: usize) -> Vec<f64> {
    let mut left = Vec::new();
    let mut last = Instant::now();
    while before > 0 {
        sleep(Duration::from_secs(1)).await;
        let now = connections(&admin).await.unwrap_or(0);
        left.push(before.saturating_sub(now) as f64 / last.elapsed().as_secs_f64());
        (before, last) = (now, Instant::now());
    }
    left
}

/// Starts the database as its manifest says: the host's name, its user and its password.
fn database(
    network: &Network,
    objects: &[Value],
    folder: &TempDir,
) -> Result<(TempPostgres, Host)> {
    const PORT: u16 = 5432;
    let pod = &the(objects, "StatefulSet/postgres")?["spec"]["template"]["spec"];
    let container = containers(pod).next().context("a container")?;
    let variables = variables(objects, container)?;
    let [user, name, password] =
        ["USER", "DB", "PASSWORD"].map(|what| value(&variables, &format!("POSTGRES_{what}")));
    let (user, name, password) = (user?, name?, password?);
    let access = folder.path().join("pg_hba.conf");
    std::fs::write(
        &access,
        "host all postgres 127.0.0.1/32 trust\nhost all all 0.0.0.0/0 scram-sha-256\n",
    )?;
    let shown = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), shown)?;
    let host = network.add()?;
    let options = Options::default()
        .port(PORT)
        .setting("listen_addresses=*")
        .setting(&format!("hba_file={}", access.display()));
    let server = host.visit(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let server = options.start().await?;
            let client = server.client().await?;
            let role = format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'");
            client.batch_execute(&role).await?;
            client.batch_execute(&format!("CREATE DATABASE {name} OWNER {user}")).await?;
            anyhow::Ok(server)
        })
    })?;
    Ok((server, host))
}
