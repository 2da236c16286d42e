//! PostgreSQL's programs on this machine, and as whom they run: root may not, so it becomes the user
//! that Debian's package has made for them.

use std::cmp::Reverse;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where the programs are, and who runs them.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    folder: PathBuf,
    is_root: bool,
}

impl Binaries {
    /// The programs that PATH names, else Debian's newest.
    pub(super) fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        folders.extend(debian());
        // Debian's folders have all programs, PATH perhaps only links to some.
        let real = |folder: PathBuf| folder.join("postgres").canonicalize().ok();
        let folder = folders.into_iter().filter_map(real).filter_map(|program| {
            let folder = program.parent()?.to_owned();
            folder.join("initdb").exists().then_some(folder)
        });
        let folder = { folder }.next();
        let folder = folder.context("no PostgreSQL server here: run `tests/setup.sh test`")?;
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        Ok(Self { folder, is_root })
    }

    /// Which release they are, as a part of a file's name.
    pub(super) fn version(&self) -> Result<String> {
        let version = Command::new(self.folder.join("postgres")).arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        Ok(version.split(|c: char| !(c.is_alphanumeric() || c == '.')).collect())
    }

    /// One of the programs, to be run by the server's user; `at_our_end` is the signal that it gets
    /// when the thread that started it ends.
    pub(super) fn command(&self, program: &str, at_our_end: Option<&str>) -> Command {
        self.run(&self.folder.join(program), at_our_end)
    }

    fn run(&self, program: &Path, at_our_end: Option<&str>) -> Command {
        let mut command = Command::new("setpriv");
        if self.is_root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        if let Some(signal) = at_our_end {
            command.args(["--pdeathsig", signal]);
        }
        command.arg("--").arg(program);
        // It may not be allowed to be in ours.
        command.current_dir("/");
        command
    }

    /// Makes the server's user the owner of a folder.
    pub(super) fn give_away(&self, folder: &Path) -> Result<()> {
        if !self.is_root {
            return Ok(());
        }
        finish(Command::new("chown").arg("postgres:postgres").arg(folder)).context(
            "root may not run PostgreSQL, and its user `postgres` is missing: run \
             `tests/setup.sh test`",
        )
    }

    /// Makes `authority.crt`, and `server.crt` with `server.key` for the name `localhost`.
    pub(super) fn make_certificates(&self, folder: &Path) -> Result<()> {
        let make = |name: &str, more: &[&str]| {
            let mut command = self.run(Path::new("openssl"), None);
            command.current_dir(folder);
            command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
            command.args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj"]);
            command.arg(format!("/CN=single-state {name}"));
            command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
            finish(command.args(more)).with_context(|| format!("make {name}.crt"))
        };
        make("authority", &["-addext", "keyUsage=critical,keyCertSign"])?;
        let signed = ["-CA", "authority.crt", "-CAkey", "authority.key"];
        let of_localhost = ["-addext", "subjectAltName=DNS:localhost"];
        let no_authority = ["-addext", "basicConstraints=critical,CA:FALSE"];
        make("server", &[signed.as_slice(), &of_localhost, &no_authority].concat())
    }
}

/// Debian's folders of programs, the newest release first.
fn debian() -> Vec<PathBuf> {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut releases: Vec<_> =
        releases.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    releases.sort_by_key(|(number, _)| Reverse(*number));
    releases.into_iter().map(|(_, path)| path.join("bin")).collect()
}

/// Runs a command to its end; its error output is the error.
pub(super) fn finish(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))
}
