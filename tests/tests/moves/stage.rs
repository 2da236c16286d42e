//! What all scenarios have in common: a fleet, its visitors, and the end, at which all that they and
//! the workers have written down is judged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use single_state_tests::append::wait_until;
use single_state_tests::checker::{Options as Known, check_files};
use single_state_tests::cluster::{Options, PLACEMENT_KEY, home};
use single_state_tests::fleet::{Fleet, Plan};
use single_state_tests::history::Recorder;
use single_state_tests::postgres::TempPostgres;
use single_state_tests::visitors::verdict::{Span, Verdict, of_thousand};
use single_state_tests::visitors::{Stay, Visit, Visitors};
use tempfile::TempDir;

/// Each session of these many has two visitors, at different gateways.
const SHARED: usize = 10;

/// Where sessions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

/// How much of it: little for `make test`, more for `make moves`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) sessions: usize,
    /// A visitor appends an item after one to two times this.
    pub(crate) pace: Duration,
    pub(crate) is_full: bool,
}

/// What a scenario begins with.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) store: Store,
    pub(crate) workers: usize,
    pub(crate) has_proxies: bool,
    /// Clients of `single-state.v1` know all gateways, and go to the next when one leaves them.
    pub(crate) may_change_gateway: bool,
    /// Workers run this version of the app of lists, and the demo if there is none.
    pub(crate) app_version: Option<u32>,
    /// Further flags of gateways.
    pub(crate) gateway_flags: Vec<[&'static str; 2]>,
    pub(crate) scale: Scale,
}

/// A scenario that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) visitors: Visitors,
    pub(crate) scene: Scene,
    pub(crate) recorder: Recorder,
    /// The gateway of each visitor.
    gateways: Vec<usize>,
    /// How many workers there were, one number after the other.
    sizes: Vec<u64>,
    span: Span,
    folder: TempDir,
    _server: Option<TempPostgres>,
}

impl Scale {
    pub(crate) fn of_this_run() -> Self {
        let variable = std::env::var("SINGLE_STATE_TEST_MOVES").ok();
        match variable.and_then(|text| text.parse().ok()) {
            Some(sessions) => Self { sessions, pace: Duration::from_secs(1), is_full: true },
            None => Self { sessions: 40, pace: Duration::from_millis(200), is_full: false },
        }
    }

    /// How long something lasts.
    pub(crate) fn pick(&self, little: Duration, full: Duration) -> Duration {
        if self.is_full { full } else { little }
    }
}

impl Store {
    /// The stores of this run.
    pub(crate) fn of_this_run() -> &'static [Self] {
        if Scale::of_this_run().is_full { &[Self::Sqlite, Self::Postgres] } else { &[Self::Sqlite] }
    }
}

impl Scene {
    pub(crate) fn new(name: &'static str, store: Store) -> Self {
        let scale = Scale::of_this_run();
        Self {
            name,
            store,
            workers: 3,
            has_proxies: false,
            may_change_gateway: false,
            app_version: None,
            gateway_flags: Vec::new(),
            scale,
        }
    }

    /// Starts two gateways and the workers, and lets visitors come and append.
    pub(crate) async fn set(self) -> Result<Stage> {
        let folder = tempfile::tempdir()?;
        let server = match self.store {
            Store::Sqlite => None,
            Store::Postgres => Some(TempPostgres::start().await?),
        };
        let sqlite = || format!("sqlite:{}", folder.path().join("x.sqlite").display());
        let store = server.as_ref().map_or_else(sqlite, TempPostgres::url);
        let history = folder.path().join("worker-%i-%p.jsonl");
        let app = self.app_version.map_or_else(Options::default, Options::lists);
        let mut options = Options { workers: self.workers, ..app }
            .store(&store)
            .worker_flag("--history", &history.to_string_lossy());
        for [flag, value] in &self.gateway_flags {
            options = options.gateway_flag(flag, value);
        }
        let plan = Plan { options, gateways: 2, has_proxies: self.has_proxies, ..Plan::default() };
        let fleet = Fleet::start(plan).await?;
        let recorder = Recorder::create(&folder.path().join("visitors.jsonl"))?;
        let (visits, gateways) = self.visits(&fleet);
        let mut visitors = Visitors::arrive(visits, self.scale.pace, recorder.clone()).await?;
        visitors.wait_for_beats(1).await?;
        let sizes = vec![self.workers as u64];
        let span = Span::begin();
        Ok(Stage {
            fleet,
            visitors,
            scene: self,
            recorder,
            gateways,
            sizes,
            span,
            folder,
            _server: server,
        })
    }

    /// Who comes, and to which gateway. Every other session is one that was minted for its visitor.
    fn visits(&self, fleet: &Fleet) -> (Vec<Visit>, Vec<usize>) {
        let all = fleet.gateways.len();
        let (mut visits, mut gateways) = (Vec::new(), Vec::new());
        for session in 0..self.scale.sessions {
            let is_alone = session % SHARED != 0;
            let is_minted = is_alone && session / 4 % 2 == 1;
            let query = if is_minted { String::new() } else { format!("?session=s-{session}") };
            for visitor in 0..if is_alone { 1 } else { 2 } {
                let gateway = (session / 2 + visitor) % all;
                let is_numbered = (session + visitor) % 2 == 1;
                let reach = if self.may_change_gateway && is_numbered { all } else { 1 };
                let urls = (0..reach).map(|next| fleet.url((gateway + next) % all, &query));
                let (name, urls) = (format!("v{session}.{visitor}"), urls.collect());
                let comes_back = false;
                visits.push(Visit { name, urls, is_numbered, is_alone, comes_back });
                gateways.push(gateway);
            }
        }
        (visits, gateways)
    }
}

impl Stage {
    /// From now on it is judged how long visitors wait.
    pub(crate) fn begin(&mut self) {
        self.span = Span::begin();
    }

    /// Sessions that belong to a worker while so many are there.
    pub(crate) fn sessions_of(&self, index: usize, workers: usize) -> BTreeSet<String> {
        let is_there = |session: &&String| home(session, workers) == index;
        self.visitors.sessions().iter().filter(is_there).cloned().collect()
    }

    /// How many gateways have visitors of a session.
    pub(crate) fn gateways_of(&self, session: &str) -> usize {
        let visitors = self.visitors.sessions().iter().zip(&self.gateways);
        let gateways = visitors.filter(|(of, _)| *of == session).map(|(_, gateway)| gateway);
        gateways.collect::<BTreeSet<_>>().len()
    }

    /// Sessions that have another home among so many workers than among so many others.
    pub(crate) fn sessions_between(&self, before: usize, after: usize) -> BTreeSet<String> {
        let moves = |session: &&String| home(session, before) != home(session, after);
        self.visitors.sessions().iter().filter(moves).cloned().collect()
    }

    /// The number of workers will be this one, too.
    pub(crate) fn expect_size(&mut self, size: usize) {
        self.sizes.push(size as u64);
    }

    /// All gateways learn at once how many workers there are.
    pub(crate) fn resize(&mut self, size: usize) -> Result<()> {
        self.expect_size(size);
        self.fleet.resize(size)
    }

    /// Waits until every gateway has all its visitors at the workers to which their sessions belong.
    pub(crate) async fn wait_until_home(&self) -> Result<()> {
        self.fleet.wait_for_links().await?;
        let size = self.fleet.size();
        for gateway in 0..self.fleet.gateways.len() {
            let mut expected = vec![0; size];
            let visitors = self.visitors.sessions().iter().zip(&self.gateways);
            for (session, _) in visitors.filter(|(_, of)| **of == gateway) {
                expected[home(session, size)] += 1;
            }
            let is_home = |status: &Value| {
                (0..size).all(|index| status["workers"][index]["streams"] == expected[index])
            };
            self.fleet.wait_for_gateway(gateway, is_home).await?;
        }
        Ok(())
    }

    /// Waits until no visitor is at a worker.
    pub(crate) async fn wait_until_left(&self, index: usize) -> Result<()> {
        let has_left = |status: &Value| status["workers"][index]["streams"] == 0;
        for gateway in 0..self.fleet.gateways.len() {
            self.fleet.wait_for_gateway(gateway, has_left).await?;
        }
        Ok(())
    }

    /// Waits until all visitors wait for a worker.
    pub(crate) async fn wait_until_parked(&self) -> Result<()> {
        let all = self.gateways.len() as f64;
        wait_until("all visitors wait", async || {
            let mut parked = 0.0;
            for gateway in &self.fleet.gateways {
                parked += gateway.metric("single_state_parked").await?;
            }
            Ok(parked == all)
        })
        .await
    }

    /// Visitors leave, and nothing was lost, doubled or closed.
    pub(crate) async fn end(mut self) -> Result<Verdict> {
        self.span.end();
        let stays = self.visitors.leave().await?;
        let verdict = self.judge(&stays, true)?;
        ensure!(verdict.closed == 0, "{} sockets were closed", verdict.closed);
        Ok(verdict)
    }

    /// Nothing is lost or doubled, and all invariants hold; no socket may be closed, if so.
    pub(crate) fn judge(&self, stays: &[Stay], no_closes: bool) -> Result<Verdict> {
        let placement = Some((PLACEMENT_KEY, self.sizes.clone()));
        let is_history = |path: &PathBuf| path.extension().is_some_and(|name| name == "jsonl");
        let entries = std::fs::read_dir(self.folder.path())?.flatten();
        let files: Vec<_> = entries.map(|entry| entry.path()).filter(is_history).collect();
        let (events, checked) = check_files(&files, &Known { placement, no_closes })?;
        let verdict = Verdict::of(&events, stays, self.span);
        self.print(&verdict);
        ensure!(verdict.lost == 0, "{} items are lost", verdict.lost);
        ensure!(verdict.doubled == 0, "{} items are there twice", verdict.doubled);
        ensure!(checked.items.0 > 0, "nobody has sent anything");
        Ok(verdict)
    }

    /// A line of the table.
    fn print(&self, verdict: &Verdict) {
        static HEAD: Once = Once::new();
        HEAD.call_once(|| {
            eprintln!(
                "{:<34} {:>8} {:>8} {:>6} {:>6} {:>5} | {:>9} {:>9} {:>9} {:>9} | lost doubled closed",
                "what", "store", "sessions", "moved", "claims", "most", "calm p99", "pause p50",
                "p99", "longest"
            );
        });
        let ms = |micros: Option<u64>| micros.map_or(0.0, |micros| micros as f64 / 1000.0);
        let Verdict { sessions, lost, doubled, closed, pauses, calm, .. } = verdict;
        let store = match self.scene.store {
            Store::Sqlite => "SQLite",
            Store::Postgres => "Postgres",
        };
        let (moved, claims, most) = (verdict.moved(), verdict.claimed.len(), verdict.most_moves());
        eprintln!(
            "{:<34} {store:>8} {sessions:>8} {moved:>6} {claims:>6} {most:>5} | {:>6.0} ms {:>6.0} ms {:>6.0} ms {:>6.0} ms | {lost:>4} {doubled:>7} {closed:>6}",
            self.scene.name,
            ms(of_thousand(calm, 990)),
            ms(of_thousand(pauses, 500)),
            ms(of_thousand(pauses, 990)),
            ms(pauses.last().copied()),
        );
    }
}

/// Each session was given up by one worker before another one claimed it.
pub(crate) fn must_be_handed_over(verdict: &Verdict) -> Result<()> {
    let stolen = verdict.stolen.len();
    ensure!(stolen == 0, "{stolen} of {} claims were thefts", verdict.claimed.len());
    Ok(())
}

/// These sessions were moved, and no others.
pub(crate) fn must_have_moved(verdict: &Verdict, expected: &BTreeSet<String>) -> Result<()> {
    let moved: BTreeSet<_> = verdict.moves.keys().cloned().collect();
    let (missing, more): (Vec<_>, Vec<_>) =
        (expected.difference(&moved).collect(), moved.difference(expected).collect());
    ensure!(missing.is_empty() && more.is_empty(), "not moved: {missing:?}; moved too: {more:?}");
    ensure!(!expected.is_empty(), "no session was to be moved");
    Ok(())
}
