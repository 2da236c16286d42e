//! What will happen, and in which order: a function of the seed alone, so that a seed replays it. How
//! long the machine takes for each step is not in it.

use std::time::Duration;

use fastrand::Rng;

use crate::nemesis::kind::Kind;

/// About one fault in so long: 214 in ten minutes.
const EACH_MS: u64 = 2800;
/// Of so many faults that leave time for another one, one gets one.
const PAIRED: u32 = 3;
/// Between two faults it is quiet for so long, at least and at most.
const REST_MS: (u64, u64) = (200, 1000);
/// After so many faults it is quiet for longer.
const QUIET_AFTER: usize = 40;
const QUIET_MS: u64 = 4000;
/// Numbers of workers, and the ones that come first.
const SIZES: std::ops::RangeInclusive<usize> = 1..=5;
const FIRST_SIZES: [usize; 3] = [3, 5, 2];
const GATEWAYS: usize = 2;

/// One fault to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) lasts_ms: u64,
    /// Which gateway and which worker it hits, if it hits one.
    pub(crate) gateway: usize,
    pub(crate) worker: usize,
    /// How many workers there are from then on.
    pub(crate) size: usize,
    /// What else is to be chosen.
    pub(crate) dice: u64,
}

/// A fault, and perhaps another one while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    pub(crate) fault: Fault,
    pub(crate) within: Option<Fault>,
    /// So long it is quiet afterwards.
    pub(crate) rest_ms: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) episodes: Vec<Episode>,
    /// The number of workers at first and after each change of it.
    pub(crate) sizes: Vec<usize>,
}

impl Schedule {
    /// The schedule of a seed.
    pub(crate) fn of(seed: u64, duration: Duration, kinds: &[Kind]) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = (duration.as_millis() as u64 / EACH_MS).max(1) as usize;
        let mut deck = deal(&mut rng, count, kinds);
        // The one that comes next is the last.
        deck.reverse();
        let mut sizes = vec![FIRST_SIZES[0]];
        let mut episodes = Vec::new();
        let mut since_quiet = 0;
        while let Some(kind) = deck.pop() {
            let fault = Fault::draw(&mut rng, kind, &mut sizes);
            let is_paired = kind.leaves_time() && rng.u32(0..PAIRED) == 0;
            let fits = |other: &Kind| other.is_light() && other.part() != kind.part();
            let other = deck.iter().rposition(fits).filter(|_| is_paired).map(|at| deck.remove(at));
            let within = other.map(|kind| Fault::draw(&mut rng, kind, &mut sizes));
            since_quiet += 1 + usize::from(within.is_some());
            let mut rest_ms = rng.u64(REST_MS.0..=REST_MS.1);
            if since_quiet >= QUIET_AFTER {
                (since_quiet, rest_ms) = (0, QUIET_MS);
            }
            episodes.push(Episode { fault, within, rest_ms });
        }
        Self { episodes, sizes }
    }

    /// All faults, in their order.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.episodes
            .iter()
            .flat_map(|episode| [Some(&episode.fault), episode.within.as_ref()])
            .flatten()
    }
}

/// So many kinds, as from shuffled decks of cards: each comes as often as any other, or once more.
fn deal(rng: &mut Rng, count: usize, kinds: &[Kind]) -> Vec<Kind> {
    let mut dealt = Vec::new();
    while dealt.len() < count && !kinds.is_empty() {
        let mut deck = kinds.to_vec();
        rng.shuffle(&mut deck);
        dealt.extend(deck);
    }
    dealt.truncate(count);
    dealt
}

impl Fault {
    fn draw(rng: &mut Rng, kind: Kind, sizes: &mut Vec<usize>) -> Self {
        let (least, most) = kind.lasts();
        let (lasts_ms, dice) = (rng.u64(least..=most), rng.u64(..));
        let gateway = rng.usize(0..GATEWAYS);
        let now = *sizes.last().unwrap_or(&FIRST_SIZES[0]);
        let worker = rng.usize(0..now);
        let others: Vec<_> = SIZES.filter(|size| *size != now).collect();
        let drawn = others[rng.usize(0..others.len())];
        let size = match kind {
            Kind::Reshard => FIRST_SIZES.get(sizes.len()).copied().unwrap_or(drawn),
            _ => now,
        };
        if size != now {
            sizes.push(size);
        }
        Self { kind, lasts_ms, gateway, worker, size, dice }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::nemesis::config::Store;

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    fn kinds(store: Store) -> Vec<Kind> {
        Kind::ALL.iter().copied().filter(|kind| kind.is_of(store)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        let of = |seed| Schedule::of(seed, TEN_MINUTES, &kinds(Store::Postgres));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7).episodes, of(8).episodes);
    }

    #[test]
    fn ten_minutes_have_200_faults_and_each_kind_five_times() {
        for store in [Store::Sqlite, Store::Postgres] {
            for seed in 0..20 {
                let schedule = Schedule::of(seed, TEN_MINUTES, &kinds(store));
                let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
                schedule.faults().for_each(|fault| *counts.entry(fault.kind).or_default() += 1);
                let all: usize = counts.values().sum();
                assert!(all >= 200, "{all} faults");
                for kind in kinds(store) {
                    let count = counts.get(&kind).copied().unwrap_or(0);
                    assert!(count >= 5, "{} comes {count} times", kind.name());
                }
            }
        }
    }

    #[test]
    fn the_number_of_workers_goes_from_3_to_5_to_2_and_on_and_each_fault_hits_one_that_is_there() {
        let schedule = Schedule::of(1, TEN_MINUTES, &kinds(Store::Sqlite));
        assert_eq!(schedule.sizes[..3], FIRST_SIZES);
        assert!(schedule.sizes.windows(2).all(|pair| pair[0] != pair[1]));
        for fault in schedule.faults() {
            let before = if fault.kind == Kind::Reshard { *SIZES.end() } else { fault.size };
            assert!(fault.worker < before && fault.gateway < GATEWAYS, "{fault:?}");
        }
    }

    #[test]
    fn two_faults_at_a_time_touch_different_things() {
        let schedule = Schedule::of(3, TEN_MINUTES, &kinds(Store::Postgres));
        let pairs = schedule.episodes.iter().filter_map(|both| Some((both.fault, both.within?)));
        let pairs: Vec<_> = pairs.collect();
        assert!(pairs.len() > 10, "{} pairs", pairs.len());
        assert!(pairs.iter().all(|(one, other)| one.kind.part() != other.kind.part()));
    }
}
