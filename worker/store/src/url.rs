//! Which store an URL names.

use crate::{Settings, SharedStore};

/// Why an URL names no store. Its printed form is a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(pub(crate) String);

/// Opens the store that `url` names, without reaching for it: `memory:`, `sqlite:PATH` or
/// `postgres://…`.
///
/// # Errors
/// When the URL names no store, or is written wrongly.
pub fn open(url: &str, settings: Settings) -> Result<SharedStore, InvalidUrl> {
    let _ = (url, settings);
    Err(InvalidUrl("being written".to_owned()))
}
