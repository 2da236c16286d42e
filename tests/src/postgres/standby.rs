//! Two servers of which one follows the other, synchronously: what is committed is on both. When the
//! first one dies the second takes its place, and another one is made to follow it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::binaries::{Binaries, finish};
use super::{LOOK, Options, TempPostgres};
use crate::DEADLINE;

/// A server and its synchronous standby.
#[derive(Debug)]
pub struct Pair {
    primary: TempPostgres,
    /// None while a new one is made.
    standby: Option<TempPostgres>,
}

impl Pair {
    /// Starts both with these options, each with its files in a folder of its own.
    pub async fn start(options: [Options; 2]) -> Result<Self> {
        let [first, second] = options;
        let mut pair = Self { primary: first.start().await?, standby: None };
        pair.follow(second).await?;
        Ok(pair)
    }

    /// The server that takes writes.
    pub fn primary(&self) -> &TempPostgres {
        &self.primary
    }

    /// Its address, HOST:PORT; another one after each failover.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.primary.port())
    }

    /// Kills the primary, whose place the standby takes. Nothing follows it until [`Pair::follow`].
    pub async fn fail_over(&mut self) -> Result<()> {
        let standby = self.standby.take().context("nothing follows the primary")?;
        self.primary.kill().await?;
        let promote = "SELECT pg_promote(true, 60)";
        let is_promoted: bool = standby.client().await?.query_one(promote, &[]).await?.get(0);
        if !is_promoted {
            bail!("the standby is not promoted:\n{}", standby.log());
        }
        self.primary = standby;
        Ok(())
    }

    /// Makes a server that follows the primary, which commits nothing from then on that it has not.
    pub async fn follow(&mut self, options: Options) -> Result<()> {
        let port = self.primary.port();
        let standby = options.start_from(move |programs, data| copy(programs, port, data)).await?;
        // It has copied the primary's parameters, and would wait for a standby of its own.
        standby.set(FOLLOWERS, "").await?;
        self.standby = Some(standby);
        self.primary.set(FOLLOWERS, "*").await?;
        let client = self.primary.client().await?;
        let state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        let deadline = Instant::now() + DEADLINE;
        while client.query_one(state, &[]).await?.get::<_, i64>(0) == 0 {
            if Instant::now() > deadline {
                bail!("the standby does not follow:\n{}", self.primary.log());
            }
            sleep(LOOK).await;
        }
        // The checkpointer tells all commits to wait. It has, when it has done something else since.
        Ok(client.batch_execute("CHECKPOINT").await?)
    }
}

const FOLLOWERS: &str = "synchronous_standby_names";

/// Copies a running server's data, such that who starts it follows that server.
fn copy(programs: &Binaries, port: u16, data: &Path) -> Result<()> {
    let mut backup = programs.command("pg_basebackup", None);
    backup.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres"]);
    backup.arg("-D").arg(PathBuf::from(data));
    backup.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
    finish(&mut backup).context("copy the primary")
}
