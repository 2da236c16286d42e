//! Of what `on.rs` does, nothing.

use std::io::Result;
use std::process::ExitCode;

use crate::{Mutant, Point, Process};

/// Reads the variables; in a build without faults it does not.
#[inline(always)]
pub fn start(_: Process) -> std::result::Result<(), ExitCode> {
    Ok(())
}

/// The process comes to this point.
#[inline(always)]
pub fn point(_: Point) {}

/// The process comes to a point from which the way to another one is as good as gone.
#[inline(always)]
pub fn follow(_: Point, _: Point) {}

/// Of what is written next, only a half may leave.
#[inline(always)]
pub fn half_write(_: Point) {}

/// Writes.
#[inline(always)]
pub fn write(bytes: &[u8], write: impl FnOnce(&[u8]) -> Result<usize>) -> Result<usize> {
    write(bytes)
}

/// The process comes to this point while somebody else works on a call.
#[inline(always)]
pub fn under_way<F: Future>(_: Point, call: F) -> F {
    call
}

/// Whether this mistake is to be made.
#[inline(always)]
pub fn mutant(_: Mutant) -> bool {
    false
}
