//! The app of the comparison with a stateless server: one type and one handler for both. Its state
//! keeps its size, so that each message costs the same.

use serde::{Deserialize, Serialize};

/// Length of an item in messages of 64 bytes, as `swarm` makes them for `append`.
const ITEM: usize = 36;
/// An item in MessagePack has a head of two bytes.
const ITEM_IN_STATE: usize = ITEM + 2;

/// One user's state: the last items, and how many there ever were.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Items {
    count: u64,
    items: Vec<String>,
}

/// What browsers send.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Puts an item in place of the oldest one.
    Append { item: String },
}

impl Items {
    /// Makes a new state as long as it will stay, of letters that do not compress well.
    pub(crate) fn fill(&mut self, bytes: usize) {
        if !self.items.is_empty() {
            return;
        }
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut letter = || {
            // Xorshift: any source will do that repeats nothing soon.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            char::from(b'0' + (random >> 40) as u8 % 75)
        };
        let count = (bytes / ITEM_IN_STATE).max(1);
        self.items = (0..count).map(|_| (0..ITEM).map(|_| letter()).collect()).collect();
    }

    /// The number of items after this one.
    pub(crate) fn handle(&mut self, Message::Append { item }: Message) -> u64 {
        let at = self.count as usize % self.items.len().max(1);
        if let Some(place) = self.items.get_mut(at) {
            *place = item;
        }
        self.count += 1;
        self.count
    }
}

/// Bytes of the state, as the bench tells both servers.
pub(crate) fn state_bytes() -> usize {
    std::env::var("ITEMS_BYTES").ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(4096)
}
