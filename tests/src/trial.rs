//! A small cluster under load, to one of whose processes something happens, and what the checker says
//! of it: one gateway, two workers, and eight browsers of sessions that live on either of them.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use single_state_faults::Mutant;
use tempfile::TempDir;

use crate::checker::{Checked, Options as Known, Violation, check, check_answers};
use crate::cluster::{Cluster, Options, PLACEMENT_KEY};
use crate::faults::Faults;
use crate::history::{Event, Recorder, now, read};
use crate::postgres::TempPostgres;
use crate::visitors::verdict::{Span, Verdict};
use crate::visitors::{Stay, Visit, Visitors};

const WORKERS: usize = 2;
/// A browser sends an item after one to two times this.
const PACE: Duration = Duration::from_millis(20);

/// Where sessions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In a file.
    Sqlite,
    /// In a server of its own.
    Postgres,
}

/// What a trial begins with.
#[derive(Debug, Clone)]
pub struct Case {
    /// Where sessions are kept.
    pub store: Store,
    /// `relaxed` or `durable`.
    pub durability: &'static str,
    /// A commit in `relaxed` waits so long.
    pub commit_interval: &'static str,
    /// Further flags of workers.
    pub worker_flags: Vec<[&'static str; 2]>,
    /// Workers run this version of the app of lists, and the demo if there is none.
    pub app_version: Option<u32>,
    /// What is wrong from the start on. What is started later makes the same mistake, and does not
    /// die.
    pub faults: Faults,
}

/// A trial that runs.
#[derive(Debug)]
pub struct Trial {
    /// The processes.
    pub cluster: Cluster,
    /// The browsers.
    pub visitors: Visitors,
    recorder: Recorder,
    folder: TempDir,
    _server: Option<TempPostgres>,
}

/// How a trial ended.
#[derive(Debug)]
pub struct Outcome {
    /// What everybody has written down.
    pub events: Vec<Event>,
    /// What the checker says.
    pub checked: Result<Checked, Box<Violation>>,
    /// What browsers lack.
    pub verdict: Verdict,
    /// Why browsers could not look for their items.
    pub unseen: Option<anyhow::Error>,
    /// Nothing was broken from then on.
    healed: u64,
}

impl Case {
    /// Sessions in `relaxed`, committed each tenth of a second.
    pub fn new(store: Store, faults: Faults) -> Self {
        let (worker_flags, app_version) = Default::default();
        let (durability, commit_interval) = ("relaxed", "100ms");
        Self { store, durability, commit_interval, worker_flags, app_version, faults }
    }

    /// The same with sessions in `durable`.
    #[must_use]
    pub fn durable(self) -> Self {
        Self { durability: "durable", ..self }
    }
}

impl Trial {
    /// Starts the processes, and lets browsers come and append.
    pub async fn start(case: Case) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = match case.store {
            Store::Sqlite => None,
            Store::Postgres => Some(TempPostgres::start().await?),
        };
        let sqlite = || format!("sqlite:{}", folder.path().join("x.sqlite").display());
        let store = server.as_ref().map_or_else(sqlite, TempPostgres::url);
        let history = folder.path().join("worker-%i-%p.jsonl");
        let app = case.app_version.map_or_else(Options::default, Options::lists);
        let mut options = Options { workers: WORKERS, faults: case.faults, ..app }
            .store(&store)
            .worker_flag("--durability", case.durability)
            .worker_flag("--commit-interval", case.commit_interval)
            .worker_flag("--history", &history.to_string_lossy());
        for [flag, value] in &case.worker_flags {
            options = options.worker_flag(flag, value);
        }
        let mut cluster = Cluster::start(options).await?;
        cluster.set_faults(Faults::default().and(case.faults.mutant));
        let recorder = Recorder::create(&folder.path().join("visitors.jsonl"))?;
        let visitors = Visitors::arrive(visits(&cluster), PACE, recorder.clone()).await?;
        Ok(Self { cluster, visitors, recorder, folder, _server: server })
    }

    /// Keeps every worker from the sessions in a file, for as long as this is held.
    pub fn hold_file(&self) -> Result<File> {
        let lock = File::open(self.folder.path().join("x.sqlite.lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    /// Browsers leave, and all that was written down is judged; no socket may have been closed by the
    /// server, if so.
    pub async fn end(mut self, no_closes: bool) -> Result<Outcome> {
        let healed = now();
        let (stays, unseen) = match self.visitors.leave().await {
            Ok(stays) => (stays, None),
            Err(error) => (Vec::<Stay>::new(), Some(error)),
        };
        self.recorder.flush()?;
        let is_history = |path: &PathBuf| path.extension().is_some_and(|name| name == "jsonl");
        let entries = std::fs::read_dir(self.folder.path())?.flatten();
        let files: Vec<_> = entries.map(|entry| entry.path()).filter(is_history).collect();
        let events = read(&files)?;
        let placement = Some((PLACEMENT_KEY, vec![WORKERS as u64]));
        let checked = check(&events, &Known { placement, no_closes });
        let verdict = Verdict::of(&events, &stays, Span { from: 0, to: u64::MAX });
        Ok(Outcome { events, checked, verdict, unseen, healed })
    }
}

impl Outcome {
    /// All invariants hold, and everybody has found everything that he must.
    pub fn must_be_clean(self) -> Result<Verdict> {
        let checked = self.checked.map_err(|violation| *violation)?;
        if let Some(error) = self.unseen {
            return Err(error);
        }
        ensure!(checked.items.1 > 0, "nothing was acknowledged");
        ensure!(self.verdict.doubled == 0, "{} items are there twice", self.verdict.doubled);
        let answered = check_answers(&self.events, self.healed).map_err(|violation| *violation)?;
        eprintln!("{checked}, I12 {answered}");
        Ok(self.verdict)
    }

    /// … and no socket was closed, and nothing lost.
    pub fn must_be_unnoticed(self) -> Result<Verdict> {
        let verdict = self.must_be_clean()?;
        ensure!(verdict.closed == 0, "{} sockets were closed", verdict.closed);
        ensure!(verdict.lost == 0, "{} items are lost", verdict.lost);
        Ok(verdict)
    }

    /// The checker has noticed the mistake, as one of these invariants that do not hold.
    pub fn must_be_noticed(self, mutant: Mutant, invariants: &[u8]) -> Result<()> {
        let Err(violation) = self.checked else {
            bail!("nobody has noticed {}", mutant.name());
        };
        eprintln!("{}: I{}: {}", mutant.name(), violation.invariant, violation.text);
        let is_expected = invariants.contains(&violation.invariant);
        ensure!(is_expected, "noticed as another mistake: {violation}");
        Ok(())
    }
}

/// On each worker a session that a page and a client share, and one that each has for itself.
fn visits(cluster: &Cluster) -> Vec<Visit> {
    let mut visits = Vec::new();
    for worker in 0..WORKERS {
        for (kind, is_numbered, is_alone) in [
            ("shared", false, false),
            ("shared", true, false),
            ("page", false, true),
            ("client", true, true),
        ] {
            let session = cluster.session_on(worker, kind);
            let urls = vec![cluster.url(&format!("?session={session}"))];
            let name = format!("{kind}-{worker}-{}", if is_numbered { "client" } else { "page" });
            let comes_back = false;
            visits.push(Visit { name, urls, is_numbered, is_alone, comes_back });
        }
    }
    visits
}

/// A process that was to die at its point did, by its own hand.
pub fn must_be_killed(status: std::process::ExitStatus) -> Result<()> {
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    let signal = signal.with_context(|| format!("it ends with {status}"))?;
    ensure!(signal == 9, "it ends by signal {signal}");
    Ok(())
}
