//! DATA: a message, whole or a part of it. The first part states number and length of the whole.

use bytes::{BufMut, Bytes};

use super::field::Fields;
use super::head::{Head, Kind};
use crate::error::Malformed;
use crate::id::StreamId;
use crate::limits::MAX_PAYLOAD;

const FIRST: u8 = 1;
const FIN: u8 = 2;
const BINARY: u8 = 4;

/// `flags:u8`, and in the first part `number:u64 length:u32`.
const FIRST_LEN: usize = 1 + 8 + 4;

/// Most bytes of a message that one frame carries beside its own fields.
pub(crate) const MAX_PART: usize = MAX_PAYLOAD - FIRST_LEN;

/// What the first part of a message states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Number of the input, or revision of the output.
    pub number: u64,
    /// Bytes of the whole message.
    pub length: u32,
    /// Binary message; else text.
    pub binary: bool,
}

/// A message or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Present in a message's first part.
    pub start: Option<Start>,
    /// This is the message's last part.
    pub fin: bool,
    /// The bytes.
    pub part: Bytes,
}

/// Appends one DATA frame; `part` is at most [`MAX_PART`] bytes.
pub(crate) fn encode(
    out: &mut impl BufMut,
    stream: StreamId,
    start: Option<Start>,
    fin: bool,
    part: &[u8],
) {
    let fields = if start.is_some() { FIRST_LEN } else { 1 };
    Head { len: fields + part.len(), kind: Kind::Data, stream }.encode(out);
    let fin = if fin { FIN } else { 0 };
    match start {
        Some(Start { number, length, binary }) => {
            out.put_u8(FIRST | fin | if binary { BINARY } else { 0 });
            out.put_u64(number);
            out.put_u32(length);
        }
        None => out.put_u8(fin),
    }
    out.put_slice(part);
}

pub(super) fn decode(payload: Bytes) -> Result<Data, Malformed> {
    let mut fields = Fields::new("DATA", payload);
    let flags = fields.u8()?;
    if flags & !(FIRST | FIN | BINARY) != 0 {
        return Err(Malformed::Field("DATA with unknown flags"));
    }
    let start = if flags & FIRST != 0 {
        let (number, length) = (fields.u64()?, fields.u32()?);
        Some(Start { number, length, binary: flags & BINARY != 0 })
    } else {
        None
    };
    Ok(Data { start, fin: flags & FIN != 0, part: fields.rest() })
}
