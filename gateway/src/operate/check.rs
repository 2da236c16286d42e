//! `topology check`: what a topology would change for a gateway that has another one.

use std::io::{self, Write};

use serde::Serialize;
use single_state_proto::id::SessionId;
use single_state_proto::placement::{Placement, PlacementKey};
use single_state_proto::topology::Topology;

use crate::topology::change;

/// So many ids are tried to estimate which share of all sessions moves.
const TRIED: usize = 10_000;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    /// The topology in words.
    #[serde(skip)]
    summary: String,
    generation: u64,
    workers: usize,
    /// What it would change; absent without a gateway to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    #[serde(skip)]
    running: String,
    from_generation: u64,
    from_workers: usize,
    same: bool,
    /// Why gateways would not take it.
    refused: Option<String>,
    /// Workers that it would break.
    broken: Vec<String>,
    /// Addresses that come and go, by their indexes.
    added: Vec<String>,
    removed: Vec<String>,
    moved: Moved,
}

/// Sessions of those tried that would have another owner.
#[derive(Debug, Serialize)]
struct Moved {
    tried: usize,
    moved: usize,
    /// If the placement were this one before and after.
    with_modulo: usize,
    with_jump: usize,
}

impl Checked {
    pub(super) fn new(next: &Topology, running: Option<&Topology>, key: &PlacementKey) -> Self {
        Self {
            summary: super::summary(next),
            generation: next.generation().0,
            workers: next.workers().len(),
            change: running.map(|running| Change::new(running, next, key)),
        }
    }

    /// Whether it would be taken, and break nothing.
    pub(super) fn is_good(&self) -> bool {
        let is_good = |change: &Change| change.refused.is_none() && change.broken.is_empty();
        self.change.as_ref().is_none_or(is_good)
    }

    /// For people.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "valid: {}", self.summary)?;
        self.change.as_ref().map_or(Ok(()), |change| change.write(out))
    }
}

impl Change {
    fn new(running: &Topology, next: &Topology, key: &PlacementKey) -> Self {
        let refused = change::follows(running, next).err().map(|refused| refused.to_string());
        let absent_in = |topology: &Topology, other: &Topology| -> Vec<String> {
            let is_absent = |address: &&String| !topology.workers().contains(address);
            other.workers().iter().filter(is_absent).cloned().collect()
        };
        Self {
            running: super::summary(running),
            from_generation: running.generation().0,
            from_workers: running.workers().len(),
            same: running == next,
            refused,
            broken: change::in_the_middle(running, next),
            added: absent_in(running, next),
            removed: absent_in(next, running),
            moved: Moved::new(running, next, key),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "the gateway has: {}", self.running)?;
        match &self.refused {
            _ if self.same => return writeln!(out, "the same: nothing changes"),
            Some(sentence) => writeln!(out, "REFUSED: {sentence}")?,
            None => writeln!(out, "it would be taken")?,
        }
        for sentence in &self.broken {
            writeln!(out, "BROKEN: lists of workers change only at their end: {sentence}")?;
        }
        for address in &self.added {
            writeln!(out, "added: {address}")?;
        }
        for address in &self.removed {
            writeln!(out, "removed: {address}")?;
        }
        self.moved.write(out)
    }
}

impl Moved {
    fn new(running: &Topology, next: &Topology, key: &PlacementKey) -> Self {
        let ids: Vec<SessionId> =
            (0..TRIED).filter_map(|i| format!("session-{i}").parse().ok()).collect();
        let moved = |placement| change::moved(key, running, next, placement, &ids);
        Self {
            tried: ids.len(),
            moved: moved(None),
            with_modulo: moved(Some(Placement::Modulo)),
            with_jump: moved(Some(Placement::Jump)),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let percent = |moved: usize| 100.0 * moved as f64 / self.tried as f64;
        writeln!(
            out,
            "moved: about {:.1}% of the sessions (modulo throughout: {:.1}%, jump throughout: {:.1}%)",
            percent(self.moved),
            percent(self.with_modulo),
            percent(self.with_jump)
        )
    }
}

#[cfg(test)]
mod tests {
    use single_state_proto::id::Generation;

    use super::*;

    fn topology(generation: u64, workers: &[&str]) -> Topology {
        let workers = workers.iter().map(|w| (*w).to_owned()).collect();
        Topology::new(Generation(generation), Placement::Modulo, workers).unwrap()
    }

    fn checked(running: &Topology, next: &Topology) -> (bool, String) {
        let checked = Checked::new(next, Some(running), &PlacementKey::default());
        let mut text = Vec::new();
        checked.write(&mut text).unwrap();
        (checked.is_good(), String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_higher_generation_with_more_workers_is_good_and_moves_a_share() {
        let running = topology(1, &["a:1", "b:1", "c:1"]);
        let (good, text) = checked(&running, &topology(2, &["a:1", "b:1", "c:1", "d:1"]));
        assert!(good, "{text}");
        for part in ["it would be taken\n", "added: d:1\n", "moved: about 7", "jump throughout: 2"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn what_a_gateway_would_refuse_or_break_by_is_not_good() {
        let running = topology(2, &["a:1", "b:1"]);
        for (next, part) in [
            (topology(1, &["a:1", "b:1"]), "REFUSED: generation 1 is lower than 2"),
            (topology(2, &["a:1"]), "REFUSED: generation 2 is in force with another content"),
            (topology(3, &["b:1"]), "BROKEN: lists of workers change only at their end: b:1 moves"),
        ] {
            let (good, text) = checked(&running, &next);
            assert!(!good && text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_same_topology_changes_nothing() {
        let running = topology(2, &["a:1"]);
        let (good, text) = checked(&running, &running.clone());
        assert!(good && text.ends_with("the same: nothing changes\n"), "{text}");
    }
}
