//! A session's life in memory, and each way in which it ends.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use pin_project_lite::pin_project;
use single_state_faults::{self as faults, Point};
use single_state_proto::frame::{CloseCode, ResetCode, Skipped};
use single_state_store::Saved;
use tokio::time::Instant;

use super::{Entry, Loading, Registry};
use crate::actor::End;
use crate::history::Deed;
use crate::resident::{Cut, Poison, Resident};

/// A save that is on its way when a session is given up is waited for so long.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// While the store is away, what must be done is tried again so often.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// A session's life in memory and how it ends: one block of memory, whatever the app's type.
pub(super) type Life = Pin<Box<dyn Future<Output = ()>>>;

pin_project! {
    /// A session's coroutine, which may be cut off wherever it is. Its outputs leave whenever it
    /// pauses, so that what one handler assigns many times goes out once.
    struct Living<C> {
        resident: Rc<Resident>,
        #[pin]
        coroutine: C,
    }
}

impl<C: Future<Output = End>> Future for Living<C> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = self.project();
        match this.resident.poll_cut(context) {
            Poll::Ready(Cut::Fenced) => return Poll::Ready(End::Fenced),
            Poll::Ready(Cut::Interrupted) => return Poll::Ready(End::Interrupted),
            Poll::Pending => {}
        }
        let progress = this.coroutine.poll(context);
        this.resident.pump_all();
        progress
    }
}

impl Registry {
    /// The life of a session that this coroutine leads.
    pub(super) fn live(
        self: Rc<Self>,
        resident: Rc<Resident>,
        coroutine: impl Future<Output = End> + 'static,
    ) -> Life {
        let living = Living { resident: resident.clone(), coroutine };
        // The coroutine is dropped first, in the middle of whatever it does, and its end is on the
        // heap: a living session holds no room for it.
        let ended = |end| Box::pin(self.ended(resident, end));
        Box::pin(AssertUnwindSafe(living).catch_unwind().then(ended))
    }

    async fn ended(self: Rc<Self>, resident: Rc<Resident>, end: Result<End, Box<dyn Any + Send>>) {
        let id = &resident.id;
        self.host.committer.forget(&resident);
        resident.end_turn();
        let again = match end {
            Ok(End::Stopped) => {
                self.host.history.record(id, resident.epoch, || Deed::Passivate);
                self.release(&resident).await;
                faults::point(Point::Released);
                resident.moved();
                self.count_leaving(&resident);
                None
            }
            Ok(End::Deleted) => {
                self.delete(&resident).await;
                None
            }
            Ok(End::Fenced) => {
                self.host.history.record(id, resident.epoch, || Deed::Fenced);
                self.contest.borrow_mut().was_robbed(id, Instant::now());
                resident.reset_channels(ResetCode::Fenced);
                None
            }
            Ok(End::Interrupted) => {
                // What is on its way to the store is part of what the next owner finds.
                let settled = std::future::poll_fn(|context| resident.poll_settled(context));
                let _ = tokio::time::timeout(SETTLED_WITHIN, settled).await;
                self.release(&resident).await;
                resident.reset_channels(ResetCode::RolledBack);
                self.count_leaving(&resident);
                None
            }
            Ok(End::Panicked(poison)) => Some(poison),
            Ok(End::Unreadable(error)) => {
                tracing::error!(session.id = id.as_str(), %error, "its state cannot be read back");
                self.host.metrics.quarantined("unreadable");
                resident.close_channels(CloseCode::Quarantined);
                self.release(&resident).await;
                None
            }
            Err(_) => {
                // Handlers are contained, so this is a mistake of ours.
                tracing::error!(session.id = id.as_str(), "session panicked outside its handlers");
                self.host.metrics.quarantined("panic");
                resident.close_channels(CloseCode::Quarantined);
                None
            }
        };
        self.sessions.borrow_mut().remove(id);
        self.host.metrics.resident.dec();
        self.left.notify_waiters();
        if let Some(poison) = again {
            self.roll_back(&resident, poison);
        }
    }

    /// Memory is given up; the session is loaded as it was last committed, and its clients send
    /// again what came after. Also one that is not known to have a row is claimed: its first save
    /// may be on its way, and what begins from nothing beside that would be no continuation of it,
    /// though its epoch is (R13).
    pub(super) fn roll_back(self: &Rc<Self>, resident: &Resident, poison: Poison) {
        let session = resident.id.clone();
        let loading = Loading { poison: Some(poison), wanted: true, ..Loading::default() };
        self.sessions.borrow_mut().insert(session.clone(), Entry::Loading(Box::new(loading)));
        resident.reset_channels(ResetCode::RolledBack);
        let (epoch, skipped) = (resident.epoch, Skipped::default());
        tokio::task::spawn_local(self.clone().load(session, epoch, skipped));
    }

    fn count_leaving(&self, resident: &Resident) {
        if let Some((since, why)) = resident.leaving() {
            self.host.metrics.left(why, since.elapsed());
        }
    }

    async fn release(&self, resident: &Resident) {
        if !resident.has_row() {
            return;
        }
        let released = self.host.ownership.release(&resident.id, resident.epoch).await;
        if let Err(error) = released {
            // It is politeness: whoever wants the session takes it after a while.
            tracing::debug!(session.id = resident.id.as_str(), %error, "release a session");
        }
    }

    /// The app has ended the session: when it is deleted, its clients hear of it.
    async fn delete(&self, resident: &Resident) {
        while resident.has_row() {
            match self.host.store.delete(&resident.id, resident.epoch).await {
                Ok(Saved::Fenced) => {
                    return resident.reset_channels(ResetCode::Fenced);
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(session.id = resident.id.as_str(), %error, "delete a session");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
        self.host.history.record(&resident.id, resident.epoch, || Deed::Delete);
        resident.say_last_words();
        resident.close_channels(CloseCode::SessionEnded);
    }
}
