//! Sessions that are not where placement wants them: since their worker was away, or since the list
//! of workers has changed. Their owners are asked to hand them over (RECALL), a few at a time, once
//! the worker that shall have them is linked and has proven to stay.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use single_state_node::turn::give_way;
use single_state_proto::id::SessionId;
use tokio::sync::Notify;

use super::Router;
use crate::channel::Channel;
use crate::worker_link::WorkerLink;

/// Sessions that are on their way at a time.
const AT_ONCE: usize = 64;
/// A session that was not handed over within this time stays for now (R18).
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);
/// Channels that are looked at in one turn of the event loop.
const LOOKED_AT: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Homing {
    /// Workers that have sessions which belong elsewhere: to be asked first.
    hints: RefCell<FxHashMap<SessionId, Rc<WorkerLink>>>,
    /// Sessions that were called home, and when.
    moving: RefCell<FxHashMap<SessionId, Instant>>,
    /// Something has changed for sessions that are not at home.
    news: Notify,
    /// One that was on its way has arrived.
    settled: Notify,
}

impl Homing {
    /// Sessions may be in the wrong place, or may go home now.
    pub(super) fn look(&self) {
        self.news.notify_one();
    }

    /// Who has the session, if it is not where it belongs.
    pub(super) fn hint(&self, session: &SessionId) -> Option<Rc<WorkerLink>> {
        self.hints.borrow().get(session).cloned()
    }

    pub(super) fn hint_at(&self, session: &SessionId, worker: &Rc<WorkerLink>) {
        self.hints.borrow_mut().insert(session.clone(), worker.clone());
    }

    pub(super) fn forget_hint(&self, session: &SessionId) {
        self.hints.borrow_mut().remove(session);
    }

    /// Where sessions belong has changed.
    pub(super) fn forget(&self) {
        self.hints.borrow_mut().clear();
        self.moving.borrow_mut().clear();
        self.settled.notify_one();
    }

    /// Sessions that were called home of late and have not arrived.
    pub(super) fn moving(&self, now: Instant) -> usize {
        let moving = self.moving.borrow();
        moving.values().filter(|called| now - **called < GIVEN_UP_AFTER).count()
    }

    fn is_full(&self, now: Instant) -> bool {
        let mut moving = self.moving.borrow_mut();
        if moving.len() >= AT_ONCE {
            moving.retain(|_, called| now - *called < GIVEN_UP_AFTER);
        }
        moving.len() >= AT_ONCE
    }
}

/// What is to be done about a session that is not at home.
enum Call {
    /// Nothing, or not before something else changes.
    No,
    /// Look again then.
    At(Instant),
    Now,
}

impl Router {
    /// The session is not on its way any more, or its browser is gone.
    pub(super) fn settled(&self, channel: &Channel) {
        let mut moving = self.homing.moving.borrow_mut();
        if !moving.is_empty() && moving.remove(&channel.session).is_some() {
            self.homing.settled.notify_one();
        }
    }

    /// Calls sessions home whenever there is news of workers, and later those that had to wait.
    pub(super) async fn bring_home(self: Rc<Self>) {
        let mut again = None;
        loop {
            tokio::select! {
                () = self.homing.news.notified() => {}
                () = until(again) => {}
            }
            again = None;
            for worker in self.links() {
                again = earliest(again, self.call_from(&worker).await);
            }
        }
    }

    /// Calls home what is at this worker and belongs elsewhere. Returns when to look again.
    async fn call_from(&self, worker: &Rc<WorkerLink>) -> Option<Instant> {
        let mut again = None;
        for some in worker.channels().chunks(LOOKED_AT) {
            for channel in some {
                match self.call(worker, channel, Instant::now()) {
                    Call::No => continue,
                    Call::At(moment) => {
                        again = earliest(again, Some(moment));
                        continue;
                    }
                    Call::Now => {}
                }
                while self.homing.is_full(Instant::now()) {
                    let _ =
                        tokio::time::timeout(GIVEN_UP_AFTER, self.homing.settled.notified()).await;
                }
                if worker.recall(channel) {
                    let (session, now) = (channel.session.clone(), Instant::now());
                    self.restless.borrow_mut().called(&session, now);
                    again = earliest(again, self.restless.borrow().rests_until(&session, now));
                    self.homing.moving.borrow_mut().insert(session, now);
                }
            }
            give_way().await;
        }
        again
    }

    fn call(&self, worker: &Rc<WorkerLink>, channel: &Channel, now: Instant) -> Call {
        let Some(home) = self.home(&channel.session) else { return Call::No };
        // What lives in memory only stays where it is (R14).
        if Rc::ptr_eq(&home, worker) || channel.is_in_memory() {
            return Call::No;
        }
        let Some(from) = home.health().takes_home_from() else { return Call::No };
        let rests = self.restless.borrow().rests_until(&channel.session, now);
        let moment = rests.map_or(from, |rests| rests.max(from));
        if moment > now { Call::At(moment) } else { Call::Now }
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
