//! Owners that claim and save in any order, with saves that arrive late, twice or never. Judged by
//! what workers were told, not by a copy of the store's rules:
//!
//! - epochs of a session never repeat and rise;
//! - what was acknowledged is in every later state;
//! - only an owner that was robbed is fenced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use single_state_proto::id::{Epoch, SessionId};
use single_state_store::{Guards, Save, Saved, Version};

use crate::place::{Place, Worker, id, save};

const SEEDS: u64 = 16;
const STEPS: usize = 60;

/// Small, and the same everywhere: a seed that failed is run again by its number.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Which save made a state. Commits rise in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mark {
    epoch: Epoch,
    version: Version,
}

impl Mark {
    fn of(save: &Save) -> Self {
        Self { epoch: save.epoch, version: save.version }
    }

    fn state(self) -> String {
        format!("{} {}", self.epoch, self.version.0)
    }

    fn read(state: &Bytes) -> Result<Self> {
        let text = std::str::from_utf8(state)?;
        let Some((epoch, version)) = text.split_once(' ') else { return Ok(Self::default()) };
        Ok(Self { epoch: Epoch(epoch.parse()?), version: Version(version.parse()?) })
    }
}

/// One worker's view of the session.
struct Player {
    worker: Worker,
    at: Option<Mark>,
}

impl Player {
    /// Its next snapshot.
    fn next(&mut self, session: &SessionId) -> Option<Save> {
        let at = self.at.as_mut()?;
        at.version.0 += 1;
        Some(save(session, at.epoch, at.version.0, at.state()))
    }
}

struct Game {
    session: SessionId,
    players: Vec<Player>,
    /// Saves that are on their way, and may arrive again.
    sent: Vec<(usize, Save)>,
    owner: Epoch,
    acknowledged: Mark,
}

impl Game {
    async fn claim(&mut self, player: usize) -> Result<()> {
        let row = self.players[player].worker.take(&self.session).await?;
        ensure!(row.epoch > self.owner, "epoch {} after {}", row.epoch, self.owner);
        let found = Mark::read(&row.state.context("short states come along")?)?;
        ensure!(found >= self.acknowledged, "{found:?} after {:?}", self.acknowledged);
        self.owner = row.epoch;
        self.players[player].at = Some(Mark { epoch: row.epoch, version: row.version });
        Ok(())
    }

    async fn deliver(&mut self, player: usize, save: Save) -> Result<()> {
        let mark = Mark::of(&save);
        let worker = &self.players[player].worker;
        match worker.save_one(save).await? {
            Saved::Done => {
                ensure!(mark.epoch == self.owner, "{mark:?} is done beside {}", self.owner);
                self.acknowledged = self.acknowledged.max(mark);
            }
            Saved::Fenced => {
                ensure!(mark.epoch < self.owner, "{mark:?} of the owner is fenced");
                // It may be a save of long ago, of an owner that has claimed anew since.
                let player = &mut self.players[player];
                player.at = player.at.filter(|at| at.epoch != mark.epoch);
            }
            Saved::Regressed => bail!("{mark:?} regressed"),
        }
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        let (listed, state) = self.players[0].worker.look(&self.session).await?;
        let found = Mark::read(&state)?;
        ensure!(found >= self.acknowledged, "{found:?} after {:?}", self.acknowledged);
        ensure!(found.version == listed.version, "{found:?} is {:?}", listed.version);
        Ok(())
    }

    async fn step(&mut self, random: &mut Random) -> Result<()> {
        let player = random.below(self.players.len());
        match random.below(8) {
            0 => self.claim(player).await,
            1..=3 => match self.players[player].next(&self.session.clone()) {
                Some(save) => {
                    self.sent.push((player, save.clone()));
                    self.deliver(player, save).await
                }
                None => Ok(()),
            },
            // Sent, and for the moment not arriving.
            4 | 5 => {
                let save = self.players[player].next(&self.session.clone());
                self.sent.extend(save.map(|save| (player, save)));
                Ok(())
            }
            _ if self.sent.is_empty() => Ok(()),
            _ => {
                let (player, save) = self.sent[random.below(self.sent.len())].clone();
                self.deliver(player, save).await
            }
        }
    }
}

/// Plays until something is wrong, or to the end of all seeds.
async fn play(place: &Place, guards: Guards) -> Result<()> {
    let workers = [place.unguarded(1, guards).await?, place.unguarded(2, guards).await?];
    for seed in 1..=SEEDS {
        let players = workers.iter().cloned().map(|worker| Player { worker, at: None }).collect();
        let mut game = Game {
            session: id(&format!("seed-{seed}")),
            players,
            sent: Vec::new(),
            owner: Epoch(0),
            acknowledged: Mark::default(),
        };
        let mut random = Random::new(seed);
        game.claim(0).await?;
        for step in 0..STEPS {
            let wrong = || format!("seed {seed}, step {step}");
            game.step(&mut random).await.with_context(wrong)?;
            game.check().await.with_context(wrong)?;
        }
    }
    Ok(())
}

pub(crate) async fn two_owners_in_any_order_lose_nothing_that_was_acknowledged(
    place: &Place,
) -> Result<()> {
    play(place, Guards::default()).await
}

pub(crate) async fn without_the_epoch_an_earlier_owner_overwrites_and_this_is_seen(
    place: &Place,
) -> Result<()> {
    let found = play(place, Guards { epoch: false, version: true }).await;
    ensure!(found.is_err(), "nobody noticed");
    Ok(())
}

pub(crate) async fn without_the_version_a_late_save_overwrites_and_this_is_seen(
    place: &Place,
) -> Result<()> {
    let found = play(place, Guards { epoch: true, version: false }).await;
    ensure!(found.is_err(), "nobody noticed");
    Ok(())
}

/// What all threads know: it is read before a call and changed after it.
#[derive(Default)]
struct Known {
    acknowledged: Mutex<BTreeMap<SessionId, Mark>>,
    epochs: Mutex<BTreeSet<(SessionId, Epoch)>>,
}

impl Known {
    fn acknowledged(&self, session: &SessionId) -> Mark {
        *self.marks().entry(session.clone()).or_default()
    }

    fn acknowledge(&self, session: SessionId, mark: Mark) {
        let mut marks = self.marks();
        let newest = marks.entry(session).or_default();
        *newest = mark.max(*newest);
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<SessionId, Mark>> {
        self.acknowledged.lock().expect("no thread panics")
    }

    /// Whether nobody had this epoch before.
    fn is_new(&self, session: &SessionId, epoch: Epoch) -> bool {
        self.epochs.lock().expect("no thread panics").insert((session.clone(), epoch))
    }
}

async fn race_one(place: &Place, index: u16, guards: Guards, known: &Known) -> Result<()> {
    let worker = place.unguarded(index, guards).await?;
    let mut random = Random::new(u64::from(index) + 1);
    let mut late: Vec<Save> = Vec::new();
    for _ in 0..40 {
        let session = id(&format!("race-{}", random.below(3)));
        let before = known.acknowledged(&session);
        let row = worker.take(&session).await?;
        let found = Mark::read(&row.state.context("short states come along")?)?;
        ensure!(found >= before, "{session}: {found:?} after {before:?}");
        ensure!(known.is_new(&session, row.epoch), "{session}: epoch {} twice", row.epoch);
        let versions = (row.version.0 + 1..=row.version.0 + 3).map(|version| {
            let mark = Mark { epoch: row.epoch, version: Version(version) };
            save(&session, mark.epoch, version, mark.state())
        });
        let mut saves: Vec<Save> = versions.collect();
        // The second one arrives late, if at all.
        late.push(saves.remove(1));
        saves.extend((random.below(2) == 0).then(|| late.swap_remove(random.below(late.len()))));
        for save in saves {
            let (session, mark) = (save.session.clone(), Mark::of(&save));
            if worker.save_one(save).await? == Saved::Done {
                known.acknowledge(session, mark);
            }
        }
    }
    for session in (0..3).map(|n| id(&format!("race-{n}"))) {
        let before = known.acknowledged(&session);
        // Not every session need have been drawn.
        let Some((_, state)) = worker.store.show(&session).await? else { continue };
        ensure!(Mark::read(&state)? >= before, "{session}: {before:?} is gone");
    }
    Ok(())
}

fn race(place: &Place, guards: Guards) -> Result<()> {
    let known = Known::default();
    let (url, settings) = (place.url(), place.settings());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let (known, settings) = (&known, settings.clone());
                scope.spawn(move || {
                    let place = Place::again(url, &settings);
                    crate::place::block_on(race_one(&place, index, guards, known))
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        for result in results {
            result.expect("no thread panics")?;
        }
        Ok(())
    })
}

pub(crate) async fn owners_on_several_threads_lose_nothing_that_was_acknowledged(
    place: &Place,
) -> Result<()> {
    race(place, Guards::default())
}

pub(crate) async fn without_guards_owners_on_several_threads_lose_something_and_this_is_seen(
    place: &Place,
) -> Result<()> {
    ensure!(race(place, Guards { epoch: false, version: false }).is_err(), "nobody noticed");
    Ok(())
}
