//! A small disk of a test's own, which can be full.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use tempfile::TempDir;

/// A file system of its own, for which one must be root.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one of so many megabytes.
    pub fn mount(megabytes: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = format!("size={megabytes}m,mode=0755");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .status()?;
        ensure!(mount.success(), "a small disk is mounted by root only: run this as root");
        Ok(Self(folder))
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    fn ballast(&self) -> PathBuf {
        self.folder().join("ballast")
    }

    /// Takes all the room there is.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        // Ends when the disk is full.
        let full = std::io::copy(&mut std::io::repeat(0), &mut ballast).map_err(|e| e.kind());
        ensure!(full == Err(ErrorKind::StorageFull), "{full:?}");
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while a server has files there: it is on its way out.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder()).status();
    }
}
