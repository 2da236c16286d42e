//! How a process ends.

use std::process::ExitCode;

/// Ended as asked.
pub const CLEAN: u8 = 0;
/// Could not do its work; the log says why.
pub const FAILED: u8 = 1;
/// Flags or variables that cannot work; all mistakes are printed.
pub const USAGE: u8 = 64;

/// Prints the error with its causes on one line and returns [`FAILED`].
pub fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    eprintln!("{line}");
    ExitCode::from(FAILED)
}
