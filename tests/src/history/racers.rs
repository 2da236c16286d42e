//! What racing owners leave behind: items in the sessions' states, and a line of JSON for each thing
//! that a racer was told. Knows neither stores nor how to judge.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// Something appended to a session, with the commit that was to bring it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Item {
    /// Epoch of the owner that appended it. Commits rise in epoch and version.
    pub epoch: u64,
    /// Version of the first save that had it.
    pub version: u64,
    /// The racer that appended it.
    pub racer: u16,
    /// Its number among the items of this racer in this session: 1, 2, 3 …
    pub number: u64,
}

impl Item {
    const LENGTH: usize = 32;

    /// Adds it to a state.
    pub fn append(self, state: &mut Vec<u8>) {
        for field in [self.epoch, self.version, u64::from(self.racer), self.number] {
            state.extend(field.to_le_bytes());
        }
    }

    /// All items of a state; `None` when it is not made of items.
    pub fn read(state: &[u8]) -> Option<Vec<Self>> {
        let (items, []) = state.as_chunks::<{ Self::LENGTH }>() else { return None };
        let item = |bytes: &[u8; Self::LENGTH]| {
            let field = |at: usize| bytes[8 * at..8 * at + 8].try_into().map(u64::from_le_bytes);
            let (epoch, version) = (field(0).ok()?, field(1).ok()?);
            let racer = field(2).ok()?.try_into().ok()?;
            Some(Self { epoch, version, racer, number: field(3).ok()? })
        };
        items.iter().map(item).collect()
    }

    /// How many items such a state has.
    pub fn count(state: &[u8]) -> usize {
        state.len() / Self::LENGTH
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { epoch, version, racer, number } = self;
        write!(f, "item {number} of racer {racer} (epoch {epoch}, version {version})")
    }
}

/// A line of a racer's history.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Line {
    /// The racer owns a session.
    Claimed {
        /// Which.
        session: String,
        /// As its owner of this epoch.
        epoch: u64,
    },
    /// A save was reported as done.
    Acknowledged {
        /// Of which session.
        session: String,
        /// The newest item in it.
        item: Item,
    },
    /// The racer saw what must not be.
    Violation {
        /// In a sentence.
        text: String,
    },
    /// The end, and what the racer did.
    Ended(Deeds),
}

/// How often a racer did what. Saves and claims are counted by session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deeds {
    /// Saves that were done.
    pub saved: u64,
    /// Saves that a later owner has fenced.
    pub fenced: u64,
    /// Calls of which the racer did not wait for the answer, or that failed: sent again.
    pub repeated: u64,
    /// Saves that arrived once more, after newer ones.
    pub late: u64,
    /// Sessions claimed.
    pub claimed: u64,
    /// Sessions that another owner kept.
    pub held: u64,
    /// Sessions given up.
    pub released: u64,
    /// Sessions begun without a claim.
    pub begun: u64,
}

impl std::ops::AddAssign for Deeds {
    fn add_assign(&mut self, other: Self) {
        self.saved += other.saved;
        self.fenced += other.fenced;
        self.repeated += other.repeated;
        self.late += other.late;
        self.claimed += other.claimed;
        self.held += other.held;
        self.released += other.released;
        self.begun += other.begun;
    }
}
