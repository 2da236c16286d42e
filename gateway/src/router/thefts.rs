//! Sessions that a worker has taken from an owner that had not given them up, because another gateway
//! could not reach that owner. Pages that this gateway has there would go on with what nobody else
//! hears: they are led to the thief (R16).

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use single_state_node::turn::give_way;
use single_state_proto::frame::Taken;
use single_state_proto::id::{Epoch, SessionId};
use tokio::sync::Notify;

use super::Router;
use crate::worker_link::WorkerLink;

/// Channels that are looked at in one turn of the event loop.
const LOOKED_AT: usize = 1024;

/// Thefts that were heard of since the channels were last looked at: when a worker dies, all its
/// sessions are taken at once.
#[derive(Debug, Default)]
pub(super) struct Thefts {
    heard: RefCell<FxHashMap<SessionId, (Epoch, Rc<WorkerLink>)>>,
    news: Notify,
}

impl Router {
    /// A worker has taken a session.
    pub(crate) fn taken(&self, thief: &Rc<WorkerLink>, taken: Taken) {
        let Taken { session, epoch } = taken;
        let mut heard = self.thefts.heard.borrow_mut();
        if heard.get(&session).is_none_or(|(other, _)| *other < epoch) {
            heard.insert(session, (epoch, thief.clone()));
            self.thefts.news.notify_one();
        }
    }

    /// Leads pages of sessions that were taken to the thief, for ever.
    pub(super) async fn follow_thefts(self: Rc<Self>) {
        loop {
            self.thefts.news.notified().await;
            // Those that come together are looked up together.
            give_way().await;
            let heard = std::mem::take(&mut *self.thefts.heard.borrow_mut());
            for worker in self.links() {
                for some in worker.channels().chunks(LOOKED_AT) {
                    for channel in some {
                        if let Some((epoch, thief)) = heard.get(&channel.session)
                            && !Rc::ptr_eq(thief, &worker)
                            && channel.epoch() < *epoch
                            && thief.health().is_up()
                        {
                            worker.leave(channel);
                            self.settled(channel);
                            self.homing.hint_at(&channel.session, thief);
                            self.attach(channel);
                        }
                    }
                    give_way().await;
                }
            }
        }
    }
}
