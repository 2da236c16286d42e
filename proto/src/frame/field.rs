//! How single fields stand in a payload: numbers big-endian, texts with their length before them.
//! A payload may be longer than the fields known here: later versions append.

use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes};

use crate::error::Malformed;

/// Reads the fields of one payload; errors name the kind it belongs to.
pub(super) struct Fields {
    payload: Bytes,
    kind: &'static str,
}

impl Fields {
    pub(super) fn new(kind: &'static str, payload: Bytes) -> Self {
        Self { payload, kind }
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.payload.try_get_u8().map_err(|_| Malformed::Short(self.kind))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.payload.try_get_u16().map_err(|_| Malformed::Short(self.kind))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.payload.try_get_u32().map_err(|_| Malformed::Short(self.kind))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.payload.try_get_u64().map_err(|_| Malformed::Short(self.kind))
    }

    /// So many bytes as they are.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut bytes = [0; N];
        self.payload.try_copy_to_slice(&mut bytes).map_err(|_| Malformed::Short(self.kind))?;
        Ok(bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Field("a flag that is neither 0 nor 1")),
        }
    }

    /// A field that may be absent: a flag, then the field.
    pub(super) fn option<T>(
        &mut self,
        field: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.bool()? { field(self).map(Some) } else { Ok(None) }
    }

    /// `len:u16`, then UTF-8.
    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u16()?);
        if self.payload.len() < length {
            return Err(Malformed::Short(self.kind));
        }
        String::from_utf8(self.payload.split_to(length).to_vec())
            .map_err(|_| Malformed::Field("a text that is not UTF-8"))
    }

    /// A text with a grammar of its own.
    pub(super) fn parse<T: FromStr>(&mut self, wrong: &'static str) -> Result<T, Malformed> {
        self.text()?.parse().map_err(|_| Malformed::Field(wrong))
    }

    /// What follows the fields.
    pub(super) fn rest(self) -> Bytes {
        self.payload
    }
}

/// A flag, then the field if there is one.
pub(super) fn put_option<B: BufMut, T>(
    out: &mut B,
    value: Option<T>,
    field: impl FnOnce(&mut B, T),
) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        field(out, value);
    }
}

/// Texts come from ids and configuration, which are far shorter than 64 KiB; one that is not is cut
/// at a character, so that the frame stays readable.
pub(super) fn put_text<B: BufMut>(out: &mut B, text: &str) {
    let mut length = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    out.put_u16(length as u16);
    out.put_slice(&text.as_bytes()[..length]);
}
