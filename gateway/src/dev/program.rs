//! The program behind a worker command: where it lies, whether it can be run, whether it changed.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::DevError;

/// The worker command, cut into what is looked up and what is passed on.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    name: PathBuf,
    arguments: Vec<OsString>,
    is_default: bool,
}

/// What tells one build of a program from the next: builds replace the file or write it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Program {
    /// Of a command line; the empty one means the program `worker` beside the running one.
    pub(crate) fn of(command: &[OsString]) -> Self {
        match command {
            [] => Self { name: beside_us("worker"), arguments: Vec::new(), is_default: true },
            [name, arguments @ ..] => {
                Self { name: name.into(), arguments: arguments.into(), is_default: false }
            }
        }
    }

    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    pub(crate) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The file that is run: the named path itself, or what a search of PATH finds.
    fn locate(&self) -> Option<PathBuf> {
        if self.name.components().count() > 1 || self.name.is_absolute() {
            return Some(self.name.clone());
        }
        env::split_paths(&env::var_os("PATH")?)
            .map(|folder| folder.join(&self.name))
            .find(|path| is_executable(path))
    }

    /// The file whose change means a new program. Cargo runs another one, so watching it is vain.
    pub(crate) fn watched(&self) -> Option<PathBuf> {
        if self.name.file_name()? == "cargo" { None } else { self.locate() }
    }

    /// Of the file as it is now; none while it is missing or cannot be run, as during a build.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let path = self.watched().filter(|path| is_executable(path))?;
        let metadata = fs::metadata(path).ok()?;
        Some(Fingerprint {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }

    /// Says in advance why it cannot be started.
    pub(crate) fn check(&self) -> Result<(), DevError> {
        match self.locate() {
            Some(path) if is_executable(&path) => Ok(()),
            Some(path) if path.exists() => Err(DevError::NotExecutable(path)),
            Some(path) if self.is_default => Err(DevError::NoWorkerBeside(path)),
            _ => Err(DevError::NotFound(self.name.display().to_string())),
        }
    }

    /// Says why the start failed.
    pub(crate) fn explain(&self, source: io::Error) -> DevError {
        match self.check() {
            Err(clear) => clear,
            Ok(()) => DevError::Refused { command: self.name.display().to_string(), source },
        }
    }
}

fn beside_us(name: &str) -> PathBuf {
    let ours = env::current_exe().unwrap_or_default();
    ours.parent().unwrap_or(Path::new(".")).join(name)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: impl Into<OsString>) -> Program {
        Program::of(&[name.into(), "argument".into()])
    }

    #[test]
    fn a_name_is_looked_up_in_the_search_path() {
        let shell = program("sh");
        assert!(is_executable(&shell.watched().unwrap()));
        assert!(shell.check().is_ok());
        assert!(shell.fingerprint().is_some());
    }

    #[test]
    fn no_command_means_the_worker_beside_us() {
        let program = Program::of(&[]);
        assert_eq!(program.name().parent(), env::current_exe().unwrap().parent());
        assert!(program.name().ends_with("worker"));
        assert!(program.arguments().is_empty());
    }

    #[test]
    fn cargo_is_not_watched() {
        assert_eq!(program("cargo").watched(), None);
        assert_eq!(program("/some/bin/cargo").fingerprint(), None);
    }

    #[test]
    fn what_cannot_be_started_is_explained_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        fs::write(&text, "no program").unwrap();
        let sentence = |name: OsString| program(name).check().unwrap_err().to_string();
        assert!(sentence("no-such-worker".into()).contains("`no-such-worker` was not found"));
        assert!(sentence(text.into()).contains("chmod +x"));
        let missing = Program { is_default: true, ..program(folder.path().join("worker")) };
        assert!(missing.check().unwrap_err().to_string().contains("cargo build"));
    }

    #[test]
    fn a_replaced_file_has_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker");
        let program = program(&path);
        assert_eq!(program.fingerprint(), None);
        fs::copy("/bin/sleep", &path).unwrap();
        let before = program.fingerprint();
        assert!(before.is_some());
        fs::copy(&path, folder.path().join("next")).unwrap();
        fs::rename(folder.path().join("next"), &path).unwrap();
        assert_ne!(program.fingerprint(), before);
    }
}
