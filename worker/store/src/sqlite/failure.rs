//! What an error of SQLite or of its files means for a worker, in one sentence. Knows no statements.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};

use crate::StoreError;

/// When an error came: what is an operator's mistake at the start, like a file without rights, may
/// be mended or pass by later, and until then nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Preparing,
    Running,
}

const ELSEWHERE: &str = "or name another file with --store sqlite:PATH";

/// What an error of SQLite comes to.
pub(super) fn of_sqlite(path: &Path, error: &rusqlite::Error, moment: Moment) -> StoreError {
    let path = path.display();
    let reason = reason(error);
    let preparing = moment == Moment::Preparing;
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Unusable(format!(
            "{path} is not an SQLite database: move it away, {ELSEWHERE}"
        )),
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Unusable(format!(
            "the database {path} is damaged ({reason}): restore it, or move it away"
        )),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
            if preparing =>
        {
            StoreError::Unusable(format!(
                "{path} cannot be opened for writing ({reason}): give this user the rights to the \
                 file and its folder, {ELSEWHERE}"
            ))
        }
        Some(ErrorCode::TooBig) => StoreError::Unusable(format!(
            "the database {path} takes no value of this length ({reason}): keep less in the session"
        )),
        // No such table or column, or a value of another type: not what the migrations made.
        None | Some(ErrorCode::Unknown | ErrorCode::TypeMismatch) => StoreError::Unusable(format!(
            "the database {path} is not as this build made it ({reason}): restore it, {ELSEWHERE}"
        )),
        Some(_) => StoreError::Away(format!("the database {path} could not finish ({reason})")),
    }
}

/// The error without the statement that it is about.
fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// What an error of the files around the database comes to.
pub(super) fn of_file(what: &str, file: &Path, error: &io::Error, moment: Moment) -> StoreError {
    use io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    let file = file.display();
    match error.kind() {
        AlreadyExists | IsADirectory | NotADirectory | NotFound | PermissionDenied
        | ReadOnlyFilesystem
            if moment == Moment::Preparing =>
        {
            StoreError::Unusable(format!(
                "the {what} {file} cannot be made or written ({error}): give this user the \
                 rights, {ELSEWHERE}"
            ))
        }
        _ => StoreError::Away(format!("the {what} {file} could not be used ({error})")),
    }
}

/// Whether the disk did not confirm a flush. The system may have dropped what it could not write
/// and call the next flush a success, so nothing that this process writes later proves anything.
pub(super) fn is_of_flush(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC))
}

/// Whether the connection is as good as before this error.
pub(super) fn leaves_connection(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull | ErrorCode::TooBig))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn error(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn what_may_pass_by_is_away_and_what_needs_an_operator_is_unusable() {
        let of = |code, moment| of_sqlite(Path::new("a.db"), &error(code), moment);
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_IOERR, ffi::SQLITE_NOMEM] {
            for moment in [Moment::Preparing, Moment::Running] {
                assert!(matches!(of(code, moment), StoreError::Away(_)), "{code} {moment:?}");
            }
        }
        for code in [ffi::SQLITE_READONLY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_PERM] {
            assert!(matches!(of(code, Moment::Preparing), StoreError::Unusable(_)), "{code}");
            assert!(matches!(of(code, Moment::Running), StoreError::Away(_)), "{code}");
        }
        for code in [ffi::SQLITE_NOTADB, ffi::SQLITE_CORRUPT, ffi::SQLITE_ERROR] {
            assert!(matches!(of(code, Moment::Running), StoreError::Unusable(_)), "{code}");
        }
    }

    #[test]
    fn only_a_failed_flush_ends_the_process() {
        assert!(is_of_flush(&error(ffi::SQLITE_IOERR_FSYNC)));
        assert!(is_of_flush(&error(ffi::SQLITE_IOERR_DIR_FSYNC)));
        assert!(!is_of_flush(&error(ffi::SQLITE_IOERR_WRITE)));
        assert!(!is_of_flush(&error(ffi::SQLITE_FULL)));
    }
}
