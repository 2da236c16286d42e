//! Every number that bounds the link and the channels, with the relations between them proven here.

use std::time::Duration;

/// Versions of the link protocol that this build speaks, lowest and highest.
pub const PROTOCOL: std::ops::RangeInclusive<u16> = 1..=1;

/// Bytes before a frame's payload: `len:u24 kind:u8 stream:u32`.
pub const HEAD_LEN: usize = 8;

/// Longest payload of one frame, in bytes. Longer messages are cut.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Bytes that a receiver grants a stream at first, and tops up to when messages are consumed.
pub const WINDOW: u32 = 64 * 1024;

/// What each message costs of the window beside its bytes: the receiver's bookkeeping for it.
/// So a window also bounds the number of messages: at most `WINDOW / MESSAGE_COST` = 1,024 wait.
pub const MESSAGE_COST: u32 = 64;

/// Longest message that a link carries unless HELLO says less, in bytes.
pub const MAX_MESSAGE: u32 = 16 * 1024 * 1024;

/// Bytes of messages longer than their window that one link puts together at a time; a single one
/// may exceed it when no other is being put together. A message that is whole has left the budget
/// and waits for its consumer, so a link holds in each direction at most
/// `REASSEMBLY_BUDGET + MAX_MESSAGE + streams * (WINDOW + MAX_MESSAGE)`, of which the last term is
/// one message a stream that its consumer does not take.
pub const REASSEMBLY_BUDGET: u64 = 64 * 1024 * 1024;

/// Bytes that wait in a link's own buffer. Beyond it messages stay with their streams.
pub const LINK_HIGH_WATER: usize = 256 * 1024;

/// Bytes in a link's own buffer at which the peer, which goes on sending, is not reading: what it
/// causes us to answer would grow without end.
pub const LINK_BACKLOG: usize = 16 * 1024 * 1024;

/// HELLO, and PROOF where links have keys, must have come within this time after the connection.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Each side sends a PING so often.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A link on which nothing arrived for this long is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);

/// Unacknowledged inputs that the client half of a channel keeps: messages …
pub const UNACKED_MESSAGES: usize = 1024;
/// … and bytes, or one message if that is larger.
pub const UNACKED_BYTES: usize = 256 * 1024;

/// Highest number of an input: what a browser can count to without losing one, 2^53 - 1.
pub const MAX_INPUT_NUMBER: u64 = (1 << 53) - 1;

/// Inputs that wait in a session's mailbox; what it cannot take stays with its stream.
pub const MAILBOX: usize = 256;

/// Channels of one session.
pub const MAX_CHANNELS: usize = 64;

/// Most workers of a topology.
pub const MAX_WORKERS: usize = 1024;

/// Longest address of a worker, in bytes.
pub const MAX_ADDRESS: usize = 255;

const _: () = assert!(MAX_PAYLOAD < 1 << 24, "a payload's length fits the head's 24 bits");
const _: () = assert!(MESSAGE_COST < WINDOW, "a window takes at least one message");
const _: () = assert!(LINK_HIGH_WATER < LINK_BACKLOG);
const _: () = assert!(MAX_MESSAGE as u64 <= REASSEMBLY_BUDGET);
const _: () =
    assert!(PING_INTERVAL.as_millis() * 2 < DEAD_AFTER.as_millis(), "two pings may be lost");
const _: () = assert!(MAX_WORKERS <= u16::MAX as usize + 1, "a worker index is a u16");
