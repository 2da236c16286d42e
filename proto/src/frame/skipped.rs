//! SKIPPED: the workers that a gateway's placement passes over at the moment. OPEN carries the same
//! for one session.

use bytes::{BufMut, Bytes};

use super::field::Fields;
use crate::error::Malformed;
use crate::id::WorkerIndex;

/// Workers that take no sessions, as one gateway sees them. Placement skips both lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skipped {
    /// Cannot be reached: what they own may be taken from them.
    pub down: Vec<WorkerIndex>,
    /// Are going away, or cannot have the session. They are not gone: what they own is theirs until
    /// they release it (R15).
    pub passed_over: Vec<WorkerIndex>,
}

impl Skipped {
    /// Whether placement passes over this worker.
    pub fn contains(&self, index: WorkerIndex) -> bool {
        self.down.contains(&index) || self.passed_over.contains(&index)
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        for list in [&self.down, &self.passed_over] {
            out.put_u16(list.len() as u16);
            list.iter().for_each(|index| out.put_u16(index.0));
        }
    }

    pub(super) fn take(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self { down: list(fields)?, passed_over: list(fields)? })
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        Self::take(&mut Fields::new("SKIPPED", payload))
    }
}

fn list(fields: &mut Fields) -> Result<Vec<WorkerIndex>, Malformed> {
    (0..fields.u16()?).map(|_| fields.u16().map(WorkerIndex)).collect()
}
