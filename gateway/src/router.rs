//! Which worker a session goes to: the topology, and the link to each worker of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;

use crate::channel::Channel;
use crate::metrics::Metrics;
use crate::worker_link::{LinkOptions, WorkerLink};

/// How often quiet browsers are looked at.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// All workers of one topology.
#[derive(Debug)]
pub(crate) struct Router {
    topology: Topology,
    key: PlacementKey,
    workers: Vec<Rc<WorkerLink>>,
}

impl Router {
    pub(crate) fn new(
        topology: Topology,
        key: PlacementKey,
        options: &LinkOptions,
        metrics: &Rc<Metrics>,
    ) -> Self {
        metrics.generation.set(topology.generation().0 as i64);
        let workers = (0..).map(WorkerIndex).zip(topology.workers());
        let workers = workers
            .map(|(index, address)| {
                WorkerLink::new(index, address.clone(), options.clone(), metrics.clone())
            })
            .collect();
        Self { topology, key, workers }
    }

    /// Starts dialling all workers. Needs a `LocalSet`.
    pub(crate) fn start(&self) {
        for worker in &self.workers {
            tokio::task::spawn_local(worker.clone().run());
            tokio::task::spawn_local(worker.clone().expire_parked());
        }
    }

    /// Index of the worker that owns `session`; `None` while there are no workers at all.
    pub(crate) fn owner(&self, session: &SessionId) -> Option<WorkerIndex> {
        self.topology.owner(&self.key, session, |_| false)
    }

    /// Asks the owner of the channel's session for it, now or when it is there.
    pub(crate) fn attach(&self, channel: &Rc<Channel>) {
        if let Some(worker) = self.owner(&channel.session).and_then(|index| self.worker(index)) {
            worker.attach(channel);
        }
    }

    /// The channel's browser is gone. Does nothing the second time.
    pub(crate) fn detach(&self, channel: &Channel) {
        if let Some(worker) = channel.worker().and_then(|index| self.worker(index)) {
            worker.detach(channel);
        }
    }

    /// Looks after all browsers for ever: quiet ones are asked whether they are there.
    pub(crate) async fn check_idle(self: Rc<Self>) {
        loop {
            tokio::time::sleep(IDLE_TICK).await;
            let now = Instant::now();
            for worker in &self.workers {
                worker.check_idle(now);
            }
        }
    }

    /// Closes all browsers.
    pub(crate) fn close_all(&self, code: u16, reason: &'static str) {
        for worker in &self.workers {
            worker.close_all(code, reason);
        }
    }

    fn worker(&self, index: WorkerIndex) -> Option<&Rc<WorkerLink>> {
        self.workers.get(usize::from(index.0))
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) fn workers(&self) -> &[Rc<WorkerLink>] {
        &self.workers
    }
}
