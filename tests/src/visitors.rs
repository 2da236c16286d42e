//! Many browsers with little to say, as people are: each appends an item now and then, waits until it
//! hears of it, and looks for all its items when it leaves. Half of them are plain pages, half are
//! clients of `single-state.v1`. They write their history, which is judged in `verdict.rs`.

pub mod verdict;
mod visitor;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::visitor::{Visitor, live};
use crate::append::wait_until;
use crate::history::Recorder;

/// So many connect, or look for their items, at a time.
const AT_ONCE: usize = 64;
/// More beats than anybody has: who has left early is not waited for.
const GONE: u64 = u64::MAX / 2;

/// One browser to be.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Its name, unlike all others'.
    pub name: String,
    /// Gateways that it connects to in turn, `ws://HOST:PORT/ws?session=…`; a page only to the first.
    pub urls: Vec<String>,
    /// It speaks `single-state.v1`.
    pub is_numbered: bool,
    /// Nobody else uses its session.
    pub is_alone: bool,
    /// A page whose socket is closed comes back to its session, as its cookie lets it.
    pub comes_back: bool,
}

/// An item, in microseconds of the history's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// When it was sent …
    pub sent: u64,
    /// … and when the browser heard of it.
    pub answered: u64,
}

/// What became of one browser.
#[derive(Debug)]
pub struct Stay {
    /// Its session's id.
    pub session: String,
    /// It speaks `single-state.v1`.
    pub is_numbered: bool,
    /// Its items.
    pub beats: Vec<Beat>,
    /// The code with which its socket was closed for good.
    pub closed: Option<u16>,
    /// Times that a page came back. What it had sent and not been told of may be lost.
    pub returns: u64,
}

/// Browsers that have come.
#[derive(Debug)]
pub struct Visitors {
    lives: JoinSet<Result<(Visitor, Stay)>>,
    left: Vec<(Visitor, Stay)>,
    /// Who has which session, by the order of their visits.
    sessions: Vec<String>,
    /// Beats of each.
    answered: Arc<[AtomicU64]>,
    over: watch::Sender<bool>,
    recorder: Recorder,
}

impl Visitors {
    /// Lets all connect, and then append an item each after one to two times `pace`.
    pub async fn arrive(visits: Vec<Visit>, pace: Duration, recorder: Recorder) -> Result<Self> {
        let connect = |visit: Visit| async {
            let name = visit.name.clone();
            Visitor::connect(visit, recorder.clone()).await.with_context(|| name)
        };
        let connecting = stream::iter(visits).map(connect).buffered(AT_ONCE);
        let visitors: Vec<Visitor> = connecting.try_collect().await?;
        let answered: Arc<[AtomicU64]> = visitors.iter().map(|_| AtomicU64::new(0)).collect();
        let sessions = visitors.iter().map(|visitor| visitor.session().to_owned()).collect();
        let over = watch::Sender::new(false);
        let mut lives = JoinSet::new();
        for (number, visitor) in visitors.into_iter().enumerate() {
            let (answered, over) = (answered.clone(), over.subscribe());
            lives.spawn(async move {
                let count = &answered[number];
                let lived = live(visitor, pace, count, over).await;
                count.fetch_add(GONE, Ordering::Relaxed);
                lived
            });
        }
        Ok(Self { lives, left: Vec::new(), sessions, answered, over, recorder })
    }

    /// The session of each visitor.
    pub fn sessions(&self) -> &[String] {
        &self.sessions
    }

    /// Waits until each has heard of so many more items that it sent from now on. Who has left is
    /// not waited for, but whose life has failed is a failure.
    pub async fn wait_for_beats(&mut self, more: u64) -> Result<()> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // One may be under way.
        let until: Vec<_> = self.answered.iter().map(|beats| count(beats) + more + 1).collect();
        wait_until("each visitor has heard of more items", async || {
            while let Some(left) = self.lives.try_join_next() {
                self.left.push(left??);
            }
            Ok(self.answered.iter().zip(&until).all(|(beats, until)| {
                let beats = count(beats);
                beats >= *until || beats >= GONE
            }))
        })
        .await
    }

    /// How many have left before their time.
    pub async fn gone(&mut self) -> Result<usize> {
        while let Some(left) = self.lives.try_join_next() {
            self.left.push(left??);
        }
        Ok(self.left.len())
    }

    /// Nobody appends more, then all look for their items; their history is complete.
    pub async fn leave(&mut self) -> Result<Vec<Stay>> {
        self.over.send_replace(true);
        while let Some(left) = self.lives.join_next().await {
            self.left.push(left??);
        }
        let look = |(mut visitor, stay): (Visitor, Stay)| async {
            if stay.closed.is_none() {
                let items = visitor.items().await;
                let items = items.with_context(|| format!("items of {}", stay.session))?;
                let has_all = items.len() >= stay.beats.len() || stay.returns > 0;
                ensure!(has_all, "{}: {items:?}", stay.session);
            }
            anyhow::Ok((visitor, stay))
        };
        let left = std::mem::take(&mut self.left);
        let looking = stream::iter(left).map(look).buffer_unordered(AT_ONCE);
        let stays: Vec<_> = looking.try_collect().await?;
        self.recorder.flush()?;
        Ok(stays.into_iter().map(|(_, stay)| stay).collect())
    }
}
