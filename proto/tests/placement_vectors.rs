//! The crate agrees with `tests/vectors/`, which an independent implementation made.

use std::cell::Cell;
use std::path::Path;

use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::placement::{Placement, PlacementKey};

/// Numbers of workers whose least common multiple is above 2^64: two hashes that agree modulo all of
/// them are equal. The raw hash is not public; this way it is seen all the same.
const MODULI: [u16; 5] = [65535, 65533, 65521, 65519, 65497];

/// Calls `check` with the fields of each line; says in a panic which line it was.
fn for_each_line<const FIELDS: usize>(file: &str, check: impl Fn([&str; FIELDS]) -> bool) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(file);
    let text = std::fs::read_to_string(&path).expect("read the vectors");
    let mut lines = 0;
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<_> = line.split(' ').collect();
        let fields = fields.try_into().expect("the number of fields that README.md names");
        assert!(check(fields), "{file}:{}: {line}", number + 1);
        lines += 1;
    }
    lines
}

#[test]
fn every_session_has_the_owner_that_the_vectors_name() {
    let lines = for_each_line("placement.txt", |[key, placement, workers, skipped, id, owner]| {
        let key: PlacementKey = key.parse().unwrap();
        let placement: Placement = placement.parse().unwrap();
        let id: SessionId = id.parse().unwrap();
        let skipped: Vec<u16> = match skipped {
            "-" => Vec::new(),
            list => list.split(',').map(|index| index.parse().unwrap()).collect(),
        };
        let found = placement
            .owner(&key, &id, workers.parse().unwrap(), |index| skipped.contains(&index.0));
        found == Some(WorkerIndex(owner.parse().unwrap()))
    });
    assert!(lines > 700, "{lines} lines are not all of them");
}

#[test]
fn every_attempt_has_the_hash_that_the_vectors_name() {
    let lines = for_each_line("siphash.txt", |[key, id, attempt, hash]| {
        let key: PlacementKey = key.parse().unwrap();
        let id: SessionId = id.parse().unwrap();
        let attempt: u32 = attempt.parse().unwrap();
        let hash = u64::from_str_radix(hash, 16).unwrap();
        MODULI.iter().all(|&workers| {
            // Each attempt asks once whether its worker is skipped: say yes until the wanted one.
            let asked = Cell::new(0);
            let found = Placement::Modulo
                .owner(&key, &id, workers.into(), |_| asked.replace(asked.get() + 1) < attempt);
            found == Some(WorkerIndex((hash % u64::from(workers)) as u16))
        })
    });
    assert!(lines > 200, "{lines} lines are not all of them");
}
