//! The end of a worker: its sessions are committed and given up, a few at a time.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::Registry;
use crate::resident::Resident;

/// Sessions that leave at a time.
const AT_ONCE: usize = 64;
/// How often it is looked who has left.
const STEP: Duration = Duration::from_millis(1);

/// Empties the worker. Returns how many sessions were left when the time was over.
pub(crate) async fn drain(registry: &Rc<Registry>, timeout: Duration) -> usize {
    registry.begin_to_drain();
    let deadline = Instant::now() + timeout;
    let mut leaving: Vec<Rc<Resident>> = Vec::new();
    // What was about to come into memory is there after one round.
    while registry.resident() > 0 && Instant::now() < deadline {
        for resident in registry.residents() {
            while leaving.len() >= AT_ONCE && Instant::now() < deadline {
                step(registry, &mut leaving).await;
            }
            registry.passivate(&resident, "drain");
            leaving.push(resident);
        }
        while !leaving.is_empty() && Instant::now() < deadline {
            step(registry, &mut leaving).await;
        }
        tokio::time::sleep(STEP).await;
    }
    registry.resident()
}

/// Waits a little, and forgets those who have left.
async fn step(registry: &Registry, leaving: &mut Vec<Rc<Resident>>) {
    tokio::time::sleep(STEP).await;
    leaving.retain(|resident| registry.contains(&resident.id));
}
