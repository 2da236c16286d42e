//! TAKEN: a worker has taken a session whose owner had not given it up.

use bytes::{BufMut, Bytes};

use super::field::{Fields, put_text};
use crate::error::Malformed;
use crate::id::{Epoch, SessionId};

/// A session that its owner has lost to the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The session.
    pub session: SessionId,
    /// The sender's epoch: an owner with a lower one says nothing that counts any more.
    pub epoch: Epoch,
}

impl Taken {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        put_text(out, self.session.as_str());
        out.put_u64(self.epoch.0);
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new("TAKEN", payload);
        Ok(Self {
            session: fields.parse("a session id that is none")?,
            epoch: Epoch(fields.u64()?),
        })
    }
}
