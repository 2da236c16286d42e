//! Starting and ending workers: the supervisor's part that applies what happens to them.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    net::TcpStream,
    process::Command,
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use super::{
    DevError,
    output::Label,
    process::{Ended, Ending, Process},
    slot::{AfterEnd, Restart, Slot},
    supervisor::{Event, Phase, Supervisor, reserve_slots},
};

/// How long a restart waits until the worker serves.
const SERVES_WITHIN: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// Variables of the gateway that a worker would take for its own. The ones that every worker gets
/// anew are not among them.
const NOT_FOR_WORKERS: [&str; 2] = ["SINGLE_STATE_TOPOLOGY", "SINGLE_STATE_WORKERS"];

impl Supervisor {
    /// The first start. If one worker cannot be started at all, no retry will help: all end.
    pub(crate) fn start_all(&mut self) {
        self.watch_program();
        self.phase = Phase::Serving;
        for index in 0..self.options.workers {
            if let Err(error) = self.start(index) {
                self.failure = Some(error);
                self.end_all(Ending::Gently);
                return;
            }
        }
        self.announce();
    }

    /// Tells gateways where the wanted workers are.
    fn announce(&self) {
        let wanted = self.slots.iter().take(self.options.workers as usize);
        let (links, admins) = wanted.map(|slot| (slot.link, slot.admin)).unzip();
        self.admins.send_replace(admins);
        self.addresses.send_replace(links);
    }

    fn start(&mut self, index: u32) -> Result<(), DevError> {
        let mut command = self.command(index);
        let Some(slot) = self.slots.get_mut(index as usize) else { return Ok(()) };
        slot.free_ports();
        let label = Label::Worker(index);
        let process = Process::spawn(&mut command, label, &self.printer, self.options.grace)
            .map_err(|error| self.program.explain(error))?;
        let id = process.id();
        let (ending, asked) = watch::channel(Ending::No);
        let run = slot.started(ending);
        let (link, admin) = (slot.link, slot.admin);
        if slot.is_awaited() {
            self.tasks.spawn_local(async move {
                // Too late is said by nobody: whoever waits goes on either way.
                let _ = timeout(SERVES_WITHIN, serves(link)).await;
                Event::WorkerProbed { index, run }
            });
        }
        self.tasks.spawn_local(async move {
            Event::WorkerEnded { index, ended: process.ended(asked).await }
        });
        self.say(&format!("worker {index} is process {id}, link {link}, admin http://{admin}"));
        Ok(())
    }

    /// The command of one worker, with its environment.
    fn command(&self, index: u32) -> Command {
        let mut command = Command::new(self.program.name());
        command.args(self.program.arguments()).stdin(Stdio::piped());
        for name in NOT_FOR_WORKERS {
            command.env_remove(name);
        }
        if let Some(slot) = self.slots.get(index as usize) {
            command.env("SINGLE_STATE_LISTEN", slot.link.to_string());
            command.env("SINGLE_STATE_ADMIN_LISTEN", slot.admin.to_string());
        }
        // Time is left in which a worker can say what it could not commit.
        let drain_timeout = self.options.grace.mul_f32(0.8).as_millis();
        command
            .env("SINGLE_STATE_DRAIN_TIMEOUT", format!("{drain_timeout}ms"))
            .env("SINGLE_STATE_INDEX", index.to_string())
            .env("SINGLE_STATE_STORE", &self.options.store)
            .env("SINGLE_STATE_CLUSTER", "dev")
            .env("SINGLE_STATE_EXIT_WITH_STDIN", "true")
            .envs(self.options.extra_env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a worker that has been started before: that it cannot be now may pass, as when its
    /// program is just being replaced.
    fn start_or_retry(&mut self, index: u32) {
        if let Err(error) = self.start(index) {
            let again = self.retry(index, Duration::ZERO);
            self.say(&format!(
                "worker {index} cannot be started, trying it again {again}: {error}"
            ));
        }
    }

    pub(crate) fn on_worker_ended(&mut self, index: u32, ended: Ended) {
        let is_wanted = index < self.options.workers;
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let after = slot.ended();
        let was_asked = self.is_ending() || after == AfterEnd::StartAgain;
        if was_asked && !ended.is_as_asked() {
            self.say(&format!("worker {index} ended {ended} instead of leaving by itself"));
        }
        match after {
            _ if self.is_ending() => {}
            _ if !is_wanted => {
                self.say(&format!("worker {index} has left"));
                self.forget_slots();
            }
            AfterEnd::StartAgain => self.start_or_retry(index),
            AfterEnd::Died(lived) => {
                let again = self.retry(index, lived);
                self.say(&format!("worker {index} ended {ended}, starting it again {again}"));
            }
        }
    }

    /// Plans the next start of a worker that died or could not be started; says when that will be.
    fn retry(&mut self, index: u32, lived: Duration) -> String {
        let Some(slot) = self.slots.get_mut(index as usize) else { return String::new() };
        let (run, delay) = slot.retry(lived);
        self.tasks.spawn_local(async move {
            sleep(delay).await;
            Event::WorkerDue { index, run }
        });
        if delay.is_zero() {
            "at once".to_owned()
        } else {
            format!("in {:.1} s", delay.as_secs_f64())
        }
    }

    pub(crate) fn on_worker_due(&mut self, index: u32, run: u64) {
        if self.slots.get(index as usize).is_some_and(|slot| slot.is_due(run)) {
            self.start_or_retry(index);
        }
    }

    pub(crate) fn on_worker_probed(&mut self, index: u32, run: u64) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.probed(run);
        }
    }

    /// Restarts a worker on request; who asks for one that is not there is answered at once.
    pub(crate) fn restart(&mut self, index: u32, done: oneshot::Sender<()>) {
        if self.phase != Phase::Serving {
            return;
        }
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        match slot.restart(done) {
            Restart::StartNow => self.start_or_retry(index),
            Restart::WhenEnded => {}
        }
    }

    pub(crate) fn kill(&self, index: u32) {
        if let Some(slot) = self.slots.get(index as usize) {
            slot.kill();
        }
    }

    /// Runs so many workers. Who dials a new one before it listens is refused at once.
    pub(crate) fn scale(&mut self, workers: u32) {
        if self.phase != Phase::Serving || workers == self.options.workers {
            return;
        }
        self.say(&format!("{} workers become {workers}", self.options.workers));
        let before = std::mem::replace(&mut self.options.workers, workers);
        let missing = workers.saturating_sub(self.slots.len() as u32);
        match reserve_slots(missing) {
            Ok(slots) => self.slots.extend(slots),
            Err(error) => {
                self.options.workers = before;
                return self.say(&DevError::Ports(error).to_string());
            }
        }
        for index in before..workers {
            // One of these may still be leaving; then it is started again when it has.
            let (done, _) = oneshot::channel();
            self.restart(index, done);
        }
        self.announce();
        for slot in self.slots.iter_mut().skip(workers as usize) {
            slot.end(Ending::Gently);
        }
        self.forget_slots();
    }

    /// Drops the slots at the end that are not wanted and have no process.
    fn forget_slots(&mut self) {
        let is_over = |slot: &Slot| !slot.has_process();
        while self.slots.len() > self.options.workers as usize
            && self.slots.last().is_some_and(is_over)
        {
            self.slots.pop();
        }
    }

    /// Ends whatever runs, all at once; nothing is started any more.
    pub(crate) fn end_all(&mut self, how: Ending) {
        self.phase = Phase::Ending;
        for slot in &mut self.slots {
            slot.end(how);
        }
        self.builds.end(how);
    }
}

/// Waits until something accepts connections there.
async fn serves(address: SocketAddr) {
    while TcpStream::connect(address).await.is_err() {
        sleep(PROBE_EVERY).await;
    }
}
