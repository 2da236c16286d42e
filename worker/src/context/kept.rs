//! Large inputs that are stored once, beside the snapshots.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;

use super::Context;
use crate::Result;

/// While the store is away, what is kept there is asked for again so often.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Longest large input, in bytes.
const MAX_KEPT: usize = 64 * 1024 * 1024;
/// Longest name of one, in bytes.
const MAX_KEPT_NAME: usize = 200;

impl Context {
    /// Keeps a large input, an upload for instance, under `name`: it is stored once, together with
    /// the next save, and not in each. Up to 64 MiB; what was kept under the name is replaced. It
    /// goes when the session does.
    ///
    /// ```
    /// # use serde_json::{Value, json};
    /// # use single_state_worker::{Bytes, Context, Result, Session, testing::TestSession};
    /// #[derive(Default, serde::Serialize, serde::Deserialize)]
    /// struct Reader {
    ///     #[serde(skip)] // read again in `started`
    ///     lines: Vec<String>,
    /// }
    ///
    /// # fn read(upload: &[u8]) -> Vec<String> {
    /// #     String::from_utf8_lossy(upload).lines().map(str::to_owned).collect()
    /// # }
    /// impl Session for Reader {
    ///     async fn started(&mut self, ctx: &mut Context) -> Result<()> {
    ///         if let Some(upload) = ctx.kept("upload").await {
    ///             self.lines = read(&upload);
    ///         }
    ///         ctx.assign("lines", &self.lines.len())
    ///     }
    ///
    ///     async fn binary(&mut self, upload: Bytes, ctx: &mut Context) -> Result<()> {
    ///         self.lines = read(&upload);
    ///         ctx.keep("upload", upload)?;
    ///         ctx.assign("lines", &self.lines.len())
    ///     }
    /// #   type Message = Value;
    /// #   async fn handle(&mut self, _: Value, _: &mut Context) -> Result<()> { Ok(()) }
    /// }
    /// # let session = TestSession::<Reader>::new();
    /// # session.send_binary("one\ntwo");
    /// # session.crash();
    /// # assert_eq!(session.mirror()["lines"], 2);
    /// ```
    ///
    /// # Errors
    /// When the bytes, or the name (200 bytes, no NUL), are too long.
    pub fn keep(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        check_kept_name(name)?;
        if bytes.len() > MAX_KEPT {
            bail!("keep {name:?}: {} bytes are too long, allowed are {MAX_KEPT}", bytes.len());
        }
        self.resident.keep(name, Some(bytes));
        Ok(())
    }

    /// What is kept under `name`; `None` if nothing is. While the store is away it waits.
    pub async fn kept(&self, name: &str) -> Option<Bytes> {
        if let Some(unsaved) = self.resident.unsaved_input(name) {
            return unsaved;
        }
        if !self.resident.has_row() || check_kept_name(name).is_err() {
            return None;
        }
        loop {
            match self.host.store.kept(&self.resident.id, name).await {
                Ok(kept) => return kept,
                Err(error) => {
                    tracing::debug!(session.id = self.session_id(), %error, "read what is kept");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// Forgets what is kept under `name`.
    pub fn forget(&self, name: &str) {
        if check_kept_name(name).is_ok() {
            self.resident.keep(name, None);
        }
    }
}

fn check_kept_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_KEPT_NAME || name.contains('\0') {
        bail!("keep: a name has 1 to {MAX_KEPT_NAME} bytes and no NUL");
    }
    Ok(())
}
