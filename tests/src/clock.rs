//! Wall clocks that jump, of single processes while they run: `libfaketime` stands between a process
//! and the C library's clocks, and reads the offset from a file. Monotonic clocks stay as they are, as
//! when somebody sets a machine's clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

/// A process looks so often at what its clock is to say.
pub const NOTICED_AFTER: Duration = Duration::from_secs(1);

/// The wall clocks of a cluster's processes, each with a file of its own.
#[derive(Debug, Clone)]
pub struct Clocks {
    library: PathBuf,
    folder: PathBuf,
}

impl Clocks {
    /// Clocks whose offsets are kept in this folder.
    pub fn within(folder: &Path) -> Result<Self> {
        let library = library().context("no libfaketime here: run `tests/setup.sh test`")?;
        Ok(Self { library, folder: folder.to_owned() })
    }

    /// Whether this machine can do it.
    pub fn are_here() -> bool {
        library().is_some()
    }

    /// From now on the clock of the process of this name is so many seconds ahead, or behind.
    pub fn set(&self, name: &str, seconds: i64) -> Result<()> {
        // A process must never read half of it.
        let new = self.folder.join("clock-new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        Ok(fs::rename(new, self.file(name))?)
    }

    /// The process of this name, about to be started, will have such a clock.
    pub(crate) fn give(&self, name: &str, command: &mut Command) -> Result<()> {
        let file = self.file(name);
        if !file.exists() {
            self.set(name, 0)?;
        }
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_CACHE_DURATION", NOTICED_AFTER.as_secs().to_string())
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("clock-{}", name.replace(' ', "-")))
    }
}

/// Where Debian puts it, or a distribution that has one folder for libraries.
fn library() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib64"].into_iter().flat_map(|root| {
        let inner = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        std::iter::once(PathBuf::from(root)).chain(inner)
    });
    let file = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    folders.map(file).find(|file| file.exists())
}
