//! Takes or refuses what a source offers, and says why, once.

use single_state_proto::topology::Topology;

use super::Offer;
use super::change::{follows, in_the_middle};

/// Knows the topology in force, and what it said last.
#[derive(Debug, Default)]
pub(super) struct Judge {
    current: Option<Topology>,
    told: Option<String>,
}

impl Judge {
    /// The topology that is in force from now on, if that is another one.
    pub(super) fn take(&mut self, offer: Offer) -> Option<Topology> {
        match offer.and_then(|next| self.accept(next)) {
            Ok(taken) => {
                self.told = None;
                taken
            }
            Err(sentence) => {
                self.refuse(sentence);
                None
            }
        }
    }

    fn accept(&mut self, next: Topology) -> Result<Option<Topology>, String> {
        if let Some(current) = &self.current {
            if *current == next {
                return Ok(None);
            }
            follows(current, &next).map_err(|refused| format!("--topology: {refused}"))?;
            for sentence in in_the_middle(current, &next) {
                tracing::error!("lists of workers change only at their end: {sentence}");
            }
        }
        let (generation, workers) = (next.generation().0, next.workers().len());
        tracing::info!(topology.generation = generation, topology.workers = workers, "topology");
        self.current = Some(next.clone());
        Ok(Some(next))
    }

    /// A source that stays wrong is looked at again and again, but heard of only once.
    fn refuse(&mut self, sentence: String) {
        if self.told.as_ref() == Some(&sentence) {
            return;
        }
        match &self.current {
            Some(current) => {
                tracing::error!("{sentence}; generation {} stays", current.generation());
            }
            None => tracing::error!("{sentence}; there is no topology yet"),
        }
        self.told = Some(sentence);
    }
}

#[cfg(test)]
mod tests {
    use single_state_proto::id::Generation;
    use single_state_proto::placement::Placement;

    use super::*;

    fn offer(generation: u64, workers: &[&str]) -> Offer {
        let workers = workers.iter().map(|w| (*w).to_owned()).collect();
        Ok(Topology::new(Generation(generation), Placement::Modulo, workers).unwrap())
    }

    #[test]
    fn what_is_wrong_or_not_newer_leaves_the_last_good_one_in_force() {
        let mut judge = Judge::default();
        assert!(judge.take(Err("half written".to_owned())).is_none());
        assert!(judge.take(offer(2, &["a:1"])).is_some());
        assert!(judge.take(offer(2, &["a:1"])).is_none(), "the same again is no change");
        for wrong in [Err("gone".to_owned()), offer(1, &["a:1"]), offer(2, &["a:1", "b:1"])] {
            assert!(judge.take(wrong.clone()).is_none(), "{wrong:?}");
            assert!(judge.told.is_some(), "{wrong:?}");
        }
        let taken = judge.take(offer(3, &["a:1", "b:1"])).unwrap();
        assert_eq!((taken.generation(), &judge.told), (Generation(3), &None));
    }

    #[test]
    fn the_generation_may_rise_without_a_change_and_without_workers() {
        let mut judge = Judge::default();
        for (generation, workers) in [(1, &["a:1"][..]), (2, &["a:1"]), (3, &[]), (9, &["a:1"])] {
            assert!(judge.take(offer(generation, workers)).is_some(), "{generation}");
        }
    }
}
