//! Where sessions belong, as gateways have told: the newest topology, and the workers that each
//! linked gateway passes over. Pure: knows no links but by their numbers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use single_state_proto::frame::Skipped;
use single_state_proto::id::{Generation, SessionId, WorkerIndex};
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;
use tokio::sync::Notify;

/// What this worker knows of its cluster.
#[derive(Debug)]
pub(crate) struct Map {
    key: PlacementKey,
    /// This worker's own.
    index: WorkerIndex,
    topology: RefCell<Option<Topology>>,
    /// By gateway.
    views: RefCell<BTreeMap<GatewayNumber, Skipped>>,
    last: Cell<u64>,
    /// There is a newer topology.
    pub(crate) changed: Notify,
}

/// Names a linked gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GatewayNumber(u64);

/// What a topology was to one who may know another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learned {
    /// It is the newest.
    Newer,
    /// It was known.
    Same,
    /// A newer one is known.
    Older,
    /// Another one of the same generation is known: one of the two is a mistake (R4).
    Differs,
}

impl Map {
    pub(crate) fn new(key: PlacementKey, index: WorkerIndex) -> Self {
        let (topology, views, last) = Default::default();
        Self { key, index, topology, views, last, changed: Notify::new() }
    }

    // --- the topology ---------------------------------------------------------------------------

    /// Takes a topology if it is newer than what is known.
    pub(crate) fn learn(&self, topology: Topology) -> Learned {
        let mut known = self.topology.borrow_mut();
        if let Some(known) = known.as_ref() {
            match known.generation().cmp(&topology.generation()) {
                std::cmp::Ordering::Greater => return Learned::Older,
                std::cmp::Ordering::Equal if *known == topology => return Learned::Same,
                std::cmp::Ordering::Equal => return Learned::Differs,
                std::cmp::Ordering::Less => {}
            }
        }
        *known = Some(topology);
        self.changed.notify_one();
        Learned::Newer
    }

    /// Of the newest topology; 0 while none is known.
    pub(crate) fn generation(&self) -> Generation {
        self.topology.borrow().as_ref().map_or(Generation(0), Topology::generation)
    }

    /// The topology that somebody who knows only `generation` should hear of.
    pub(crate) fn newer_than(&self, generation: Generation) -> Option<Topology> {
        self.topology.borrow().as_ref().filter(|known| known.generation() > generation).cloned()
    }

    // --- placement ------------------------------------------------------------------------------

    /// Whether placement gives this worker a session while `skipped` take none. Where nothing can be
    /// judged, because no topology is known or `generation` is newer than the known one, it does.
    pub(crate) fn is_placed_here(
        &self,
        session: &SessionId,
        generation: Generation,
        skipped: &Skipped,
    ) -> bool {
        self.generation() != generation
            || self.owner(session, skipped).is_none_or(|index| index == self.index)
    }

    /// Whether the session is this worker's as all gateways see it; `None` while no topology is
    /// known.
    pub(crate) fn belongs_here(&self, session: &SessionId, skipped: &Skipped) -> Option<bool> {
        self.topology.borrow().as_ref()?;
        Some(self.owner(session, skipped) == Some(self.index))
    }

    /// Whether this worker is the session's first choice.
    pub(crate) fn is_home(&self, session: &SessionId) -> bool {
        self.owner(session, &Skipped::default()) == Some(self.index)
    }

    fn owner(&self, session: &SessionId, skipped: &Skipped) -> Option<WorkerIndex> {
        let topology = self.topology.borrow();
        topology.as_ref()?.owner(&self.key, session, |index| skipped.contains(index))
    }

    // --- what gateways pass over ----------------------------------------------------------------

    /// A gateway is linked, and passes over nobody until it says so.
    pub(crate) fn linked(&self) -> GatewayNumber {
        let number = GatewayNumber(self.last.get() + 1);
        self.last.set(number.0);
        self.views.borrow_mut().insert(number, Skipped::default());
        number
    }

    /// It passes over these now.
    pub(crate) fn passes_over(&self, gateway: GatewayNumber, skipped: Skipped) {
        if let Some(view) = self.views.borrow_mut().get_mut(&gateway) {
            *view = skipped;
        }
    }

    /// It is not linked any more.
    pub(crate) fn unlinked(&self, gateway: GatewayNumber) {
        self.views.borrow_mut().remove(&gateway);
    }

    /// What all linked gateways agree on: a worker is down when all call it so, and passed over when
    /// none would use it. Without gateways nobody is.
    pub(crate) fn skipped(&self) -> Skipped {
        let views = self.views.borrow();
        let Some(first) = views.values().next() else { return Skipped::default() };
        let all = first.down.iter().chain(&first.passed_over).copied();
        let all = all.filter(|index| views.values().all(|view| view.contains(*index)));
        let is_down = |index: &WorkerIndex| views.values().all(|view| view.down.contains(index));
        let (down, passed_over) = all.partition(is_down);
        Skipped { down, passed_over }
    }
}

#[cfg(test)]
mod tests {
    use single_state_proto::placement::Placement;

    use super::*;

    fn map() -> Map {
        Map::new(PlacementKey::default(), WorkerIndex(0))
    }

    fn topology(generation: u64, workers: usize) -> Topology {
        let workers = (0..workers).map(|n| format!("worker-{n}:7000")).collect();
        Topology::new(Generation(generation), Placement::Modulo, workers).unwrap()
    }

    fn skipped(down: &[u16], passed_over: &[u16]) -> Skipped {
        let list = |list: &[u16]| list.iter().copied().map(WorkerIndex).collect();
        Skipped { down: list(down), passed_over: list(passed_over) }
    }

    /// Sessions that belong to the worker at `index` of two.
    fn session_of(index: u16) -> SessionId {
        let two = topology(1, 2);
        let mut ids = (0..).map(|n| format!("session-{n}").parse().unwrap());
        ids.find(|id| {
            two.owner(&PlacementKey::default(), id, |_| false) == Some(WorkerIndex(index))
        })
        .unwrap()
    }

    #[test]
    fn the_newest_topology_is_kept_and_two_of_one_generation_are_told_apart() {
        let map = map();
        assert_eq!(map.generation(), Generation(0));
        assert_eq!(map.learn(topology(5, 2)), Learned::Newer);
        assert_eq!(map.learn(topology(5, 2)), Learned::Same);
        assert_eq!(map.learn(topology(5, 3)), Learned::Differs);
        assert_eq!(map.learn(topology(4, 3)), Learned::Older);
        assert_eq!(map.newer_than(Generation(5)), None);
        assert_eq!(map.newer_than(Generation(4)), Some(topology(5, 2)));
        assert_eq!(map.learn(topology(6, 3)), Learned::Newer);
    }

    #[test]
    fn a_session_is_placed_by_the_topology_and_by_who_is_skipped() {
        let (map, mine, theirs) = (map(), session_of(0), session_of(1));
        let none = Skipped::default();
        assert!(map.is_placed_here(&theirs, Generation(1), &none), "nothing is known yet");
        assert_eq!(map.belongs_here(&theirs, &none), None);
        map.learn(topology(1, 2));
        assert!(map.is_placed_here(&mine, Generation(1), &none));
        assert!(!map.is_placed_here(&theirs, Generation(1), &none));
        assert!(map.is_placed_here(&theirs, Generation(1), &skipped(&[1], &[])));
        assert!(map.is_placed_here(&theirs, Generation(1), &skipped(&[], &[1])));
        assert!(!map.is_placed_here(&mine, Generation(1), &skipped(&[], &[0])));
        assert!(map.is_placed_here(&theirs, Generation(2), &none), "a newer one may say so");
        assert!(map.is_home(&mine) && !map.is_home(&theirs));
    }

    #[test]
    fn a_worker_is_down_when_all_linked_gateways_call_it_down() {
        let map = map();
        assert_eq!(map.skipped(), Skipped::default());
        let (one, other) = (map.linked(), map.linked());
        map.passes_over(one, skipped(&[1, 2], &[3]));
        assert_eq!(map.skipped(), Skipped::default(), "the other one uses them");
        map.passes_over(other, skipped(&[1, 4], &[2, 3]));
        assert_eq!(map.skipped(), skipped(&[1], &[2, 3]));
        map.unlinked(other);
        assert_eq!(map.skipped(), skipped(&[1, 2], &[3]));
        map.unlinked(one);
        assert_eq!(map.skipped(), Skipped::default());
    }
}
