//! How others ask the supervisor for something while it runs.

use tokio::sync::{mpsc, oneshot};

/// Requests that wait; those who ask wait in turn when the queue is full.
pub(crate) const COMMANDS: usize = 16;

/// What can be asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// End worker `index` gently and start it again; `done` when it serves, died, or was too slow.
    Restart { index: u32, done: oneshot::Sender<()> },
    /// SIGKILL worker `index`; it is then restarted like any worker that dies.
    Kill { index: u32 },
    /// Run so many workers.
    Scale { workers: u32 },
    /// Stop everything without further waiting.
    KillNow,
}

/// Reaches a running [`Supervisor`](super::Supervisor); cheap to clone. Once that is gone, all
/// requests are granted without effect.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    commands: mpsc::Sender<Command>,
}

impl SupervisorHandle {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        (Self { commands }, received)
    }

    /// Ends worker `index` with SIGTERM and starts it again. Returns when its link address accepts
    /// a connection, when it died, or after 10 s.
    pub async fn restart(&self, index: u32) {
        let (done, restarted) = oneshot::channel();
        if self.commands.send(Command::Restart { index, done }).await.is_ok() {
            // An error means that the supervisor ends: then nobody waits for this worker.
            let _ = restarted.await;
        }
    }

    /// Ends worker `index` with SIGKILL, as a crash would; it is started again like after one.
    pub async fn kill(&self, index: u32) {
        let _ = self.commands.send(Command::Kill { index }).await;
    }

    /// Runs so many workers from now on: new ones are started, those at the end leave in good order.
    pub async fn scale(&self, workers: u32) {
        let _ = self.commands.send(Command::Scale { workers }).await;
    }

    /// Stops everything, SIGKILL first: for the second Ctrl-C.
    pub async fn kill_now(&self) {
        let _ = self.commands.send(Command::KillNow).await;
    }

    /// Restarts all workers, one after the other.
    pub(crate) async fn roll(self, workers: u32) {
        for index in 0..workers {
            self.restart(index).await;
        }
    }
}
