//! What the step from one topology to another means: whether gateways take it, which workers it
//! breaks, which sessions it moves. Pure.

use std::collections::HashMap;

use single_state_proto::id::{Generation, SessionId};
use single_state_proto::placement::{Placement, PlacementKey};
use single_state_proto::topology::Topology;

/// Why a topology cannot follow the one that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotNewer {
    /// The highest generation wins.
    #[error("generation {0} is lower than {1}, which is in force")]
    Lower(Generation, Generation),
    /// One number, two contents: gateways could not agree.
    #[error(
        "generation {0} is in force with another content; a changed topology needs a higher one"
    )]
    SameNumber(Generation),
}

/// Whether `next` may follow `current`; the same again may.
pub(crate) fn follows(current: &Topology, next: &Topology) -> Result<(), NotNewer> {
    let (had, has) = (current.generation(), next.generation());
    if has < had {
        Err(NotNewer::Lower(has, had))
    } else if has == had && next != current {
        Err(NotNewer::SameNumber(has))
    } else {
        Ok(())
    }
}

/// What is wrong with a list that changes elsewhere than at its end, a sentence for each worker.
pub(crate) fn in_the_middle(current: &Topology, next: &Topology) -> Vec<String> {
    let new: HashMap<&str, usize> =
        next.workers().iter().enumerate().map(|(index, address)| (&**address, index)).collect();
    let old: HashMap<&str, usize> =
        current.workers().iter().enumerate().map(|(index, address)| (&**address, index)).collect();
    let mut sentences = Vec::new();
    for (index, address) in current.workers().iter().enumerate() {
        match (new.get(&**address), next.workers().get(index)) {
            (Some(at), _) if *at == index => {}
            (Some(at), _) => sentences.push(format!(
                "{address} moves from index {index} to {at}: its links are refused until it is \
                 started with --index {at}"
            )),
            (None, Some(other)) if !old.contains_key(&**other) => sentences.push(format!(
                "index {index} is {other} in place of {address}: both would be worker {index}"
            )),
            // The one that moves here is told of; one that leaves the end is in order.
            (None, _) => {}
        }
    }
    sentences
}

/// How many of `ids` have another owner afterwards; `placement`: if that were the function in both.
pub(crate) fn moved<'a>(
    key: &PlacementKey,
    current: &Topology,
    next: &Topology,
    placement: Option<Placement>,
    ids: impl IntoIterator<Item = &'a SessionId>,
) -> usize {
    let owner = |topology: &Topology, id| {
        let placement = placement.unwrap_or(topology.placement());
        placement.owner(key, id, topology.workers().len(), |_| false)
    };
    ids.into_iter().filter(|id| owner(current, id) != owner(next, id)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(generation: u64, workers: &[&str]) -> Topology {
        let workers = workers.iter().map(|w| (*w).to_owned()).collect();
        Topology::new(Generation(generation), Placement::Modulo, workers).unwrap()
    }

    #[test]
    fn only_a_higher_generation_may_have_another_content() {
        let current = topology(2, &["a:1", "b:1"]);
        assert_eq!(follows(&current, &current.clone()), Ok(()));
        assert_eq!(follows(&current, &topology(3, &["a:1"])), Ok(()));
        let same = topology(2, &["a:1"]);
        assert_eq!(follows(&current, &same), Err(NotNewer::SameNumber(Generation(2))));
        let lower = NotNewer::Lower(Generation(1), Generation(2));
        assert_eq!(follows(&current, &topology(1, &["a:1", "b:1"])), Err(lower));
    }

    #[test]
    fn a_list_may_grow_and_shrink_at_its_end() {
        let current = topology(1, &["a:1", "b:1"]);
        for workers in [&["a:1", "b:1"][..], &["a:1", "b:1", "c:1"], &["a:1"], &[]] {
            assert_eq!(in_the_middle(&current, &topology(2, workers)), [""; 0], "{workers:?}");
        }
    }

    #[test]
    fn a_change_in_the_middle_of_the_list_names_each_worker_that_it_breaks() {
        let current = topology(1, &["a:1", "b:1", "c:1"]);
        let removed = in_the_middle(&current, &topology(2, &["a:1", "c:1"]));
        assert_eq!(removed.len(), 1, "{removed:?}");
        assert!(removed[0].starts_with("c:1 moves from index 2 to 1"), "{removed:?}");
        let replaced = in_the_middle(&current, &topology(2, &["a:1", "x:1", "c:1"]));
        assert_eq!(replaced.len(), 1, "{replaced:?}");
        assert!(replaced[0].starts_with("index 1 is x:1 in place of b:1"), "{replaced:?}");
        let turned = in_the_middle(&current, &topology(2, &["b:1", "a:1", "c:1"]));
        assert_eq!(turned.len(), 2, "{turned:?}");
        let added_first = in_the_middle(&current, &topology(2, &["x:1", "a:1", "b:1", "c:1"]));
        assert_eq!(added_first.len(), 3, "{added_first:?}");
    }

    #[test]
    fn a_fourth_worker_moves_three_quarters_of_the_sessions_or_with_jump_one() {
        let ids: Vec<SessionId> = (0..4000).map(|i| format!("s{i}").parse().unwrap()).collect();
        let (three, four) =
            (topology(1, &["a:1", "b:1", "c:1"]), topology(2, &["a:1", "b:1", "c:1", "d:1"]));
        let moved = |placement| moved(&PlacementKey::default(), &three, &four, placement, &ids);
        assert!((2800..3200).contains(&moved(None)), "{}", moved(None));
        let jump = moved(Some(Placement::Jump));
        assert!((850..1150).contains(&jump), "{jump}");
    }
}
