//! Bytes in, frames out. Owns the read buffer of one link; knows nothing of what frames mean.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::Malformed;
use crate::frame::{Frame, Head};
use crate::limits::HEAD_LEN;

/// Payloads up to this length are copied out of the read buffer, so that one short message that
/// waits somewhere does not keep 64 KiB of others alive. Longer ones are cut out without a copy.
const COPY_UP_TO: usize = 2 * 1024;

/// Turns the bytes of a link into frames.
///
/// The caller reads into [`Decoder::buffer`] and then calls [`Decoder::decode`] until it returns
/// `None`. Holds at most one incomplete frame beside what the caller read at once: a head that
/// states more than [`crate::limits::MAX_PAYLOAD`] is an error before its payload is waited for.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// A decoder at the beginning of a link.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the next bytes of the link are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, `None` until more bytes are there. After an error the link is of no use.
    pub fn decode(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(head) = self.buffer.first_chunk::<HEAD_LEN>() else { return Ok(None) };
        let head = Head::decode(*head)?;
        if self.buffer.len() < HEAD_LEN + head.len {
            return Ok(None);
        }
        self.buffer.advance(HEAD_LEN);
        let payload = if head.len <= COPY_UP_TO {
            let payload = Bytes::copy_from_slice(&self.buffer[..head.len]);
            self.buffer.advance(head.len);
            payload
        } else {
            self.buffer.split_to(head.len).freeze()
        };
        Frame::decode(head, payload).map(Some)
    }
}
