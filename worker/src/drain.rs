//! The end of a worker: its sessions are committed and given up, a few at a time.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::Registry;

/// Sessions that leave at a time.
const AT_ONCE: usize = 64;
/// How often it is looked who is left.
const STEP: Duration = Duration::from_millis(5);

/// Empties the worker. Returns how many sessions were left when the time was over.
pub(crate) async fn drain(registry: &Rc<Registry>, timeout: Duration) -> usize {
    registry.begin_to_drain();
    let deadline = Instant::now() + timeout;
    while registry.resident() > 0 && Instant::now() < deadline {
        let residents = registry.residents();
        let leaving = residents.iter().filter(|resident| resident.is_retiring()).count();
        let staying = residents.iter().filter(|resident| !resident.is_retiring());
        for resident in staying.take(AT_ONCE.saturating_sub(leaving)) {
            registry.passivate(resident, "drain");
        }
        tokio::time::sleep(STEP).await;
    }
    registry.resident()
}
