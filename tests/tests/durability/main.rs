//! Sessions outlive their workers: what a cluster of real processes keeps in its store.

mod crashes;
mod ends;
mod owners;
mod starts;

/// A database in a folder that ends with the test.
fn sqlite(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("x.sqlite").display())
}
