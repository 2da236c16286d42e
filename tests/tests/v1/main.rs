//! `single-state.v1` as it is on the wire, spoken by hand to real processes: what a client of another
//! make may rely on, and what becomes of one that does not keep to it.

mod client;
mod farewell;
mod greeting;
mod mistakes;
mod numbers;
mod owners;
mod resume;

/// A database in a folder that ends with the test.
fn sqlite(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("x.sqlite").display())
}
