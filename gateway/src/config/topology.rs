//! The flags that say who the workers are, checked.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use single_state_node::config::Mistakes;
use single_state_node::keys::LinkArgs;
use single_state_proto::id::Generation;
use single_state_proto::key::LinkKeys;
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

use crate::topology::{File, Source};

#[derive(Debug, Args)]
pub(super) struct TopologyArgs {
    /// The workers, in the order of their indexes; the list changes only at its end.
    #[arg(
        long,
        env = "SINGLE_STATE_WORKERS",
        default_value = "",
        value_name = "HOST:PORT,…",
        hide_default_value = true
    )]
    workers: String,
    /// Number of this list of workers, 1 if not given; a changed list needs a higher one.
    #[arg(long, env = "SINGLE_STATE_GENERATION", value_name = "N")]
    generation: Option<String>,
    /// In place of --workers: where the list is read, and read again whenever it changes.
    /// file:PATH is JSON, {"generation": 2, "workers": ["HOST:PORT", …], "placement": "modulo"};
    /// kubernetes:statefulset/NAME follows its replicas.
    #[arg(
        long,
        env = "SINGLE_STATE_TOPOLOGY",
        default_value = "",
        value_name = "SOURCE",
        hide_default_value = true
    )]
    topology: String,
    /// How sessions spread over workers unless the topology says it: modulo, or jump (a change of
    /// their number moves fewer).
    #[arg(
        long,
        env = "SINGLE_STATE_PLACEMENT",
        default_value = "modulo",
        value_name = "modulo|jump"
    )]
    placement: String,
    /// Port of workers in Kubernetes if no container port of theirs is named `link`.
    #[arg(long, env = "SINGLE_STATE_WORKER_PORT", default_value = "7000", value_name = "PORT")]
    worker_port: String,
}

/// What `--topology` names.
#[derive(Debug)]
enum Named {
    File(PathBuf),
    StatefulSet(String),
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("kubernetes", object)) => match object.strip_prefix("statefulset/") {
                Some(name) if is_object_name(name) => Ok(Self::StatefulSet(name.to_owned())),
                _ => Err("give kubernetes:statefulset/NAME"),
            },
            _ => Err("give file:PATH or kubernetes:statefulset/NAME"),
        }
    }
}

/// Whether Kubernetes would take it as a name.
fn is_object_name(name: &str) -> bool {
    let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
    (1..=253).contains(&name.len()) && name.bytes().all(is_allowed)
}

impl TopologyArgs {
    /// Where the topology comes from, for a gateway that is to link with its workers.
    pub(super) fn check_with_links(
        &self,
        links: &LinkArgs,
        mistakes: &mut Mistakes,
    ) -> Option<(Source, Option<LinkKeys>)> {
        let source = self.check(links.beyond_loopback(), mistakes);
        let keys = if self.topology.starts_with("kubernetes:") {
            // Its pods are never on this machine alone.
            links.check("--topology", [&*self.topology], mistakes)
        } else {
            links.check("--workers", self.workers().iter().map(String::as_str), mistakes)
        };
        let source = source?;
        source.check().map_err(|sentence| mistakes.add(sentence)).ok()?;
        Some((source, keys?))
    }

    /// Where the topology comes from. What that says now is not looked at.
    pub(super) fn check(&self, beyond_loopback: bool, mistakes: &mut Mistakes) -> Option<Source> {
        let placement = mistakes.parse::<Placement>("--placement", &self.placement);
        match (self.workers().is_empty(), self.topology.is_empty()) {
            (true, true) => mistakes.add(
                "--workers: name at least one worker, such as --workers 127.0.0.1:7000, or say \
                 where the list is read with --topology",
            ),
            (false, false) => mistakes.add("--workers and --topology: choose one"),
            (false, true) => return self.check_list(placement, mistakes).map(Source::Static),
            (true, false) => {}
        }
        if self.topology.is_empty() {
            return None;
        }
        if self.generation.is_some() {
            mistakes.add("--generation belongs to --workers: a --topology has its own");
        }
        match mistakes.parse::<Named>("--topology", &self.topology)? {
            Named::File(path) => {
                Some(Source::File(File { path, placement: placement?, beyond_loopback }))
            }
            Named::StatefulSet(name) => self.check_kubernetes(name, placement, mistakes),
        }
    }

    #[cfg(feature = "kubernetes")]
    fn check_kubernetes(
        &self,
        name: String,
        placement: Option<Placement>,
        mistakes: &mut Mistakes,
    ) -> Option<Source> {
        let port = mistakes.parse::<std::num::NonZeroU16>("--worker-port", &self.worker_port)?;
        let placement = placement?;
        Some(Source::Kubernetes(crate::topology::Workers { name, port: port.get(), placement }))
    }

    #[cfg(not(feature = "kubernetes"))]
    fn check_kubernetes(
        &self,
        name: String,
        _placement: Option<Placement>,
        mistakes: &mut Mistakes,
    ) -> Option<Source> {
        mistakes.parse::<std::num::NonZeroU16>("--worker-port", &self.worker_port);
        mistakes.add(format!(
            "--topology kubernetes:statefulset/{name}: this gateway is built without Kubernetes; \
             build it with `cargo build --release -p single-state-gateway --features kubernetes`"
        ));
        None
    }

    fn check_list(
        &self,
        placement: Option<Placement>,
        mistakes: &mut Mistakes,
    ) -> Option<Topology> {
        let generation = match self.generation.as_deref() {
            Some(text) => mistakes.parse::<u64>("--generation", text),
            None => Some(1),
        };
        // A list is looked at even if its number is wrong: all mistakes are told at once.
        let topology = Topology::new(
            Generation(generation.unwrap_or_default()),
            placement.unwrap_or_default(),
            self.workers(),
        );
        let topology = topology.map_err(|error| mistakes.add(format!("--workers: {error}"))).ok();
        generation.and(placement).and(topology)
    }

    fn workers(&self) -> Vec<String> {
        let workers = self.workers.split(',').map(str::trim);
        workers.filter(|worker| !worker.is_empty()).map(str::to_owned).collect()
    }
}
