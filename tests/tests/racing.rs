//! Six processes that fight for the same rows, and a judge that reads the rows and what each process
//! was told. Without one of the store's guards the same judge must find fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use single_state_faults::{MUTANT, Mutant};
use single_state_store::{Settings, SharedStore, Version, open};
use single_state_tests::history::{Deeds, Item, Line};
use single_state_tests::postgres::TempPostgres;
use single_state_tests::process::{Process, program};
use tokio::process::Command;

const RACERS: u16 = 6;
const SECONDS: u64 = 4;
/// Without a guard it does not take long.
#[cfg(feature = "faults")]
const SECONDS_WITHOUT: u64 = 2;

/// So many violations are told.
const TOLD: usize = 10;

/// How a race ended.
#[derive(Debug, Default)]
struct Outcome {
    deeds: Deeds,
    rows: usize,
    items: usize,
    acknowledged: usize,
    violations: Vec<String>,
}

/// What all racers were told, by session.
#[derive(Debug, Default)]
struct Told {
    acknowledged: BTreeMap<String, BTreeSet<Item>>,
    epochs: BTreeSet<(String, u64)>,
}

#[tokio::test]
async fn racing_owners_lose_nothing_in_postgresql() -> Result<()> {
    let server = TempPostgres::start().await?;
    let outcome = race(&server.url(), seconds(), None).await?;
    outcome.report("PostgreSQL");
    outcome.must_be_clean()?;
    let query = "SELECT sum(deadlocks)::bigint FROM pg_stat_database";
    let deadlocks: i64 = server.client().await?.query_one(query, &[]).await?.try_get(0)?;
    // Its log knows at once what the statistics know a little later.
    ensure!(deadlocks == 0 && !server.log().contains("deadlock detected"), "{}", server.log());
    Ok(())
}

#[tokio::test]
async fn racing_owners_lose_nothing_in_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let outcome = race(&sqlite(folder.path()), seconds(), None).await?;
    outcome.report("SQLite");
    outcome.must_be_clean()
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn without_the_epoch_racing_owners_are_seen_to_overwrite_each_other_in_postgresql()
-> Result<()> {
    let server = TempPostgres::start().await?;
    race(&server.url(), SECONDS_WITHOUT, Some(Mutant::NoEpochTest)).await?.must_be_faulty()
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn without_the_version_racing_owners_are_seen_to_overwrite_themselves_in_postgresql()
-> Result<()> {
    let server = TempPostgres::start().await?;
    race(&server.url(), SECONDS_WITHOUT, Some(Mutant::NoVersionTest)).await?.must_be_faulty()
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn without_the_epoch_racing_owners_are_seen_to_overwrite_each_other_in_sqlite() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    race(&sqlite(folder.path()), SECONDS_WITHOUT, Some(Mutant::NoEpochTest)).await?.must_be_faulty()
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn without_the_version_racing_owners_are_seen_to_overwrite_themselves_in_sqlite() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    race(&sqlite(folder.path()), SECONDS_WITHOUT, Some(Mutant::NoVersionTest))
        .await?
        .must_be_faulty()
}

/// `make race` has more time.
fn seconds() -> u64 {
    let given = std::env::var("SINGLE_STATE_TEST_RACE_SECONDS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("race.sqlite").display())
}

/// Lets them race, then judges.
async fn race(url: &str, seconds: u64, mutant: Option<Mutant>) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let history = |racer: u16| folder.path().join(format!("{racer}.jsonl"));
    let mut racers = Vec::new();
    for racer in 0..RACERS {
        let mut command = Command::new(program("racer"));
        command.args(["--store", url, "--racers", &RACERS.to_string()]);
        command.args(["--racer", &racer.to_string(), "--seconds", &seconds.to_string()]);
        command.arg("--history").arg(history(racer));
        command.envs(mutant.map(|mutant| (MUTANT, mutant.name())));
        racers.push(Process::spawn(&format!("racer {racer}"), command)?);
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    for racer in &mut racers {
        let status = racer.wait().await?;
        ensure!(status.success(), "{status}: {}", racer.output());
    }
    let (mut outcome, mut told) = (Outcome::default(), Told::default());
    for racer in 0..RACERS {
        outcome.hear(&history(racer), &mut told)?;
    }
    let store = open(url, Settings::default())?;
    store.prepare().await?;
    outcome.judge(&store, &told).await?;
    Ok(outcome)
}

impl Outcome {
    /// What one racer was told.
    fn hear(&mut self, history: &PathBuf, told: &mut Told) -> Result<()> {
        let mut has_ended = false;
        for line in BufReader::new(File::open(history)?).lines() {
            match serde_json::from_str(&line?)? {
                Line::Claimed { session, epoch } => {
                    if !told.epochs.insert((session.clone(), epoch)) {
                        self.violations.push(format!("{session}: epoch {epoch} was given twice"));
                    }
                }
                Line::Acknowledged { session, item } => {
                    self.acknowledged += 1;
                    told.acknowledged.entry(session).or_default().insert(item);
                }
                Line::Violation { text } => self.violations.push(text),
                Line::Ended(deeds) => {
                    self.deeds += deeds;
                    has_ended = true;
                }
            }
        }
        ensure!(has_ended, "{} breaks off", history.display());
        Ok(())
    }

    /// Compares the rows with what racers were told.
    async fn judge(&mut self, store: &SharedStore, told: &Told) -> Result<()> {
        let mut missing: BTreeSet<_> = told.acknowledged.keys().cloned().collect();
        let mut after = None;
        loop {
            let page = store.list(after.as_ref(), 1000).await?;
            for listed in &page {
                let (_, state) = store.show(&listed.session).await?.context("nobody deletes")?;
                let items = Item::read(&state).context("a state that no racer made")?;
                let session = listed.session.as_str();
                missing.remove(session);
                let nothing = BTreeSet::new();
                let acknowledged = told.acknowledged.get(session).unwrap_or(&nothing);
                self.judge_one(session, listed.version, &items, acknowledged);
            }
            let Some(last) = page.into_iter().next_back() else { break };
            after = Some(last.session);
        }
        let lost = missing.into_iter().map(|session| format!("{session}: its row is gone"));
        self.violations.extend(lost);
        Ok(())
    }

    fn judge_one(
        &mut self,
        session: &str,
        version: Version,
        items: &[Item],
        acknowledged: &BTreeSet<Item>,
    ) {
        self.rows += 1;
        self.items += items.len();
        let mut fault = |text: String| self.violations.push(format!("{session}: {text}"));
        for item in acknowledged.difference(&items.iter().copied().collect()) {
            fault(format!("{item} was acknowledged and is lost"));
        }
        for pair in items.windows(2) {
            if (pair[0].epoch, pair[0].version) >= (pair[1].epoch, pair[1].version) {
                fault(format!("{} was committed after {}", pair[1], pair[0]));
            }
        }
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        for item in items {
            let expected = last.entry(item.racer).or_default();
            *expected += 1;
            if item.number != *expected {
                fault(format!("{item} stands where its number {expected} should"));
                *expected = item.number;
            }
        }
        if items.last().is_some_and(|last| last.version != version.0) {
            fault(format!("the row has version {}, its state another", version.0));
        }
    }

    fn report(&self, store: &str) {
        let Self { deeds, rows, items, acknowledged, violations } = self;
        eprintln!("{store}: {deeds:?}");
        eprintln!(
            "{store}: {rows} rows, {items} items, {acknowledged} acknowledged, {} violations",
            violations.len()
        );
    }

    fn must_be_clean(&self) -> Result<()> {
        ensure!(self.violations.is_empty(), "{}", self.told());
        // Of a race in which these did not happen, nothing follows.
        let Deeds { saved, fenced, repeated, late, claimed, held, released, begun } = self.deeds;
        for deeds in [saved, fenced, repeated, late, claimed, held, released, begun] {
            ensure!(deeds > 0, "the race is too calm: {:?}", self.deeds);
        }
        Ok(())
    }

    #[cfg(feature = "faults")]
    fn must_be_faulty(&self) -> Result<()> {
        let is_seen = self.violations.iter().any(|violation| violation.ends_with("is lost"));
        ensure!(is_seen, "nobody noticed that something is lost: {}", self.told());
        Ok(())
    }

    fn told(&self) -> String {
        let mut told = format!("{} violations, {:?}\n", self.violations.len(), self.deeds);
        for violation in self.violations.iter().take(TOLD) {
            let _ = writeln!(told, "{violation}");
        }
        told
    }
}
