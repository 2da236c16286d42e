//! The channels that have no worker: until one takes them, or for so long that their browsers are
//! sent away. What their browsers send is kept within bounds by the channels themselves.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use single_state_node::turn::give_way;
use single_state_proto::id::ConnectionId;

use super::Router;
use super::restless::TOO_NEW;
use crate::channel::Channel;
use crate::metrics::Metrics;

/// Channels of one turn of the event loop.
const AT_ONCE: usize = 128;
/// How often it is looked who has waited too long.
const TICK: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Waiting {
    channels: RefCell<FxHashMap<ConnectionId, Entry>>,
    metrics: Rc<Metrics>,
}

#[derive(Debug)]
struct Entry {
    channel: Rc<Channel>,
    why: Why,
}

/// What a channel waits for. Only one that no worker could be asked for is given up (R17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// A worker that can be asked; since when.
    Worker(Instant),
    /// A worker that can read the session: those that were asked run an older version of the app.
    Reader,
    /// The end of the time for which a worker has asked for patience.
    Patience,
}

impl Waiting {
    pub(super) fn new(metrics: Rc<Metrics>) -> Self {
        Self { channels: RefCell::default(), metrics }
    }

    /// No worker can be asked for the channel now.
    pub(super) fn park(&self, channel: &Rc<Channel>) {
        let before = self.channels.borrow().get(&channel.connection).map(|entry| entry.why);
        let since = match before {
            Some(Why::Worker(since)) => since,
            _ => Instant::now(),
        };
        self.insert(channel, Why::Worker(since));
    }

    /// No worker that can be asked now can read the channel's session.
    pub(super) fn for_a_reader(&self, channel: &Rc<Channel>) {
        self.insert(channel, Why::Reader);
    }

    /// A worker has asked for patience.
    pub(super) fn retry(&self, channel: &Rc<Channel>) {
        self.insert(channel, Why::Patience);
    }

    fn insert(&self, channel: &Rc<Channel>, why: Why) {
        let entry = Entry { channel: channel.clone(), why };
        if self.channels.borrow_mut().insert(channel.connection, entry).is_none() {
            self.metrics.parked.inc();
        }
    }

    /// A worker was asked for the channel, or its browser is gone.
    pub(super) fn remove(&self, channel: &Channel) {
        if self.channels.borrow_mut().remove(&channel.connection).is_some() {
            self.metrics.parked.dec();
        }
    }

    pub(super) fn contains(&self, channel: &Channel) -> bool {
        self.channels.borrow().contains_key(&channel.connection)
    }

    pub(super) fn channels(&self) -> Vec<Rc<Channel>> {
        self.channels.borrow().values().map(|entry| entry.channel.clone()).collect()
    }

    /// Those that news of workers may help.
    fn parked(&self) -> Vec<Rc<Channel>> {
        let channels = self.channels.borrow();
        let parked = channels.values().filter(|entry| entry.why != Why::Patience);
        parked.map(|entry| entry.channel.clone()).collect()
    }

    fn any_for_a_reader(&self) -> bool {
        self.channels.borrow().values().any(|entry| entry.why == Why::Reader)
    }

    fn waited_for(&self, patience: Duration, now: Instant) -> Vec<Rc<Channel>> {
        let channels = self.channels.borrow();
        let is_late = |since| now.saturating_duration_since(since) >= patience;
        let late = channels.values().filter(|entry| match entry.why {
            Why::Worker(since) => is_late(since),
            Why::Reader | Why::Patience => false,
        });
        late.map(|entry| entry.channel.clone()).collect()
    }
}

impl Router {
    /// Asks workers for the channels that wait, whenever there is news of workers.
    pub(super) async fn serve_waiting(self: Rc<Self>) {
        loop {
            self.news.notified().await;
            for some in self.waiting.parked().chunks(AT_ONCE) {
                for channel in some.iter().filter(|channel| self.waiting.contains(channel)) {
                    self.attach(channel);
                }
                give_way().await;
            }
        }
    }

    /// Asks again now and then for sessions that no worker could read: an operator may have emptied
    /// them. That a worker was started is news, and not waited for here.
    pub(super) async fn look_for_readers(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TOO_NEW).await;
            if self.waiting.any_for_a_reader() {
                self.news.notify_one();
            }
        }
    }

    /// Closes the browsers of channels that have waited too long while no worker could be asked.
    pub(super) async fn expire_waiting(self: Rc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            for channel in self.waiting.waited_for(self.options.park_timeout, Instant::now()) {
                channel.close(1013, "no worker can be reached; try again later");
            }
        }
    }
}
