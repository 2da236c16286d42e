//! Does faults and takes them back. Knows what each kind is, not when it comes.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use single_state_tests::postgres::{Pair, TempPostgres};
use single_state_tests::proxy::{Faults, Flow, Proxy, Way};
use tokio::time::{Instant, sleep, sleep_until};

use crate::nemesis::crash;
use crate::nemesis::kind::{Kind, Part};
use crate::nemesis::schedule::Fault;
use crate::nemesis::stage::{Database, NEWER, OLDER, Stage, server_on};

/// How late, and how slow, what is late or slow is.
const LATE: Duration = Duration::from_millis(500);
const BYTES_PER_SECOND: u32 = 8 * 1024;
/// A flapping link changes so often.
const FLAP: Duration = Duration::from_millis(500);
/// Connections are terminated so often.
const TERMINATE: Duration = Duration::from_millis(20);
/// How far a clock jumps, in seconds.
const JUMP: i64 = 3600;

impl Stage {
    /// It happens. What lasts is there when this returns; what is over at once is over. Returns
    /// what is to be told of it.
    pub(crate) async fn begin(&mut self, fault: &Fault) -> Result<Option<String>> {
        let Fault { gateway, worker, dice, .. } = *fault;
        let lasts = Duration::from_millis(fault.lasts_ms);
        match fault.kind {
            Kind::WorkerKill => self.fleet.workers[worker].process.kill().await?,
            Kind::WorkerTerm => self.drain(worker).await?,
            Kind::WorkerFreeze => self.fleet.workers[worker].process.signal("STOP")?,
            Kind::RollingRestart => {
                for index in (0..self.fleet.size()).rev() {
                    self.fleet.roll_worker(index, NEWER).await?;
                }
            }
            Kind::Reshard => {
                self.fleet.start_workers(fault.size).await?;
                self.fleet.resize(fault.size)?;
            }
            Kind::AppVersion => {
                self.drain(worker).await?;
                self.fleet.set_app_version(OLDER);
                self.fleet.start_worker_again(worker).await?;
                self.fleet.set_app_version(NEWER);
            }
            Kind::CrashPoint => return crash::begin(self, fault).await.map(Some),
            Kind::GatewayKill => self.fleet.gateways[gateway].process.kill().await?,
            Kind::GatewayTerm => {
                self.fleet.gateways[gateway].process.signal("TERM")?;
                self.fleet.gateways[gateway].process.wait().await?;
            }
            Kind::GatewayFreeze => self.fleet.gateways[gateway].process.signal("STOP")?,
            Kind::LinkFlap => self.flap(fault, lasts).await,
            Kind::ClockJump => {
                let seconds = if dice & 1 == 0 { JUMP } else { -JUMP };
                self.set_clock(fault, seconds)?;
            }
            kind if matches!(kind.part(), Part::Links | Part::DatabaseLinks | Part::Browsers) => {
                self.disturb(fault);
            }
            _ => self.begin_database(fault, lasts).await?,
        }
        Ok(None)
    }

    /// It is over.
    pub(crate) async fn end(&mut self, fault: &Fault) -> Result<()> {
        let Fault { gateway, worker, .. } = *fault;
        match fault.kind {
            Kind::WorkerKill | Kind::WorkerTerm => self.fleet.start_worker_again(worker).await?,
            Kind::WorkerFreeze => self.fleet.workers[worker].process.signal("CONT")?,
            Kind::AppVersion => self.fleet.roll_worker(worker, NEWER).await?,
            Kind::CrashPoint => crash::end(self, fault).await?,
            Kind::GatewayKill | Kind::GatewayTerm => {
                self.fleet.start_gateway_again(gateway).await?;
            }
            Kind::GatewayFreeze => self.fleet.gateways[gateway].process.signal("CONT")?,
            Kind::RollingRestart | Kind::Reshard => {}
            Kind::ClockJump => self.set_clock(fault, 0)?,
            kind if matches!(kind.part(), Part::Links | Part::DatabaseLinks | Part::Browsers) => {
                let proxy = self.proxy(fault);
                if matches!(kind, Kind::LinkHalfOpen | Kind::DatabaseLinkHalfOpen) {
                    // What was swallowed is missing: nothing that follows could be understood.
                    proxy.cut();
                }
                proxy.heal();
            }
            _ => self.end_database(fault).await?,
        }
        Ok(())
    }

    async fn drain(&mut self, worker: usize) -> Result<()> {
        let status = self.fleet.drain_worker(worker).await?;
        ensure!(status.success(), "worker {worker} ends with {status}");
        Ok(())
    }

    fn set_clock(&self, fault: &Fault, seconds: i64) -> Result<()> {
        let name = match fault.dice & 2 {
            0 => format!("worker {}", fault.worker),
            _ => "gateway".to_owned(),
        };
        self.clocks.as_ref().context("no clock can be set")?.set(&name, seconds)
    }

    // --- connections ----------------------------------------------------------------------------

    fn proxy(&self, fault: &Fault) -> &Proxy {
        match fault.kind.part() {
            Part::Browsers => &self.fleet.browser_proxies[fault.gateway],
            Part::DatabaseLinks => &self.fleet.store_proxies[fault.worker],
            _ => &self.fleet.proxies[fault.gateway][fault.worker],
        }
    }

    fn disturb(&self, fault: &Fault) {
        let proxy = self.proxy(fault);
        let both = |flow| Faults { up: flow, down: flow, ..Faults::default() };
        let block = match fault.dice & 1 {
            0 => Faults { up: Flow::Block, ..Faults::default() },
            _ => Faults { down: Flow::Block, ..Faults::default() },
        };
        proxy.set(match fault.kind {
            Kind::LinkCut | Kind::DatabaseLinkCut => Faults { refuse: true, ..Faults::default() },
            Kind::LinkDelay | Kind::DatabaseLinkDelay => {
                Faults { delay: LATE, ..Faults::default() }
            }
            Kind::LinkSlow | Kind::DatabaseLinkSlow => both(Flow::Slow(BYTES_PER_SECOND)),
            Kind::LinkBlock => both(Flow::Block),
            Kind::LinkOneWay | Kind::DatabaseLinkOneWay => block,
            Kind::LinkHalfOpen | Kind::DatabaseLinkHalfOpen => both(Flow::Swallow),
            _ => Faults::default(),
        });
        match fault.kind {
            Kind::LinkCut | Kind::DatabaseLinkCut | Kind::BrowserCut => drop(proxy.cut()),
            Kind::LinkMidFrame | Kind::DatabaseLinkMidFrame => {
                let way = if fault.dice & 1 == 0 { Way::Up } else { Way::Down };
                // Frames of links have a head of 8 bytes, those of PostgreSQL one of 5.
                proxy.cut_after(way, 1 + (fault.dice >> 8) as usize % 300);
            }
            _ => {}
        }
    }

    async fn flap(&self, fault: &Fault, lasts: Duration) {
        let proxy = self.proxy(fault);
        let began = Instant::now();
        let mut next = began;
        while began.elapsed() < lasts {
            proxy.set(Faults { refuse: true, ..Faults::default() });
            proxy.cut();
            next += FLAP;
            sleep_until(next).await;
            proxy.heal();
            next += FLAP;
            sleep_until(next).await;
        }
    }

    // --- the database ---------------------------------------------------------------------------

    fn pair(&self) -> Result<&Pair> {
        match &self.database {
            Database::Postgres { pair, .. } => Ok(pair),
            Database::Sqlite { .. } => anyhow::bail!("SQLite has no server"),
        }
    }

    fn server(&self) -> Result<&TempPostgres> {
        Ok(self.pair()?.primary())
    }

    async fn begin_database(&mut self, fault: &Fault, lasts: Duration) -> Result<()> {
        match fault.kind {
            Kind::DatabaseStop => self.server()?.stop_fast().await?,
            Kind::DatabaseCrash => self.server()?.stop_immediate().await?,
            Kind::DatabaseFreeze => self.server()?.signal("STOP")?,
            Kind::DatabaseReadOnly => self.server()?.set_read_only(true).await?,
            Kind::DatabaseBackends => {
                let (server, began) = (self.server()?, Instant::now());
                let client = server.client().await?;
                while began.elapsed() < lasts {
                    server.terminate_backends(&client).await?;
                    sleep(TERMINATE).await;
                }
            }
            Kind::DatabaseLocks => {
                let client = self.server()?.client().await?;
                let lock = "BEGIN; SELECT FROM single_state.session ORDER BY id FOR UPDATE";
                client.batch_execute(lock).await?;
                self.held.rows = Some(client);
            }
            Kind::DatabaseFailover => {
                let Database::Postgres { pair, disks } = &mut self.database else { return Ok(()) };
                pair.fail_over().await?;
                self.fleet.move_database(&pair.address());
                // The dead one's disk is the next standby's.
                disks.rotate_left(usize::from(disks.len() > 1));
            }
            Kind::FileLock => {
                let Database::Sqlite { file, .. } = &self.database else { return Ok(()) };
                let mut path = file.clone().into_os_string();
                path.push(".lock");
                let lock = File::open(path)?;
                let take = move || flock(&lock, FlockOperation::LockExclusive).map(|()| lock);
                self.held.file = Some(tokio::task::spawn_blocking(take).await??);
            }
            Kind::DiskFull => {
                let disk = match &self.database {
                    Database::Sqlite { disk, .. } => disk.as_ref(),
                    Database::Postgres { disks, .. } => disks.front(),
                };
                disk.context("no small disk")?.fill()?;
            }
            kind => anyhow::bail!("nobody knows how to do {}", kind.name()),
        }
        Ok(())
    }

    async fn end_database(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::DatabaseStop | Kind::DatabaseCrash => self.server()?.restart().await?,
            Kind::DatabaseFreeze => self.server()?.signal("CONT")?,
            Kind::DatabaseReadOnly => self.server()?.set_read_only(false).await?,
            Kind::DatabaseLocks | Kind::FileLock => self.held = Default::default(),
            Kind::DatabaseFailover => {
                let Database::Postgres { pair, disks } = &mut self.database else { return Ok(()) };
                pair.follow(server_on(disks.back())).await?;
            }
            Kind::DiskFull => match &self.database {
                Database::Sqlite { disk, .. } => disk.as_ref().context("no small disk")?.free()?,
                Database::Postgres { disks, pair } => {
                    disks.front().context("no small disk")?.free()?;
                    // With no room for its log it ends, and whoever keeps it running starts it again.
                    if pair.primary().client().await.is_err() {
                        pair.primary().restart().await?;
                    }
                }
            },
            _ => {}
        }
        Ok(())
    }
}
