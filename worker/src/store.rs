//! Where sessions outlive their process: the trait, and what a claim says and returns.
//!
//! Invariant: the store, not the routing, decides who owns a session. Each claim raises the epoch.

use futures_util::future::LocalBoxFuture;
use single_state_proto::id::{Epoch, SessionId};

pub(crate) mod memory;

/// A store of sessions.
pub(crate) trait Store {
    /// Takes ownership of a session, which need not exist. The new epoch is above `min_epoch` and
    /// above that of every earlier claim.
    fn claim(
        &self,
        session: &SessionId,
        min_epoch: Epoch,
    ) -> LocalBoxFuture<'_, Result<Epoch, StoreError>>;

    /// Gives up a session of which nothing has to be kept, if `epoch` still owns it.
    fn release(
        &self,
        session: &SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'_, Result<(), StoreError>>;

    /// Deletes a session that the app has ended, if `epoch` still owns it.
    fn delete(
        &self,
        session: &SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'_, Result<(), StoreError>>;
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A later claim has the session.
    #[error("the session has a later owner")]
    Fenced,
}

/// An epoch above `min_epoch` that no earlier owner can have had: from the clock, with random bits
/// for owners of one millisecond. Used where no row says what the last one was.
pub(crate) fn fresh_epoch(min_epoch: Epoch) -> Epoch {
    let now = single_state_node::link::incarnation().0;
    Epoch(now.max(min_epoch.0.saturating_add(1)))
}
