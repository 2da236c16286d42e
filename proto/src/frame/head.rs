//! The eight bytes before every payload: `len:u24 kind:u8 stream:u32`, big-endian.

use bytes::BufMut;

use crate::error::Malformed;
use crate::id::StreamId;
use crate::limits::{HEAD_LEN, MAX_PAYLOAD};

/// What a frame is. Numbers are part of the wire format: 0 is reserved, none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is documented at its payload")]
pub enum Kind {
    Hello = 1,
    Open = 2,
    Opened = 3,
    Refused = 4,
    Data = 5,
    Ack = 6,
    Credit = 7,
    Recall = 8,
    Moved = 9,
    Reset = 10,
    Close = 11,
    Topology = 12,
    Ping = 13,
    Pong = 14,
    GoAway = 15,
    Proof = 16,
    Skipped = 17,
    Taken = 18,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::Hello,
        Self::Open,
        Self::Opened,
        Self::Refused,
        Self::Data,
        Self::Ack,
        Self::Credit,
        Self::Recall,
        Self::Moved,
        Self::Reset,
        Self::Close,
        Self::Topology,
        Self::Ping,
        Self::Pong,
        Self::GoAway,
        Self::Proof,
        Self::Skipped,
        Self::Taken,
    ];

    fn from_wire(number: u8) -> Result<Self, Malformed> {
        usize::from(number)
            .checked_sub(1)
            .and_then(|i| Self::ALL.get(i))
            .copied()
            .ok_or(Malformed::Kind(number))
    }
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) len: usize,
    pub(crate) kind: Kind,
    pub(crate) stream: StreamId,
}

impl Head {
    /// Reads a head; a length that no frame may have is refused here, before anything is buffered.
    pub(crate) fn decode(bytes: [u8; HEAD_LEN]) -> Result<Self, Malformed> {
        let [l0, l1, l2, kind, s0, s1, s2, s3] = bytes;
        let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if len > MAX_PAYLOAD {
            return Err(Malformed::Oversized(len));
        }
        let stream = StreamId(u32::from_be_bytes([s0, s1, s2, s3]));
        Ok(Self { len, kind: Kind::from_wire(kind)?, stream })
    }

    pub(crate) fn encode(self, out: &mut impl BufMut) {
        debug_assert!(self.len <= MAX_PAYLOAD);
        out.put_u32((self.len as u32) << 8 | u32::from(self.kind as u8));
        out.put_u32(self.stream.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_by_its_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_wire(kind as u8), Ok(kind));
        }
        assert_eq!(Kind::from_wire(0), Err(Malformed::Kind(0)));
        assert_eq!(Kind::from_wire(19), Err(Malformed::Kind(19)));
    }
}
