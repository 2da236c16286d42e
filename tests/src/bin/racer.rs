//! One of several owners that fight for the same sessions, through the store's public functions
//! alone: claims by force, late and repeated saves, answers that nobody waits for. It writes down
//! what it was told; `tests/tests/racing.rs` starts six of them and judges.
//!
//! Each session is a list. A racer appends its own numbers 1, 2, 3 … to it, one with each save; when
//! it takes the session again it goes on after the last one that it finds, as inputs that are not
//! acknowledged come again.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use single_state_faults::{self as faults, Process};
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};
use single_state_store::{
    Claim, Claimed, Manners, Owner, Row, Save, Saved, Settings, SharedStore, StoreError, Version,
    fresh_epoch, open,
};
use single_state_tests::DEADLINE;
use single_state_tests::history::{Deeds, Item, Line};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

/// Calls under way at a time.
const LANES: usize = 4;
/// A session with so many items is full, and the next one takes its place: states stay short.
const FULL: usize = 256;
/// Most sessions of one save.
const BATCH: usize = 32;
/// Saves come again, or are kept back, for up to so many milliseconds.
const LATE: usize = 40;

/// Claims and saves sessions beside others that do the same.
#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    store: String,
    /// Which of the racers this is, from 0; it is also its index as a worker.
    #[arg(long)]
    racer: u16,
    #[arg(long)]
    racers: u16,
    #[arg(long)]
    seconds: u64,
    /// Sessions to fight for at a time.
    #[arg(long, default_value = "200")]
    sessions: usize,
    #[arg(long)]
    history: PathBuf,
}

/// One place in memory, for one session after the other.
#[derive(Default)]
struct Slot {
    round: usize,
    owned: Option<Owned>,
    /// A call about it is under way.
    busy: bool,
    /// Number of this racer's newest item that was acknowledged.
    acknowledged: u64,
}

/// A session as its owner has it.
struct Owned {
    epoch: Epoch,
    version: Version,
    state: Vec<u8>,
    /// Number of this racer's newest item in it.
    applied: u64,
    has_row: bool,
}

struct Racer {
    args: Args,
    store: SharedStore,
    owner: Owner,
    slots: RefCell<Vec<Slot>>,
    history: RefCell<BufWriter<File>>,
    deeds: Cell<Deeds>,
    random: Cell<u64>,
    ends_at: Instant,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if faults::start(Process::Worker).is_err() {
        bail!("there is no such mistake");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let racer = Rc::new(Racer::new(args)?);
        racer.repeat(async || racer.store.prepare().await).await?;
        let lanes = (0..LANES).map(|_| tokio::task::spawn_local(racer.clone().race()));
        for lane in lanes.collect::<Vec<_>>() {
            lane.await??;
        }
        racer.write(&Line::Ended(racer.deeds.get()))?;
        Ok(racer.history.borrow_mut().flush()?)
    })
}

impl Racer {
    fn new(args: Args) -> Result<Self> {
        let owner = Owner {
            index: WorkerIndex(args.racer),
            incarnation: Incarnation(u64::from(std::process::id())),
            generation: Generation(1),
            app_version: 1,
        };
        Ok(Self {
            store: open(&args.store, Settings::default())?,
            owner,
            slots: RefCell::new((0..args.sessions).map(|_| Slot::default()).collect()),
            history: RefCell::new(BufWriter::new(File::create(&args.history)?)),
            deeds: Cell::default(),
            random: Cell::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(args.racer) + 1)),
            ends_at: Instant::now() + Duration::from_secs(args.seconds),
            args,
        })
    }

    async fn race(self: Rc<Self>) -> Result<()> {
        while Instant::now() < self.ends_at {
            match self.below(20) {
                0..=2 => self.claim().await?,
                3 => self.release().await?,
                4 => self.begin(),
                5 => {
                    // An owner that stands still while others take what it has.
                    let late = self.below(LATE);
                    self.save(Duration::from_millis(late as u64)).await?;
                }
                _ => self.save(Duration::ZERO).await?,
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn claim(&self) -> Result<()> {
        let most = 1 + self.below(8);
        let taken = self.take(most, |slot| slot.owned.is_none());
        if taken.is_empty() {
            return Ok(());
        }
        let claim = |at: &usize| Claim { session: self.session(*at), at_least: self.epoch() };
        let claims: Vec<_> = taken.iter().map(claim).collect();
        let manners = Manners { down: Vec::new(), force: self.below(3) > 0 };
        let claimed = self.repeat(async || self.store.claim(&self.owner, &manners, &claims).await);
        for (at, claimed) in taken.iter().zip(claimed.await?) {
            match claimed {
                Claimed::Owned(row) => self.enter(*at, row)?,
                Claimed::Held(_) => self.count(|deeds| deeds.held += 1),
            }
        }
        self.give_back(&taken);
        Ok(())
    }

    /// Takes a session in as it was last committed.
    fn enter(&self, at: usize, row: Row) -> Result<()> {
        self.count(|deeds| deeds.claimed += 1);
        let session = self.session(at).to_string();
        self.write(&Line::Claimed { session: session.clone(), epoch: row.epoch.0 })?;
        let state = row.state.context("short states come along")?;
        let items = Item::read(&state).context("a state that no racer made")?;
        let mine = items.iter().filter(|item| item.racer == self.args.racer);
        let applied = mine.map(|item| item.number).max().unwrap_or(0);
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[at];
        if applied < slot.acknowledged {
            let acknowledged = slot.acknowledged;
            let text = format!("{session}: {acknowledged} was acknowledged, {applied} is there");
            self.write(&Line::Violation { text })?;
        }
        let (epoch, version) = (row.epoch, row.version);
        slot.owned = Some(Owned { epoch, version, state: state.to_vec(), applied, has_row: true });
        slot.renew_if_full();
        Ok(())
    }

    /// Begins a session of its own without a claim: nobody else does so with this one, though
    /// others claim it.
    fn begin(&self) {
        let mine = |at: usize, slot: &Slot| {
            (at + slot.round) % usize::from(self.args.racers) == usize::from(self.args.racer)
        };
        let epoch = self.epoch();
        let mut slots = self.slots.borrow_mut();
        let begun = slots.iter_mut().enumerate().find(|(at, slot)| {
            !slot.busy && slot.owned.is_none() && slot.acknowledged == 0 && mine(*at, slot)
        });
        if let Some((_, slot)) = begun {
            let (version, state) = (Version(0), Vec::new());
            slot.owned = Some(Owned { epoch, version, state, applied: 0, has_row: false });
            self.count(|deeds| deeds.begun += 1);
        }
    }

    async fn release(&self) -> Result<()> {
        let most = 1 + self.below(8);
        let taken = self.take(most, |slot| slot.owned.as_ref().is_some_and(|o| o.has_row));
        let owned = |at: &usize| {
            let owned = self.slots.borrow_mut()[*at].owned.take();
            owned.map(|owned| (self.session(*at), owned.epoch))
        };
        let released: Vec<_> = taken.iter().filter_map(owned).collect();
        if !released.is_empty() {
            self.repeat(async || self.store.release(&released, false).await).await?;
            self.count(|deeds| deeds.released += released.len() as u64);
        }
        self.give_back(&taken);
        Ok(())
    }

    async fn save(&self, kept_back: Duration) -> Result<()> {
        let most = 1 + self.below(BATCH);
        let taken = self.take(most, |slot| slot.owned.is_some());
        if taken.is_empty() {
            return Ok(());
        }
        let (items, saves): (Vec<_>, Vec<_>) =
            taken.iter().filter_map(|at| self.append(*at)).unzip();
        sleep(kept_back).await;
        let saved = self.repeat(async || self.store.save(&self.owner, &saves).await).await?;
        for (((at, item), save), saved) in taken.iter().zip(items).zip(&saves).zip(saved) {
            self.saved(*at, item, save, saved)?;
        }
        self.give_back(&taken);
        if self.below(4) == 0 {
            self.send_again(saves);
        }
        Ok(())
    }

    /// Appends the next item of a session that the racer owns, and has it as it is now.
    fn append(&self, at: usize) -> Option<(Item, Save)> {
        let session = self.session(at);
        let mut slots = self.slots.borrow_mut();
        let owned = slots[at].owned.as_mut()?;
        owned.version.0 += 1;
        owned.applied += 1;
        let item = Item {
            epoch: owned.epoch.0,
            version: owned.version.0,
            racer: self.args.racer,
            number: owned.applied,
        };
        item.append(&mut owned.state);
        let save = Save {
            session,
            epoch: owned.epoch,
            version: owned.version,
            codec: 1,
            state: Bytes::copy_from_slice(&owned.state),
            wake_at: None,
            kept: Vec::new(),
            first: !owned.has_row,
        };
        Some((item, save))
    }

    fn saved(&self, at: usize, item: Item, save: &Save, saved: Saved) -> Result<()> {
        let session = save.session.to_string();
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[at];
        match saved {
            Saved::Done => {
                self.count(|deeds| deeds.saved += 1);
                self.write(&Line::Acknowledged { session, item })?;
                slot.acknowledged = item.number;
                if let Some(owned) = &mut slot.owned {
                    owned.has_row = true;
                }
                slot.renew_if_full();
            }
            Saved::Fenced => {
                self.count(|deeds| deeds.fenced += 1);
                slot.owned = None;
            }
            Saved::Regressed => {
                let text = format!("{session}: regressed, though nobody deletes");
                self.write(&Line::Violation { text })?;
                slot.owned = None;
            }
        }
        Ok(())
    }

    /// The same saves arrive once more, when newer ones may have been committed.
    fn send_again(&self, saves: Vec<Save>) {
        self.count(|deeds| deeds.late += saves.len() as u64);
        let (store, owner) = (self.store.clone(), self.owner);
        let late = Duration::from_millis(self.below(LATE) as u64);
        tokio::task::spawn_local(async move {
            sleep(late).await;
            // Nobody waits for what it comes to.
            drop(store.save(&owner, &saves).await);
        });
    }

    /// Makes a call until its answer is known. Now and then the racer does not wait for the answer,
    /// so that it does not know whether the call was done.
    async fn repeat<T>(&self, call: impl AsyncFn() -> Result<T, StoreError>) -> Result<T> {
        if self.below(20) == 0 {
            let soon = Duration::from_micros(self.below(3000) as u64);
            if let Ok(Ok(answer)) = timeout(soon, call()).await {
                return Ok(answer);
            }
            self.count(|deeds| deeds.repeated += 1);
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Away(_)) if Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
            self.count(|deeds| deeds.repeated += 1);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Up to so many places that fulfil a condition, from a random one on; they are busy until they
    /// are given back.
    fn take(&self, most: usize, wanted: impl Fn(&Slot) -> bool) -> Vec<usize> {
        let first = self.below(self.args.sessions);
        let mut slots = self.slots.borrow_mut();
        let count = slots.len();
        let places = (0..count).map(|i| (first + i) % count);
        let taken = places.filter(|at| !slots[*at].busy && wanted(&slots[*at]));
        let taken: Vec<_> = taken.take(most).collect();
        taken.iter().for_each(|at| slots[*at].busy = true);
        taken
    }

    fn give_back(&self, taken: &[usize]) {
        let mut slots = self.slots.borrow_mut();
        taken.iter().for_each(|at| slots[*at].busy = false);
    }

    fn session(&self, at: usize) -> SessionId {
        let round = self.slots.borrow()[at].round;
        format!("s{at}-{round}").parse().expect("letters and digits")
    }

    /// From the clock; in place of random bits, those of this racer. Sessions that are begun without
    /// a claim are so many here that random ones would meet.
    fn epoch(&self) -> Epoch {
        Epoch((fresh_epoch(Epoch(0)).0 & !0x3ff) + 64 * u64::from(self.args.racer))
    }

    fn below(&self, limit: usize) -> usize {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        (random % limit as u64) as usize
    }

    fn count(&self, change: impl FnOnce(&mut Deeds)) {
        let mut deeds = self.deeds.get();
        change(&mut deeds);
        self.deeds.set(deeds);
    }

    fn write(&self, line: &Line) -> Result<()> {
        let mut history = self.history.borrow_mut();
        serde_json::to_writer(&mut *history, line)?;
        Ok(history.write_all(b"\n")?)
    }
}

impl Slot {
    /// What is full is left as it is, with its owner: the place goes to the next session.
    fn renew_if_full(&mut self) {
        if self.owned.as_ref().is_some_and(|owned| Item::count(&owned.state) >= FULL) {
            let busy = self.busy;
            *self = Self { round: self.round + 1, busy, ..Self::default() };
        }
    }
}
