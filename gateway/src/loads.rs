//! What workers say of themselves on their admin listeners: sessions in memory, and how far saves are
//! behind. A gateway needs none of it; it passes it on to operators, and asks only while one looks.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::operate::status_of;

/// How often workers are asked, …
const EVERY: Duration = Duration::from_secs(1);
/// … for how long after somebody has looked, …
const LOOKED_AT: Duration = Duration::from_secs(10);
/// … and how long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is passed on of a worker's `/status`.
const FIELDS: [&str; 5] = ["sessions", "dirty", "oldest_change_ms", "commits", "saving"];

/// Where the workers' admin listeners are.
#[derive(Debug, Clone)]
pub(crate) enum WorkerAdmins {
    /// Nobody has said it, so nobody is asked.
    Unknown,
    /// At this port of the host where the worker is.
    Port(u16),
    /// There, by index.
    Told(watch::Receiver<Vec<SocketAddr>>),
}

/// What is known of the workers' loads.
#[derive(Debug)]
pub(crate) struct Loads {
    admins: WorkerAdmins,
    /// By the address of the worker's link.
    known: RefCell<FxHashMap<String, Value>>,
    looked: Cell<Option<Instant>>,
    somebody_looks: Notify,
}

/// A worker, by index and the address of its link.
pub(crate) type Listed = (usize, String);

impl Loads {
    pub(crate) fn new(admins: WorkerAdmins) -> Rc<Self> {
        let (known, looked, somebody_looks) = Default::default();
        Rc::new(Self { admins, known, looked, somebody_looks })
    }

    /// What a worker has said last; `None` when it has not, or is not asked. Who asks is taken for
    /// somebody who looks.
    pub(crate) fn of(&self, address: &str) -> Option<Value> {
        self.looked.set(Some(Instant::now()));
        self.somebody_looks.notify_one();
        self.known.borrow().get(address).cloned()
    }

    /// Asks for ever; needs a `LocalSet`.
    pub(crate) async fn follow(self: Rc<Self>, workers: impl Fn() -> Vec<Listed>) {
        if matches!(self.admins, WorkerAdmins::Unknown) {
            return;
        }
        loop {
            let is_watched = self.looked.get().is_some_and(|at| at.elapsed() < LOOKED_AT);
            if !is_watched {
                self.known.borrow_mut().clear();
                self.somebody_looks.notified().await;
            }
            self.ask(workers()).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Asks all at once; who does not answer is not known any more.
    async fn ask(&self, workers: Vec<Listed>) {
        let mut answers = JoinSet::new();
        for (index, address) in workers {
            let Some(admin) = self.admin(index, &address) else { continue };
            answers.spawn_local(async move {
                let answer = timeout(PATIENCE, status_of(&admin)).await.ok()?.ok()?;
                let status: Map<String, Value> = serde_json::from_slice(&answer).ok()?;
                let fields = status.into_iter().filter(|(name, _)| FIELDS.contains(&&**name));
                Some((address, Value::Object(fields.collect())))
            });
        }
        let mut known = FxHashMap::default();
        while let Some(answer) = answers.join_next().await {
            known.extend(answer.ok().flatten());
        }
        *self.known.borrow_mut() = known;
    }

    fn admin(&self, index: usize, address: &str) -> Option<String> {
        match &self.admins {
            WorkerAdmins::Unknown => None,
            WorkerAdmins::Port(port) => {
                let (host, _) = address.rsplit_once(':')?;
                Some(format!("{host}:{port}"))
            }
            WorkerAdmins::Told(admins) => admins.borrow().get(index).map(ToString::to_string),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_listeners_are_where_it_was_said() {
        let port = Loads::new(WorkerAdmins::Port(9001));
        assert_eq!(port.admin(1, "worker-1.x:7000").as_deref(), Some("worker-1.x:9001"));
        assert_eq!(port.admin(1, "[::1]:7000").as_deref(), Some("[::1]:9001"));
        let (_sender, told) = watch::channel(vec!["127.0.0.1:1".parse().unwrap()]);
        let told = Loads::new(WorkerAdmins::Told(told));
        assert_eq!(told.admin(0, "127.0.0.1:7000").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(told.admin(1, "127.0.0.1:7000"), None);
    }
}
