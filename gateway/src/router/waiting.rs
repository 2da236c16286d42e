//! The channels that have no worker: until one takes them, or for so long that their browsers are
//! sent away. What their browsers send is kept within bounds by the channels themselves.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use single_state_node::turn::give_way;
use single_state_proto::id::ConnectionId;

use super::Router;
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
    /// Since when no worker could be asked; `None` when one has asked for patience, which is not
    /// held against the channel (R17).
    since: Option<Instant>,
}

impl Waiting {
    pub(super) fn new(metrics: Rc<Metrics>) -> Self {
        Self { channels: RefCell::default(), metrics }
    }

    /// No worker can be asked for the channel now.
    pub(super) fn park(&self, channel: &Rc<Channel>) {
        self.insert(channel, |since| since.or_else(|| Some(Instant::now())));
    }

    /// A worker has asked for patience.
    pub(super) fn retry(&self, channel: &Rc<Channel>) {
        self.insert(channel, |_| None);
    }

    fn insert(
        &self,
        channel: &Rc<Channel>,
        since: impl FnOnce(Option<Instant>) -> Option<Instant>,
    ) {
        let mut channels = self.channels.borrow_mut();
        let before = channels.get(&channel.connection).map(|entry| entry.since);
        if before.is_none() {
            self.metrics.parked.inc();
        }
        let entry = Entry { channel: channel.clone(), since: since(before.flatten()) };
        channels.insert(channel.connection, entry);
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

    /// Those for which no worker could be asked.
    fn parked(&self) -> Vec<Rc<Channel>> {
        let channels = self.channels.borrow();
        let parked = channels.values().filter(|entry| entry.since.is_some());
        parked.map(|entry| entry.channel.clone()).collect()
    }

    fn waited_for(&self, patience: Duration, now: Instant) -> Vec<Rc<Channel>> {
        let channels = self.channels.borrow();
        let late = channels.values().filter(|entry| {
            entry.since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
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
