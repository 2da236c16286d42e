//! Which worker owns a session: the only place where the hash appears.
//!
//! `owner(id) = siphash24(key, id) mod M`. Sessions of skipped workers (down, draining), and only
//! these, spread over the others: attempt k ≥ 1 hashes `id ‖ k` and the first attempt whose worker is
//! not skipped wins. The results are fixed for ever by `tests/vectors/placement.txt`.

use std::fmt;
use std::str::FromStr;

use siphasher::sip::SipHasher24;

use crate::id::{SessionId, WorkerIndex};

/// 16 secret bytes shared by the cluster, so that nobody can aim sessions at one worker.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PlacementKey([u8; 16]);

impl PlacementKey {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Whether this is the public default, which protects nobody.
    pub fn is_default(&self) -> bool {
        self.0 == [0; 16]
    }

    fn hash(&self, id: &SessionId, attempt: u8) -> u64 {
        let hasher = SipHasher24::new_with_key(&self.0);
        let id = id.as_str().as_bytes();
        if attempt == 0 {
            return hasher.hash(id);
        }
        let mut salted = [0; 65];
        salted[..id.len()].copy_from_slice(id);
        salted[id.len()] = attempt;
        hasher.hash(&salted[..=id.len()])
    }
}

impl fmt::Debug for PlacementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlacementKey(secret)")
    }
}

/// A text that is not a placement key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a placement key is 16 bytes as 32 hex digits")]
pub struct InvalidKey;

impl FromStr for PlacementKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidKey);
        }
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| InvalidKey)?;
        }
        Ok(Self(bytes))
    }
}

/// The function from hash and number of workers to worker index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// `hash mod M`: a change of M moves most sessions.
    #[default]
    Modulo,
    /// Jump consistent hash: a change of M to M' > M moves (M' - M) / M' of the sessions.
    Jump,
}

impl Placement {
    /// Index of the worker that owns `id` among `workers` workers of which those that `skipped` names
    /// take no sessions; `None` if there is no worker left.
    pub fn owner(
        self,
        key: &PlacementKey,
        id: &SessionId,
        workers: usize,
        skipped: impl Fn(WorkerIndex) -> bool,
    ) -> Option<WorkerIndex> {
        self.attempts(key, id, workers)
            .map(|attempt| attempt.worker)
            .find(|index| !skipped(*index))
            .or_else(|| (0..count(workers)).map(WorkerIndex).find(|index| !skipped(*index)))
    }

    /// All attempts for `id` among `workers` workers in their order: the first whose worker is not
    /// skipped names the owner, and if there is none it is the lowest index that is not skipped.
    pub fn attempts(
        self,
        key: &PlacementKey,
        id: &SessionId,
        workers: usize,
    ) -> impl Iterator<Item = Attempt> {
        let workers = count(workers);
        let numbers = (0..=u8::MAX).take_while(move |_| workers > 0);
        numbers.map(move |number| {
            let hash = key.hash(id, number);
            Attempt { number, hash, worker: WorkerIndex(self.bucket(hash, workers)) }
        })
    }

    fn bucket(self, hash: u64, workers: u16) -> u16 {
        match self {
            Self::Modulo => (hash % u64::from(workers)) as u16,
            Self::Jump => jump(hash, workers),
        }
    }
}

/// One try to find a worker for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// 0 is the session's home.
    pub number: u8,
    /// The hash of this attempt.
    pub hash: u64,
    /// The worker that it names.
    pub worker: WorkerIndex,
}

fn count(workers: usize) -> u16 {
    u16::try_from(workers).unwrap_or(u16::MAX)
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modulo => "modulo",
            Self::Jump => "jump",
        })
    }
}

/// A text that names no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a placement is \"modulo\" or \"jump\"")]
pub struct InvalidPlacement;

impl FromStr for Placement {
    type Err = InvalidPlacement;

    fn from_str(text: &str) -> Result<Self, InvalidPlacement> {
        match text {
            "modulo" => Ok(Self::Modulo),
            "jump" => Ok(Self::Jump),
            _ => Err(InvalidPlacement),
        }
    }
}

/// Jump consistent hash (Lamping and Veach, 2014), with their linear congruential step.
fn jump(mut key: u64, buckets: u16) -> u16 {
    let (mut bucket, mut next) = (0_i64, 0_i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * scale) as i64;
    }
    bucket as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PlacementKey {
        "000102030405060708090a0b0c0d0e0f".parse().unwrap()
    }

    fn ids() -> impl Iterator<Item = SessionId> {
        (0..3000).map(|i| format!("session-{i}").parse().unwrap())
    }

    fn owner(placement: Placement, id: &SessionId, workers: usize, skipped: &[u16]) -> Option<u16> {
        placement.owner(&key(), id, workers, |w| skipped.contains(&w.0)).map(|w| w.0)
    }

    #[test]
    fn only_sessions_of_skipped_workers_move_and_they_spread_over_the_others() {
        for placement in [Placement::Modulo, Placement::Jump] {
            let mut moved_to = [0; 5];
            for id in ids() {
                let home = owner(placement, &id, 5, &[]).unwrap();
                let now = owner(placement, &id, 5, &[2]).unwrap();
                if home == 2 {
                    moved_to[usize::from(now)] += 1;
                } else {
                    assert_eq!(now, home);
                }
            }
            assert_eq!(moved_to[2], 0);
            for index in [0, 1, 3, 4] {
                assert!(moved_to[index] > 90, "{placement}: {moved_to:?}");
            }
        }
    }

    #[test]
    fn no_workers_or_only_skipped_ones_own_nothing() {
        let id = "a".parse().unwrap();
        assert_eq!(owner(Placement::Modulo, &id, 0, &[]), None);
        assert_eq!(owner(Placement::Modulo, &id, 2, &[0, 1]), None);
    }

    #[test]
    fn the_last_worker_that_is_not_skipped_is_found_among_many() {
        let skipped: Vec<u16> = (0..1024).filter(|i| *i != 700).collect();
        for id in ids().take(20) {
            assert_eq!(owner(Placement::Modulo, &id, 1024, &skipped), Some(700));
        }
    }

    #[test]
    fn jump_moves_only_the_new_workers_share_when_workers_are_added() {
        let moved = ids()
            .filter(|id| {
                let (before, after) = (
                    owner(Placement::Jump, id, 4, &[]).unwrap(),
                    owner(Placement::Jump, id, 5, &[]).unwrap(),
                );
                assert!(after == before || after == 4);
                after != before
            })
            .count();
        assert!((450..750).contains(&moved), "{moved} of 3000 moved, expected about 600");
    }

    #[test]
    fn a_key_is_32_hex_digits_and_never_printed() {
        assert!("0".repeat(32).parse::<PlacementKey>().unwrap().is_default());
        for bad in ["", "00", &"g".repeat(32), &"0".repeat(33), &"é".repeat(16)] {
            assert!(bad.parse::<PlacementKey>().is_err());
        }
        assert_eq!(format!("{:?}", key()), "PlacementKey(secret)");
    }
}
