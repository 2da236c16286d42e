//! An empty database, made once for each release of PostgreSQL and copied for each test: making one
//! takes two seconds, copying it a tenth of one.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::binaries::{Binaries, finish};
use crate::process::program;

/// Part of the cache's name: to be raised when what is made here changes.
const EDITION: u32 = 2;

/// Who may connect: members of `locked` with their passwords, all others without.
const ACCESS: &str = "\
local all all trust
host all +locked 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
";

/// Copies an empty database to `data`.
pub(super) fn copy(binaries: &Binaries, data: &Path) -> Result<()> {
    // Cargo builds programs into a folder of `target`, which has one for the tests' own files.
    let built = program("postgres");
    let cache = built.ancestors().nth(2).context("cargo builds into a folder")?.join("tmp");
    std::fs::create_dir_all(&cache)?;
    let name = format!("{}-{EDITION}", binaries.version()?);
    let template = cache.join(&name);
    if !template.exists() {
        make(binaries, &cache, &template).context("make an empty database")?;
    }
    copy_folder(&template, data)
}

/// Whoever makes it last finds it made: a folder is renamed to its name only when it is complete,
/// and never over another.
fn make(binaries: &Binaries, cache: &Path, template: &Path) -> Result<()> {
    // Where the server's user may be, which the cache perhaps is not.
    let workshop = TempDir::with_prefix("single-state-postgres-")?;
    binaries.give_away(workshop.path())?;
    let data = workshop.path().join("data");
    let mut initdb = binaries.command("initdb", None);
    initdb.arg("-D").arg(&data).args(["-U", "postgres", "-E", "UTF8", "--locale=C"]);
    finish(initdb.args(["--no-sync", "--wal-segsize=1", "-A", "trust"]))?;
    std::fs::write(data.join("pg_hba.conf"), ACCESS)?;
    create_role(binaries, &data)?;
    let beside = TempDir::with_prefix_in("new-", cache)?;
    let complete = beside.path().join("data");
    copy_folder(&data, &complete)?;
    match std::fs::rename(&complete, template) {
        Err(error) if !template.exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// `pg_hba.conf` names the role, so it is there from the start.
fn create_role(binaries: &Binaries, data: &Path) -> Result<()> {
    let mut single = binaries.command("postgres", None);
    single.args(["--single", "-D"]).arg(data).arg("postgres");
    single.stdin(std::process::Stdio::piped());
    let mut server = single.stdout(std::process::Stdio::null()).spawn()?;
    let mut input = server.stdin.take().context("its input is a pipe")?;
    input.write_all(b"CREATE ROLE locked\n")?;
    drop(input);
    anyhow::ensure!(server.wait()?.success(), "postgres --single failed");
    Ok(())
}

/// With its owner, which is the server's user.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    finish(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to))
}
