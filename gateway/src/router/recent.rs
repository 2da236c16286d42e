//! What has happened to workers of late, for operators who look at the status: the last few events,
//! and not a log.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use single_state_proto::id::WorkerIndex;

/// So many are kept.
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Recent {
    events: RefCell<VecDeque<Event>>,
}

#[derive(Debug)]
struct Event {
    /// For people: nothing is decided by it.
    at: SystemTime,
    what: String,
    worker: Option<WorkerIndex>,
}

impl Recent {
    pub(super) fn note(&self, what: String, worker: Option<WorkerIndex>) {
        let mut events = self.events.borrow_mut();
        events.truncate(KEPT - 1);
        events.push_front(Event { at: SystemTime::now(), what, worker });
    }

    /// Newest first; `at_ms` counts from 1970.
    pub(super) fn tell(&self) -> Vec<Value> {
        let events = self.events.borrow();
        let tell = |Event { at, what, worker }: &Event| {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            json!({"at_ms": at, "what": what, "worker": worker.map(|index| index.0)})
        };
        events.iter().map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_kept_newest_first() {
        let recent = Recent::default();
        for i in 0..KEPT + 5 {
            recent.note(format!("event {i}"), None);
        }
        let told = recent.tell();
        assert_eq!(told.len(), KEPT);
        assert_eq!(told[0]["what"], format!("event {}", KEPT + 4));
    }
}
