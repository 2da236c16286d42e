//! `memory:`: a store that ends with its process. For tests, and for apps whose sessions need not
//! outlive anything.

use std::cell::RefCell;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, ready};
use rustc_hash::FxHashMap;
use single_state_proto::id::{Epoch, SessionId};

use super::{Store, StoreError, fresh_epoch};

/// Sessions by id, with the epoch of their owner.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    epochs: RefCell<FxHashMap<SessionId, Epoch>>,
}

impl Store for MemoryStore {
    fn claim(
        &self,
        session: &SessionId,
        min_epoch: Epoch,
    ) -> LocalBoxFuture<'_, Result<Epoch, StoreError>> {
        let mut epochs = self.epochs.borrow_mut();
        let last = epochs.get(session).copied().unwrap_or_default();
        let epoch = fresh_epoch(min_epoch.max(last));
        epochs.insert(session.clone(), epoch);
        ready(Ok(epoch)).boxed_local()
    }

    fn release(
        &self,
        session: &SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        // It keeps nothing but the epoch, and the clock gives a later owner a higher one.
        self.delete(session, epoch)
    }

    fn delete(
        &self,
        session: &SessionId,
        epoch: Epoch,
    ) -> LocalBoxFuture<'_, Result<(), StoreError>> {
        let mut epochs = self.epochs.borrow_mut();
        let outcome = match epochs.get(session) {
            Some(owner) if *owner > epoch => Err(StoreError::Fenced),
            _ => {
                epochs.remove(session);
                Ok(())
            }
        };
        ready(outcome).boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(store: &MemoryStore, min_epoch: Epoch) -> Epoch {
        let claimed = store.claim(&"a".parse().unwrap(), min_epoch);
        claimed.now_or_never().unwrap().unwrap()
    }

    #[test]
    fn each_claim_has_a_higher_epoch_than_all_before() {
        let store = MemoryStore::default();
        let first = claim(&store, Epoch(0));
        let second = claim(&store, Epoch(0));
        assert!(second > first);
        assert_eq!(claim(&store, Epoch(1 << 60)), Epoch((1 << 60) + 1));
    }

    #[test]
    fn an_earlier_owner_deletes_nothing() {
        let store = MemoryStore::default();
        let (first, second) = (claim(&store, Epoch(0)), claim(&store, Epoch(0)));
        let delete = |epoch| store.delete(&"a".parse().unwrap(), epoch).now_or_never().unwrap();
        assert!(matches!(delete(first), Err(StoreError::Fenced)));
        assert!(delete(second).is_ok());
    }
}
