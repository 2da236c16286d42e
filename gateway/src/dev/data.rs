//! The folder where the workers keep sessions.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

/// What git reads in the folder: nothing in it is a part of the project.
const IGNORE_ALL: &str = "# Sessions of `gateway dev`.\n*\n";

/// Whatever users did in their sessions is for nobody else on this machine.
const OWNER_ONLY: u32 = 0o700;

/// Makes the folder if it is missing, and makes sure that it can be written in: a worker would only
/// wait for its store to come.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.parent().unwrap_or(folder))?;
    fs::DirBuilder::new().recursive(true).mode(OWNER_ONLY).create(folder)?;
    if fs::read_dir(folder)?.next().is_none() {
        // A folder that holds something else is the author's own affair.
        return fs::write(folder.join(".gitignore"), IGNORE_ALL);
    }
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    fs::write(&probe, "")?;
    fs::remove_file(probe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_new_folder_is_made_for_its_owner_only_and_ignored_by_git() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("deep/data");
        for _ in 0..2 {
            prepare(&folder).unwrap();
            assert_eq!(fs::read_to_string(folder.join(".gitignore")).unwrap(), IGNORE_ALL);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "and nothing else");
        }
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, OWNER_ONLY);
    }

    #[test]
    fn a_folder_with_other_files_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "").unwrap();
        prepare(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(prepare(&file).is_err() && prepare(&file.join("below")).is_err());
    }
}
