//! The end of a worker: its sessions are committed and given up, a few at a time.

use std::rc::Rc;
use std::time::Duration;

use single_state_faults::{self as faults, Mutant};
use tokio::time::Instant;

use crate::registry::Registry;
use crate::resident::Leave;

/// How often it is looked whether a session that was being loaded is there.
const STEP: Duration = Duration::from_millis(1);

/// Empties the worker. Returns how many sessions were left when the time was over.
pub(crate) async fn drain(registry: &Rc<Registry>, timeout: Duration) -> usize {
    registry.begin_to_drain();
    let deadline = Instant::now() + timeout;
    while registry.resident() > 0 && Instant::now() < deadline {
        if !faults::mutant(Mutant::DrainWithoutHandover) {
            registry.hand_over(Leave::Drain, Some(deadline), |_| true).await;
        }
        // What was about to come into memory comes soon, or not at all.
        if registry.resident() > 0 {
            tokio::time::sleep(STEP).await;
        }
    }
    registry.resident()
}
