//! Which worker a session goes to: the topology, and the link to each worker of it.

use std::rc::Rc;

use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;

use crate::metrics::Metrics;
use crate::worker_link::{LinkOptions, WorkerLink};

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

    /// The worker that owns `session`; `None` while there are no workers at all.
    pub(crate) fn owner(&self, session: &SessionId) -> Option<Rc<WorkerLink>> {
        let index = self.topology.owner(&self.key, session, |_| false)?;
        self.workers.get(usize::from(index.0)).cloned()
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) fn workers(&self) -> &[Rc<WorkerLink>] {
        &self.workers
    }
}
