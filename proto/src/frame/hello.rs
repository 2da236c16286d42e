//! HELLO: the first frame of each side. Says who it is and what it accepts.

use bytes::{BufMut, Bytes};

use super::field::{Fields, put_option, put_text};
use crate::error::Malformed;
use crate::id::{Generation, Incarnation, WorkerIndex};
use crate::key::Nonce;

/// First frame of each side of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version of the link protocol that the sender speaks.
    pub protocol_min: u16,
    /// Highest version that it speaks.
    pub protocol_max: u16,
    /// Longest message that it takes, in bytes.
    pub max_message: u32,
    /// Generation of the newest topology that it knows.
    pub generation: Generation,
    /// Index of the worker at this link: a worker's own, or the one that the gateway looks for.
    pub index: WorkerIndex,
    /// Which start of its process this is.
    pub incarnation: Incarnation,
    /// Name of the cluster; both sides must have the same.
    pub cluster: String,
    /// Version of the sender's build, for logs only.
    pub build: String,
    /// The sender has a link key: it will prove it, and wants a proof that is bound to this nonce.
    pub nonce: Option<Nonce>,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u16(self.protocol_min);
        out.put_u16(self.protocol_max);
        out.put_u32(self.max_message);
        out.put_u64(self.generation.0);
        out.put_u16(self.index.0);
        out.put_u64(self.incarnation.0);
        put_text(out, &self.cluster);
        put_text(out, &self.build);
        put_option(out, self.nonce, |out, nonce| out.put_slice(&nonce.0));
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new("HELLO", payload);
        Ok(Self {
            protocol_min: fields.u16()?,
            protocol_max: fields.u16()?,
            max_message: fields.u32()?,
            generation: Generation(fields.u64()?),
            index: WorkerIndex(fields.u16()?),
            incarnation: Incarnation(fields.u64()?),
            cluster: fields.text()?,
            build: fields.text()?,
            nonce: fields.option(|fields| Ok(Nonce(fields.bytes()?)))?,
        })
    }
}
