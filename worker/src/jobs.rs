//! Work that runs beside a session under names that the app gives.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use rustc_hash::FxHashMap;
use tokio::task::AbortHandle;

use crate::Result;
use crate::actor::report;
use crate::resident::Resident;
use crate::running::{Running, What};

/// The running work of one session; ends with it. Few sessions have any.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Option<Box<FxHashMap<Box<str>, AbortHandle>>>);

impl Jobs {
    /// Starts `work` in place of what runs under `name`.
    pub(crate) fn spawn(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<()>> + 'static,
        resident: &Rc<Resident>,
        running: &Arc<Running>,
    ) {
        self.cancel(name);
        let jobs = self.0.get_or_insert_default();
        jobs.retain(|_, job| !job.is_finished());
        let (session, what, running) = (resident.id.clone(), What::work(name), running.clone());
        let resident = Rc::downgrade(resident);
        let task = tokio::task::spawn_local(async move {
            let work = std::pin::pin!(AssertUnwindSafe(work).catch_unwind());
            let outcome = running.watch(&session, &what, work).await;
            if let Some(resident) = resident.upgrade() {
                report(&resident, &what, outcome);
                resident.trim();
                resident.pump_all();
            }
        });
        jobs.insert(name.into(), task.abort_handle());
    }

    /// Whether any work runs.
    pub(crate) fn are_running(&self) -> bool {
        self.0.iter().flat_map(|jobs| jobs.values()).any(|job| !job.is_finished())
    }

    /// Ends the work that runs under `name`; whether some did.
    pub(crate) fn cancel(&mut self, name: &str) -> bool {
        self.0.as_mut().and_then(|jobs| jobs.remove(name)).is_some_and(|job| {
            let was_running = !job.is_finished();
            job.abort();
            was_running
        })
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.0.iter().flat_map(|jobs| jobs.values()).for_each(AbortHandle::abort);
    }
}
