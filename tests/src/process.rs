//! One child process: its log lines as they come, its memory, its end.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::DEADLINE;
use crate::cluster::poll;

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    lines: Lines,
}

/// The processes of this test, for [`told`].
static STARTED: Mutex<Vec<(String, Weak<Printed>)>> = Mutex::new(Vec::new());

/// Lines of a process.
type Printed = Mutex<Vec<String>>;

/// So many of a process's last lines are told of.
const TOLD: usize = 20;

/// What a process has printed, and news of more.
#[derive(Debug, Clone)]
struct Lines {
    printed: Arc<Printed>,
    count: watch::Sender<usize>,
}

/// A program of this workspace, where cargo has built it beside the test that runs; or, for figures,
/// an optimised one of the folder that `SINGLE_STATE_TEST_PROGRAMS` names, if it is there.
pub fn program(name: &str) -> PathBuf {
    let chosen = std::env::var_os("SINGLE_STATE_TEST_PROGRAMS");
    let chosen = chosen.map(|folder| PathBuf::from(folder).join(name));
    if let Some(program) = chosen.filter(|program| program.exists()) {
        return program;
    }
    let this = std::env::current_exe().expect("a process knows its own program");
    let folder = this.parent().expect("a program is in a folder");
    // Tests lie one folder deeper than programs.
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    folder.expect("cargo builds into a folder").join(name)
}

/// The last lines of each process that is still kept, for the error of a test that waits in vain.
pub fn told() -> String {
    let started = STARTED.lock().expect("nobody panics with it");
    let told = started.iter().filter_map(|(name, printed)| {
        let printed = printed.upgrade()?;
        let printed = printed.lock().expect("no printer panics");
        let last = &printed[printed.len().saturating_sub(TOLD)..];
        Some(format!("{name}, of {} lines the last:\n{}", printed.len(), last.join("\n")))
    });
    told.collect::<Vec<_>>().join("\n")
}

impl Process {
    /// Starts `command`; its output is kept and its log level is what the environment says.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}: is it built? {command:?}"))?;
        let lines = Lines { printed: Arc::default(), count: watch::Sender::new(0) };
        let mut started = STARTED.lock().expect("nobody panics with it");
        started.retain(|(_, printed)| printed.strong_count() > 0);
        started.push((name.to_owned(), Arc::downgrade(&lines.printed)));
        drop(started);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(lines.clone().read(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(lines.clone().read(stderr));
        }
        Ok(Self { child, name: name.to_owned(), lines })
    }

    /// The operating system's number; `None` when it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        self.lines.printed.lock().expect("no printer panics").join("\n")
    }

    /// Waits for a line for which `find` returns something.
    pub async fn wait_for_line<T>(&self, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut count = self.lines.count.subscribe();
        let search = async {
            let mut seen = 0;
            loop {
                let lines: Vec<String> = {
                    let printed = self.lines.printed.lock().expect("no printer panics");
                    printed[seen..].to_vec()
                };
                seen += lines.len();
                if let Some(found) = lines.iter().find_map(|line| find(line)) {
                    return found;
                }
                // The sender lives as long as this process.
                let _ = count.wait_for(|count| *count > seen).await;
            }
        };
        match tokio::time::timeout(DEADLINE, search).await {
            Ok(found) => Ok(found),
            Err(_) => bail!("{} did not print what was expected:\n{}", self.name, self.output()),
        }
    }

    /// Waits for a JSON log line with this message.
    pub async fn wait_for_message(&self, message: &str) -> Result<Value> {
        self.wait_for_line(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == message).then_some(line)
        })
        .await
    }

    /// Sends a signal, such as `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let id = self.id().context("the process has ended")?.to_string();
        let sent = std::process::Command::new("kill").args(["-s", signal, &id]).status()?;
        if sent.success() { Ok(()) } else { bail!("kill -s {signal} {id}: {sent}") }
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        match self.wait_at_most(DEADLINE).await? {
            Some(status) => Ok(status),
            None => bail!("{} does not end:\n{}", self.name, self.output()),
        }
    }

    /// Waits until it stands still, as after SIGSTOP.
    pub async fn wait_until_stopped(&self) -> Result<()> {
        let is_stopped = async || self.is_stopped();
        poll(is_stopped, |stopped| *stopped).await.with_context(|| self.name.clone())
    }

    /// Whether it stands still, as after SIGSTOP.
    pub fn is_stopped(&self) -> Result<bool> {
        let id = self.id().context("the process has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // Behind the name, which is in parentheses.
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        Ok(state.context("a process has a state")? == 'T')
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Whether it has ended by SIGKILL.
    pub fn was_killed(&mut self) -> bool {
        let status = self.child.try_wait().ok().flatten();
        status.and_then(|status| status.signal()) == Some(9)
    }

    /// Threads that it has.
    pub fn threads(&self) -> Result<usize> {
        let id = self.id().context("the process has ended")?;
        Ok(std::fs::read_dir(format!("/proc/{id}/task"))?.count())
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> Result<usize> {
        let id = self.id().context("the process has ended")?;
        Ok(std::fs::read_dir(format!("/proc/{id}/fd"))?.count())
    }

    /// Waits until it has ended by itself; `None` if it runs on for longer than this.
    pub async fn wait_at_most(&mut self, time: Duration) -> Result<Option<ExitStatus>> {
        Ok(tokio::time::timeout(time, self.child.wait()).await.ok().transpose()?)
    }

    /// Memory of its own that it holds now, in KiB: its program's pages come and go as they like.
    pub fn resident_kib(&self) -> Result<u64> {
        let id = self.id().context("the process has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.context("no RssAnon")?.parse().context("read RssAnon")
    }
}

impl Lines {
    async fn read(self, from: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.printed.lock().expect("no printer panics").push(line);
            self.count.send_modify(|count| *count += 1);
        }
    }
}
