//! The swarm as a whole: its processes, what they are told and when, and what they have found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use single_state_tests::history::now;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Config;
use crate::limits;
use crate::news::{News, Part, Phase, Tally};
use crate::progress::Progress;
use crate::report::{Facts, Report};
use crate::timeline::{Timeline, read_marks};
use crate::usage::{Watched, available_memory};
use crate::verdict;

/// So long a target may take to accept a first connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// News that wait to be read.
const NEWS: usize = 64;

/// The processes, and what is known of them.
struct Crew {
    members: Vec<Member>,
    news: mpsc::Receiver<(usize, Result<News>)>,
    /// Tallies of those that have told one in this stage, by their index.
    told: BTreeMap<usize, Tally>,
    timeline: Timeline,
    progress: Progress,
}

/// One process.
struct Member {
    child: Child,
    orders: ChildStdin,
}

/// What each watched process had used at one moment.
struct Sample {
    cpu: Vec<Option<Duration>>,
    memory: Vec<Option<u64>>,
    available: Option<u64>,
    at: Instant,
}

/// Runs it; an error means that there is nothing to report.
pub(crate) async fn run(config: &Config) -> Result<Report> {
    limits::check(config)?;
    for url in &config.urls {
        try_target(url).await?;
    }
    let folder = tempfile::tempdir()?;
    let (began, began_ms) = (now(), since_1970_ms());
    let histories = histories(config, &folder);
    let mut crew = Crew::start(config, began, &histories)?;
    let mut watched = config.watched.clone();
    let pids = crew.members.iter().filter_map(|member| member.child.id());
    watched.push(Watched::this().with(pids));
    let first = Sample::take(&watched);

    let (connecting, connected) = (Instant::now(), crew.until_all_have_told().await?);
    let connecting = connecting.elapsed();
    if connected.connected == 0 {
        let reasons = connected.reasons.join("; ");
        bail!("none of {} browsers is connected: {reasons}", config.browsers);
    }
    crew.order(Phase::Warm).await?;
    crew.follow(config.warm_up).await?;
    let before = Sample::take(&watched);
    crew.order(Phase::Measure).await?;
    crew.follow(config.duration).await?;
    let after = Sample::take(&watched);
    crew.order(Phase::Rest).await?;
    let tally = crew.until_all_have_told().await?;
    crew.end().await?;

    let verdict = verdict::judge(&histories)?;
    if let Some(path) = &config.history {
        join_files(&histories, path)?;
    }
    let marks = config.mark.as_deref().map(|path| read_marks(path, began_ms)).transpose()?;
    let facts = Facts {
        processes: crew.members.len(),
        connecting,
        taken: first
            .available
            .zip(after.available)
            .map(|(first, after)| first.saturating_sub(after)),
        measured: after.at - before.at,
        timeline: crew.timeline.seconds(),
        marks: marks.unwrap_or_default(),
        began_ms,
    };
    let mut report = Report::new(tally, verdict, facts);
    for (i, watched) in watched.into_iter().enumerate() {
        let (Some(from), Some(to)) = (before.cpu[i], after.cpu[i]) else { continue };
        let grown = after.memory[i].unwrap_or(0).saturating_sub(first.memory[i].unwrap_or(0));
        report.add_process(watched.name, to.saturating_sub(from), grown);
    }
    Ok(report)
}

/// What nobody listens to is told at once, and once.
async fn try_target(url: &str) -> Result<()> {
    let host = limits::host(url);
    let connect = timeout(PATIENCE, TcpStream::connect(host)).await;
    let connected = connect.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    connected
        .with_context(|| format!("cannot connect to {url}: does a gateway listen on {host}?"))?;
    Ok(())
}

/// Where the processes write what their browsers send and hear, if anybody wants to know.
fn histories(config: &Config, folder: &TempDir) -> Vec<PathBuf> {
    if config.history.is_none() && !config.checks {
        return Vec::new();
    }
    (0..config.processes()).map(|i| folder.path().join(format!("swarm-{i}.jsonl"))).collect()
}

fn join_files(files: &[PathBuf], path: &std::path::Path) -> Result<()> {
    let create = || format!("write the history {}", path.display());
    let mut whole = std::fs::File::create(path).with_context(create)?;
    for file in files {
        std::io::copy(&mut std::fs::File::open(file)?, &mut whole).with_context(create)?;
    }
    Ok(())
}

fn since_1970_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

impl Crew {
    fn start(config: &Config, began: u64, histories: &[PathBuf]) -> Result<Self> {
        let (sender, news) = mpsc::channel(NEWS);
        let count = config.processes();
        let mut members = Vec::with_capacity(count);
        for index in 0..count {
            let history = histories.get(index).map(|path| path.display().to_string());
            let part = Part { index, count, began, history: history.unwrap_or_default() };
            let mut child = Command::new(std::env::current_exe()?)
                .args(std::env::args_os().skip(1))
                .args(["--part", &part.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("start a process of the swarm")?;
            let (orders, output) =
                child.stdin.take().zip(child.stdout.take()).context("no pipes")?;
            tokio::spawn(listen(index, output, sender.clone()));
            members.push(Member { child, orders });
        }
        let timeline = Timeline::default();
        let progress = Progress::start(config.browsers);
        Ok(Self { members, news, told: BTreeMap::new(), timeline, progress })
    }

    async fn order(&mut self, phase: Phase) -> Result<()> {
        self.told.clear();
        let line = format!("{}\n", serde_json::to_string(&phase)?);
        for member in &mut self.members {
            // One that is gone has said so, or its output ends.
            let _ = member.orders.write_all(line.as_bytes()).await;
        }
        Ok(())
    }

    /// Takes news for so long.
    async fn follow(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                news = self.news.recv() => self.take(news)?,
            }
        }
    }

    /// Takes news until each process has told what has come of its browsers: all of that.
    async fn until_all_have_told(&mut self) -> Result<Tally> {
        while self.told.len() < self.members.len() {
            let news = self.news.recv().await;
            self.take(news)?;
        }
        let mut all = Tally::default();
        std::mem::take(&mut self.told).into_values().for_each(|tally| all.add(tally));
        Ok(all)
    }

    fn take(&mut self, news: Option<(usize, Result<News>)>) -> Result<()> {
        let (index, news) = news.context("all processes of the swarm have ended")?;
        match news? {
            News::Second(second) => {
                self.timeline.add(index, second);
                self.progress.show(&self.timeline, self.members.len());
            }
            News::Connected(tally) | News::Ended(tally) => {
                self.told.insert(index, tally);
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.progress.end();
        for member in &mut self.members {
            member.child.wait().await?;
        }
        Ok(())
    }
}

/// Passes on what a process says, and that it says no more before its end.
async fn listen(index: usize, output: ChildStdout, news: mpsc::Sender<(usize, Result<News>)>) {
    let mut lines = BufReader::new(output).lines();
    loop {
        let told = match lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).context("read a process of the swarm"),
            _ => Err(anyhow::anyhow!("process {index} of the swarm has ended too early")),
        };
        let is_last = !matches!(told, Ok(News::Second(_) | News::Connected(_)));
        // Nobody listens when the swarm ends.
        if news.send((index, told)).await.is_err() || is_last {
            return;
        }
    }
}

impl Sample {
    fn take(watched: &[Watched]) -> Self {
        Self {
            cpu: watched.iter().map(Watched::cpu).collect(),
            memory: watched.iter().map(Watched::memory).collect(),
            available: available_memory(),
            at: Instant::now(),
        }
    }
}
