//! Where the gateway learns who the workers are: a list in its flags, a file, or a StatefulSet.
//!
//! A source offers what it finds, right or wrong. The judge takes a topology that is valid and newer
//! than the one in force, and says once what is wrong with another; the last good one stays. Knows
//! no links and no sessions.

pub(crate) mod change;
mod file;
mod judge;
#[cfg(feature = "kubernetes")]
mod kubernetes;

use std::future::pending;

use single_state_proto::topology::Topology;
use tokio::sync::watch;

pub(crate) use self::file::File;
use self::judge::Judge;
#[cfg(feature = "kubernetes")]
pub(crate) use self::kubernetes::Workers;

/// A topology that was found, or one sentence that says what is wrong.
pub(crate) type Offer = Result<Topology, String>;

/// Where the topology comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Flags; never changes.
    Static(Topology),
    /// A JSON document that is read again when it changes.
    File(File),
    /// Whoever started the gateway, in the same process, and starts the workers first.
    Told(watch::Receiver<Option<Topology>>),
    /// What Kubernetes runs.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Workers),
}

impl Source {
    /// What can be known before anything runs: a file that is missing or wrong is a mistake of
    /// whoever starts the gateway. It is not waited for, because a mistyped path would look like a
    /// slow start for ever, and whoever mounts the file does so before the gateway starts.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Static(_) | Self::Told(_) => Ok(()),
            Self::File(file) => file.read().map(drop),
            // An API that is away for a while is waited for.
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => Ok(()),
        }
    }

    /// What it says now.
    pub(crate) async fn first(self) -> Offer {
        match self {
            Self::Static(topology) => Ok(topology),
            Self::File(file) => file.read(),
            Self::Told(told) => {
                told.borrow().clone().ok_or_else(|| "no worker was started yet".to_owned())
            }
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workers) => workers.read().await,
        }
    }
}

/// Hands over every topology that the gateway is to have, the first as soon as it is known. Runs for
/// ever.
pub(crate) async fn follow(source: Source, mut on_change: impl FnMut(Topology)) {
    let mut judge = Judge::default();
    let mut offer = |offer| {
        if let Some(topology) = judge.take(offer) {
            on_change(topology);
        }
    };
    match source {
        Source::Static(topology) => offer(Ok(topology)),
        Source::File(file) => file.watch(offer).await,
        Source::Told(mut told) => loop {
            let topology = told.borrow_and_update().clone();
            topology.into_iter().for_each(|topology| offer(Ok(topology)));
            if told.changed().await.is_err() {
                break;
            }
        },
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes(workers) => workers.watch(offer).await,
    }
    pending::<()>().await;
}
