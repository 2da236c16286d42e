//! A topology that follows a StatefulSet: as many workers as `spec.replicas`, so that `kubectl
//! scale` and an autoscaler just work.
//!
//! The client library makes the requests and reads the answers; when to list, to watch again and to
//! wait is decided here, because its own watcher asks again at once, for ever, when a server ends
//! each watch at once, and never lists anew when a watch is refused as expired.

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use kube::{Api, Client};
use single_state_proto::id::Generation;
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;
use tokio::time::{Instant, sleep, timeout};

use super::Offer;

/// How long one watch may take; then it is asked for again. Nothing is missed in between.
const WATCH_SECONDS: u32 = 60;
/// A watch that is silent for so long, its end included, has lost its connection unnoticed.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// A watch that lasted so long was well; what ends it then is no reason to wait.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// The longest delay before the first of several attempts, and before any.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// 0.25 s · 2^7 is the first delay above the longest.
const MOST_DOUBLINGS: u32 = 7;
const _: () = assert!(FIRST_DELAY.as_millis() << MOST_DOUBLINGS >= LONGEST_DELAY.as_millis());
/// Name of the container port on which a worker listens for links.
const PORT_NAME: &str = "link";
/// Generations of one object are lower than this; an object made later has higher ones (rule R4).
const GENERATIONS: u64 = 1 << 20;

/// One StatefulSet in the namespace of this process or of its kubeconfig.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    /// Its name.
    pub(crate) name: String,
    /// Where workers listen if no port of theirs is named `link`.
    pub(crate) port: u16,
    /// How sessions spread.
    pub(crate) placement: Placement,
}

/// Why the API does not tell what it is asked.
#[derive(Debug)]
enum Trouble {
    /// What was seen last is too old to go on from: begin anew.
    Expired,
    /// The answer was cut off or ended.
    Ended,
    /// One sentence.
    Other(String),
}

impl Workers {
    /// What the StatefulSet says now.
    pub(crate) async fn read(&self) -> Offer {
        let api = self.connect().await?;
        match self.list(&api).await {
            Ok((_, offer)) => offer,
            Err(Trouble::Other(sentence)) => Err(sentence),
            Err(Trouble::Expired | Trouble::Ended) => Err(self.sentence("the answer is cut off")),
        }
    }

    /// Offers what it says now and whenever it changes, for ever.
    pub(super) async fn watch(self, mut offer: impl FnMut(Offer)) {
        let mut failures = 0;
        let api = loop {
            match self.connect().await {
                Ok(api) => break api,
                Err(sentence) => offer(Err(sentence)),
            }
            sleep(delay(failures, random())).await;
            failures += 1;
        };
        self.watch_with(&api, offer).await;
    }

    async fn watch_with(&self, api: &Api<StatefulSet>, mut offer: impl FnMut(Offer)) {
        let mut seen = None;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let trouble = match self.follow(api, &mut seen, &mut offer).await {
                Trouble::Expired => {
                    seen = None;
                    "what was seen is expired".to_owned()
                }
                Trouble::Ended => "it ended".to_owned(),
                Trouble::Other(sentence) => {
                    offer(Err(sentence.clone()));
                    sentence
                }
            };
            tracing::debug!(%trouble, "watches the StatefulSet again");
            failures = if began.elapsed() >= WELL_AFTER { 0 } else { failures + 1 };
            // The first time at once: that is how watches end in order.
            if failures > 1 {
                sleep(delay(failures - 2, random())).await;
            }
        }
    }

    async fn connect(&self) -> Result<Api<StatefulSet>, String> {
        let client = Client::try_default().await;
        let client = client.map_err(|error| self.sentence(chain(&error)))?;
        Ok(Api::default_namespaced(client))
    }

    /// Lists unless a version is `seen` from which a watch can go on, then watches until it ends.
    async fn follow(
        &self,
        api: &Api<StatefulSet>,
        seen: &mut Option<Seen>,
        offer: &mut impl FnMut(Offer),
    ) -> Trouble {
        let result = async {
            let mut now = match seen.take() {
                Some(seen) => seen,
                None => {
                    let (version, found) = self.list(api).await?;
                    offer(found.clone());
                    Seen { version, found }
                }
            };
            let ended = self.watch_from(api, &mut now, offer).await;
            *seen = Some(now);
            ended
        };
        result.await.err().unwrap_or(Trouble::Ended)
    }

    async fn list(&self, api: &Api<StatefulSet>) -> Result<(String, Offer), Trouble> {
        let only = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let list = timeout(SILENCE, api.list(&only)).await.map_err(|_| Trouble::Ended)?;
        let list = list.map_err(|error| self.trouble(error))?;
        let version = list.metadata.resource_version.unwrap_or_default();
        let found = match list.items.first() {
            Some(set) => self.topology(set),
            None => Err(self.sentence("there is no such StatefulSet")),
        };
        Ok((version, found))
    }

    /// Watches from what was `seen` on until the watch ends, one way or another.
    async fn watch_from(
        &self,
        api: &Api<StatefulSet>,
        seen: &mut Seen,
        offer: &mut impl FnMut(Offer),
    ) -> Result<(), Trouble> {
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let only = only.timeout(WATCH_SECONDS);
        let events = timeout(SILENCE, api.watch(&only, &seen.version)).await;
        let events = events.map_err(|_| Trouble::Ended)?.map_err(|error| self.trouble(error))?;
        let mut events = pin!(events);
        loop {
            let event = timeout(SILENCE, events.try_next()).await.map_err(|_| Trouble::Ended)?;
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) => {
                    // It works, whatever was said before.
                    offer(seen.found.clone());
                    return Ok(());
                }
                // So comes also what is answered in place of a watch.
                Err(kube::Error::Api(status)) => return Err(self.refused(&status)),
                // What cuts off an answer is told if it does not pass with the next attempt.
                Err(_) => return Err(Trouble::Ended),
            };
            let (version, found) = match event {
                WatchEvent::Added(set) | WatchEvent::Modified(set) => {
                    let found = self.topology(&set);
                    (set.metadata.resource_version, found)
                }
                WatchEvent::Deleted(set) => {
                    (set.metadata.resource_version, Err(self.sentence("it was deleted")))
                }
                WatchEvent::Bookmark(mark) => {
                    seen.version = mark.metadata.resource_version;
                    offer(seen.found.clone());
                    continue;
                }
                WatchEvent::Error(status) => return Err(self.refused(&status)),
            };
            seen.version = version.unwrap_or_default();
            seen.found = found.clone();
            offer(found);
        }
    }

    fn topology(&self, set: &StatefulSet) -> Offer {
        let (Some(spec), Some(namespace)) = (&set.spec, &set.metadata.namespace) else {
            return Err(self.sentence("it has no spec"));
        };
        if spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0) != 0 {
            return Err(self.sentence("its spec.ordinals.start must be 0, like the first index"));
        }
        let Some(service) = spec.service_name.as_ref().filter(|service| !service.is_empty()) else {
            return Err(self.sentence("its spec.serviceName must name a headless service"));
        };
        let containers = spec.template.spec.iter().flat_map(|pod| &pod.containers);
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        let port = ports.find(|port| port.name.as_deref() == Some(PORT_NAME));
        let port = port.map_or(i32::from(self.port), |port| port.container_port);
        let name = &self.name;
        let workers = (0..spec.replicas.unwrap_or(1))
            .map(|index| format!("{name}-{index}.{service}.{namespace}.svc:{port}"))
            .collect();
        let made = set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        let generation = u64::try_from(made).unwrap_or_default() * GENERATIONS
            + u64::try_from(set.metadata.generation.unwrap_or(1)).unwrap_or_default();
        Topology::new(Generation(generation), self.placement, workers)
            .map_err(|error| self.sentence(error))
    }

    fn trouble(&self, error: kube::Error) -> Trouble {
        match error {
            kube::Error::Api(status) => self.refused(&status),
            other => {
                let causes = chain(&other);
                Trouble::Other(self.sentence(format_args!("the API does not answer: {causes}")))
            }
        }
    }

    /// What the API says instead of what it was asked.
    fn refused(&self, status: &Status) -> Trouble {
        let sentence = match status.code {
            410 => return Trouble::Expired,
            403 => format!(
                "its service account may not: a Role with apiGroups [\"apps\"], resources \
                 [\"statefulsets\"], verbs [\"list\", \"watch\"] and a RoleBinding are missing ({})",
                status.message
            ),
            code => format!("the API answers {code}: {}", status.message),
        };
        Trouble::Other(self.sentence(sentence))
    }

    fn sentence(&self, what: impl Display) -> String {
        format!("--topology kubernetes:statefulset/{}: {what}", self.name)
    }
}

/// From where a watch goes on, and what there was.
#[derive(Debug)]
struct Seen {
    version: String,
    found: Offer,
}

/// An error with its causes; some of these errors name theirs already.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

/// Full jitter, `random` from 0 to 1: many gateways lose one API server at the same time.
fn delay(failures: u32, random: f64) -> Duration {
    (FIRST_DELAY * (1 << failures.min(MOST_DOUBLINGS))).min(LONGEST_DELAY).mul_f64(random)
}

/// From 0 to 1; without entropy the delays are merely in step.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}
