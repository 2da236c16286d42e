//! What all sessions of one worker process have in common.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use single_state_proto::id::WorkerIndex;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::running::Running;
use crate::store::Store;

/// One worker process, as its sessions see it.
pub(crate) struct Host {
    pub(crate) index: WorkerIndex,
    pub(crate) store: Rc<dyn Store>,
    pub(crate) metrics: Rc<Metrics>,
    /// What the event loop runs now.
    pub(crate) running: Arc<Running>,
    /// What the app loaded once for all sessions.
    pub(crate) shared: Arc<dyn Any + Send + Sync>,
    /// As many computations at a time as there are cores; without it they run where they are
    /// called, so that virtual time cannot overtake them.
    pub(crate) cores: Option<Semaphore>,
    /// Sessions in memory; 0 is any.
    pub(crate) max_sessions: usize,
    /// Longest output, in bytes.
    pub(crate) max_output_bytes: usize,
}

impl Host {
    pub(crate) fn new(
        index: WorkerIndex,
        store: Rc<dyn Store>,
        shared: Arc<dyn Any + Send + Sync>,
        max_output_bytes: usize,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (metrics, cores) = (Rc::new(Metrics::new()), Some(Semaphore::new(cores)));
        let running = Arc::default();
        Self { index, store, metrics, running, shared, cores, max_sessions: 0, max_output_bytes }
    }
}
