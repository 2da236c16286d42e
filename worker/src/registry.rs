//! The sessions of a worker: the only place that starts or ends one. Knows no sockets and no app
//! types.
//!
//! ```text
//!   OPEN ──▶ absent ──claim──▶ loading ──epoch──▶ resident ──ended, or nobody needs it──▶ absent
//!                                 OPENs wait        OPENs attach at once
//! ```

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;

use futures_util::FutureExt;
use rustc_hash::FxHashMap;
use single_state_proto::frame::{CloseCode, Open, Refused};
use single_state_proto::id::{Epoch, SessionId};

use crate::actor::{self, End};
use crate::host::Host;
use crate::resident::{Resident, Tab};
use crate::session::Session;
use crate::store::{StoreError, fresh_epoch};

/// When a gateway asks again for a session for which there is no room.
const FULL_RETRY_MS: u32 = 1000;

/// How a gateway whose session could not be claimed asks again.
const CLAIM_RETRY_MS: u32 = 500;

type Coroutine = Pin<Box<dyn Future<Output = End>>>;

/// All sessions of one worker.
pub(crate) struct Registry {
    host: Rc<Host>,
    sessions: RefCell<FxHashMap<SessionId, Entry>>,
    /// Makes a session's coroutine: the one thing that knows the app's type.
    start: fn(Rc<Resident>, Rc<Host>) -> Coroutine,
}

enum Entry {
    Loading(Vec<(Box<Open>, Rc<dyn Tab>)>),
    Resident(Rc<Resident>),
}

impl Registry {
    /// A worker's registry for the app `S`.
    pub(crate) fn new<S: Session>(host: Rc<Host>) -> Rc<Self> {
        let start = |resident, host| Box::pin(actor::run::<S>(resident, host)) as Coroutine;
        Rc::new(Self { host, sessions: RefCell::default(), start })
    }

    /// Attaches a channel to its session, which is loaded first if it is not in memory.
    pub(crate) fn open(self: &Rc<Self>, open: Box<Open>, tab: Rc<dyn Tab>) {
        let mut sessions = self.sessions.borrow_mut();
        let full = self.host.max_sessions > 0 && sessions.len() >= self.host.max_sessions;
        match sessions.get_mut(&open.session) {
            Some(Entry::Resident(resident)) => {
                let resident = resident.clone();
                drop(sessions);
                resident.attach(&open, tab);
            }
            Some(Entry::Loading(waiting)) => waiting.push((open, tab)),
            None if full => {
                drop(sessions);
                tab.refused(Refused::Retry { after_ms: FULL_RETRY_MS, owner: None });
            }
            None => {
                let (session, min_epoch, fresh) =
                    (open.session.clone(), open.min_epoch, open.fresh);
                sessions.insert(session.clone(), Entry::Loading(vec![(open, tab)]));
                drop(sessions);
                if fresh {
                    // Nobody else can know the id: there is nothing to claim yet.
                    self.host.metrics.claimed("fresh");
                    self.loaded(&session, Ok(fresh_epoch(min_epoch)));
                } else {
                    tokio::task::spawn_local(self.clone().load(session, min_epoch));
                }
            }
        }
    }

    async fn load(self: Rc<Self>, session: SessionId, min_epoch: Epoch) {
        let claimed = self.host.store.claim(&session, min_epoch).await;
        if claimed.is_ok() {
            self.host.metrics.claimed("stored");
        }
        self.loaded(&session, claimed);
    }

    fn loaded(self: &Rc<Self>, session: &SessionId, claimed: Result<Epoch, StoreError>) {
        let Some(Entry::Loading(waiting)) = self.sessions.borrow_mut().remove(session) else {
            return;
        };
        let epoch = match claimed {
            Ok(epoch) => epoch,
            Err(error) => {
                tracing::warn!(session.id = session.as_str(), %error, "claim a session");
                for (_, tab) in waiting {
                    tab.refused(Refused::Retry { after_ms: CLAIM_RETRY_MS, owner: None });
                }
                return;
            }
        };
        let waiting: Vec<_> = waiting.into_iter().filter(|(_, tab)| tab.is_wanted()).collect();
        let resident = Resident::new(session.clone(), epoch);
        if waiting.is_empty() {
            // Whoever asked for it has left: it ends at its first turn.
            resident.stop();
        }
        let entry = Entry::Resident(resident.clone());
        self.sessions.borrow_mut().insert(session.clone(), entry);
        self.host.metrics.resident.inc();
        tokio::task::spawn_local(self.clone().live(resident.clone()));
        for (open, tab) in waiting {
            resident.attach(&open, tab);
        }
    }

    async fn live(self: Rc<Self>, resident: Rc<Resident>) {
        let coroutine = (self.start)(resident.clone(), self.host.clone());
        let (id, epoch) = (&resident.id, resident.epoch);
        let stored = match AssertUnwindSafe(coroutine).catch_unwind().await {
            Ok(End::Stopped) => self.host.store.release(id, epoch).await,
            Ok(End::Deleted) => self.host.store.delete(id, epoch).await,
            Err(_) => {
                // Handlers are contained; this is `Default` of the app, or a mistake of ours.
                tracing::error!(session.id = id.as_str(), "session panicked outside its handlers");
                resident.close_channels(CloseCode::Quarantined);
                self.host.store.release(id, epoch).await
            }
        };
        if let Err(error) = stored {
            tracing::warn!(session.id = id.as_str(), %error, "give up a session");
        }
        self.sessions.borrow_mut().remove(id);
        self.host.metrics.resident.dec();
    }

    /// Number of sessions in memory.
    pub(crate) fn resident(&self) -> usize {
        self.sessions.borrow().len()
    }
}
