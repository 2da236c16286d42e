//! One child process, leader of a process group of its own: its output, its end, and the end of all
//! that it started.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::os::unix::process::ExitStatusExt as _;
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::output::{Label, Printer, pump};

/// How often a group is asked whether somebody is left in it; there is no event for that.
const POLL_GROUP: Duration = Duration::from_millis(20);
/// How long to wait for a killed group to vanish and for the rest of its output. Zombies that nobody
/// reaps stay in their group, and who left the group may hold the output open: neither counts.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// How a process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// It is not.
    No,
    /// SIGTERM, and SIGKILL after the grace period.
    Gently,
    /// SIGKILL.
    AtOnce,
}

/// Asks a process to end. That is never taken back, only hastened.
pub(crate) fn ask(asked: &watch::Sender<Ending>, how: Ending) {
    asked.send_if_modified(|asked| {
        let hastens = how > *asked;
        *asked = how.max(*asked);
        hastens
    });
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    group: Group,
    /// Kept open: its end tells a worker that the supervisor is gone.
    _stdin: Option<ChildStdin>,
    output: JoinSet<()>,
    grace: Duration,
}

impl Process {
    /// Starts `command` in a new group and prints its output under `label`.
    pub(crate) fn spawn(
        command: &mut Command,
        label: Label,
        printer: &Printer,
        grace: Duration,
    ) -> io::Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut output = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            output.spawn_local(pump(stdout, label, printer.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            output.spawn_local(pump(stderr, label, printer.clone()));
        }
        let stdin = child.stdin.take();
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        Ok(Self { child, group, _stdin: stdin, output, grace })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits until it ended, by itself or because it was `asked`; then nobody of its group is left
    /// and all of its output is printed.
    pub(crate) async fn ended(mut self, mut asked: watch::Receiver<Ending>) -> Ended {
        let was_asked = tokio::select! {
            biased;
            () = reached(&mut asked, Ending::Gently) => true,
            _ = self.child.wait() => false,
        };
        if was_asked {
            self.end_gently(&mut asked).await;
        }
        // The leader's number may be free by now if the group is empty, but the system would have
        // had to give out all other numbers since.
        self.group.signal(Signal::KILL);
        let status = self.child.wait().await;
        let _ = timeout(LAST_WAIT, self.group.vanished()).await;
        let all_printed = async { while self.output.join_next().await.is_some() {} };
        let _ = timeout(LAST_WAIT, all_printed).await;
        Ended(status.ok())
    }

    /// SIGTERM, then waits for the whole group: a leader that is only a shell leaves before the
    /// worker that it runs has drained.
    async fn end_gently(&mut self, asked: &mut watch::Receiver<Ending>) {
        if *asked.borrow() < Ending::AtOnce {
            self.group.signal(Signal::TERM);
        }
        let gone = async {
            let _ = self.child.wait().await;
            self.group.vanished().await;
        };
        tokio::select! {
            biased;
            () = reached(asked, Ending::AtOnce) => {}
            () = gone => {}
            () = sleep(self.grace) => {}
        }
    }
}

/// Waits until at least this ending is asked for. When nobody can ask any more, it is time to end.
async fn reached(asked: &mut watch::Receiver<Ending>, ending: Ending) {
    let _ = asked.wait_for(|&asked| asked >= ending).await;
}

/// The process group of a child, by the number of its leader.
#[derive(Debug, Clone, Copy)]
struct Group(Option<Pid>);

impl Group {
    /// Signals all of its members; that there are none any more is fine.
    fn signal(self, signal: Signal) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, signal);
        }
    }

    async fn vanished(self) {
        while self.0.is_some_and(|leader| test_kill_process_group(leader).is_ok()) {
            sleep(POLL_GROUP).await;
        }
    }
}

/// How a process ended; none if the system did not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended(Option<ExitStatus>);

impl Ended {
    /// Of what could not even be started.
    pub(crate) fn unknown() -> Self {
        Self(None)
    }

    pub(crate) fn is_success(self) -> bool {
        self.0.is_some_and(|status| status.success())
    }

    /// Whether it left as one does after SIGTERM, rather than by SIGKILL or a fault.
    pub(crate) fn is_as_asked(self) -> bool {
        let by_term = self.0.and_then(|status| status.signal()) == Some(Signal::TERM.as_raw());
        self.is_success() || by_term
    }
}

/// As the end of a sentence: "worker 1 ended …".
impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(status) = self.0 else {
            return f.write_str("in an unknown way");
        };
        match (status.code(), status.signal()) {
            (Some(code), _) => write!(f, "with exit code {code}"),
            (None, Some(signal)) => write!(f, "by signal {signal}"),
            (None, None) => write!(f, "({status})"),
        }
    }
}
