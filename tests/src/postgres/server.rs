//! The server's process: its start, its readiness, its end. It ends with the test's process, however
//! that ends.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use super::binaries::finish;

/// A process and the thread that started it, which the system counts as its parent: while the
/// thread waits for the process, the process lives on; when both are killed, it is told.
#[derive(Debug)]
pub(super) struct Running {
    id: u32,
    keeper: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let (tell, told) = mpsc::channel();
        let keeper = std::thread::spawn(move || match command.spawn() {
            Ok(mut child) => {
                // The one who asked waits for the answer, and the end of a process is no failure.
                let _ = tell.send(Ok(child.id()));
                let _ = child.wait();
            }
            Err(error) => drop(tell.send(Err(error))),
        });
        let id = told.recv().context("the thread ended")?.context("start postgres")?;
        Ok(Self { id, keeper })
    }

    /// Whether it takes connections: it says so itself, as to `pg_ctl`.
    pub(super) fn is_ready(&self, data: &Path) -> bool {
        let Ok(file) = std::fs::read_to_string(data.join("postmaster.pid")) else { return false };
        let mut lines = file.lines();
        lines.next() == Some(&self.id.to_string())
            && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    pub(super) fn has_ended(&self) -> bool {
        self.keeper.is_finished()
    }

    /// Sends a signal that ends it, and waits for the end.
    pub(super) async fn stop(self, signal: &str) -> Result<()> {
        // It may have ended by itself.
        let _ = self::signal(self.id, signal);
        let end = tokio::task::spawn_blocking(move || self.keeper.join());
        if tokio::time::timeout(crate::DEADLINE, end).await.is_err() {
            bail!("PostgreSQL does not end on {signal}");
        }
        Ok(())
    }

    /// Sends a signal, such as `STOP`, to all of the server's processes.
    pub(super) fn signal_all(&self, signal: &str) -> Result<()> {
        self::signal(self.id, signal)?;
        let children = format!("/proc/{0}/task/{0}/children", self.id);
        for child in std::fs::read_to_string(children)?.split_whitespace() {
            // One may have ended since it was listed.
            let _ = self::signal(child.parse()?, signal);
        }
        Ok(())
    }

    /// Ends it at once, and waits: its folder is removed next.
    pub(super) fn kill(self) {
        // It may have ended already.
        let _ = signal(self.id, "QUIT");
        let _ = self.keeper.join();
    }
}

/// Sends a signal to one of the server's processes.
pub(super) fn signal(id: u32, signal: &str) -> Result<()> {
    finish(Command::new("kill").args(["-s", signal, &id.to_string()]))
}

/// A port that is free now, and not one that the system gives to others while a server is stopped:
/// those begin at 32,768.
pub(super) fn free_port() -> Result<u16> {
    let start = std::process::id() ^ std::time::UNIX_EPOCH.elapsed()?.subsec_micros();
    let ports = (0..10_000_u32).map(|n| 20_000 + (start.wrapping_add(n * 7919) % 10_000));
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.filter_map(|port| u16::try_from(port).ok()).find(free).context("no port is free")
}
