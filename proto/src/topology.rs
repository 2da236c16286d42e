//! Who the workers are: the one list that all gateways and workers agree on, by its generation.

use crate::id::{Generation, SessionId, WorkerIndex};
use crate::limits::{MAX_ADDRESS, MAX_PAYLOAD, MAX_WORKERS};
use crate::placement::{Placement, PlacementKey};

/// A configuration of workers. `M` is the length of the list, never the count of live workers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    generation: Generation,
    placement: Placement,
    workers: Vec<String>,
}

/// Why a list of workers is no topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopology {
    /// More than [`MAX_WORKERS`] of them, or too long all together for one frame.
    #[error("{0} workers are too many, or their addresses too long, for one topology")]
    TooMany(usize),
    /// An address that is empty, too long or not `HOST:PORT`.
    #[error("worker {index} has the address {address:?}, which is not HOST:PORT")]
    Address {
        /// Position in the list.
        index: usize,
        /// What stands there.
        address: String,
    },
    /// The same address twice: two indexes would reach one worker.
    #[error("workers {first} and {second} have the same address")]
    Twice {
        /// Position of the first.
        first: usize,
        /// Position of the second.
        second: usize,
    },
}

impl Topology {
    /// A checked topology. Addresses are `HOST:PORT`, all different; an empty list is allowed and
    /// parks every session.
    pub fn new(
        generation: Generation,
        placement: Placement,
        workers: Vec<String>,
    ) -> Result<Self, InvalidTopology> {
        let bytes: usize = workers.iter().map(|w| w.len() + 2).sum();
        if workers.len() > MAX_WORKERS || bytes > MAX_PAYLOAD / 2 {
            return Err(InvalidTopology::TooMany(workers.len()));
        }
        for (index, address) in workers.iter().enumerate() {
            if !is_host_and_port(address) {
                return Err(InvalidTopology::Address { index, address: address.clone() });
            }
            if let Some(first) = workers[..index].iter().position(|other| other == address) {
                return Err(InvalidTopology::Twice { first, second: index });
            }
        }
        Ok(Self { generation, placement, workers })
    }

    /// Its number; the highest wins.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The function that spreads sessions over the workers.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Addresses by worker index.
    pub fn workers(&self) -> &[String] {
        &self.workers
    }

    /// Index of the worker that owns `id` while those that `skipped` names take no sessions.
    pub fn owner(
        &self,
        key: &PlacementKey,
        id: &SessionId,
        skipped: impl Fn(WorkerIndex) -> bool,
    ) -> Option<WorkerIndex> {
        self.placement.owner(key, id, self.workers.len(), skipped)
    }
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let ipv6 = host.starts_with('[') && host.ends_with(']');
    address.len() <= MAX_ADDRESS
        && !host.is_empty()
        && (ipv6 || !host.contains(':'))
        && !host.contains(|c: char| c.is_whitespace() || c.is_control())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(workers: &[&str]) -> Result<Topology, InvalidTopology> {
        let workers = workers.iter().map(|w| (*w).to_owned()).collect();
        Topology::new(Generation(1), Placement::Modulo, workers)
    }

    #[test]
    fn a_worker_is_a_host_and_a_port() {
        topology(&["worker-0.worker:7000", "127.0.0.1:7001", "[::1]:7002"]).unwrap();
        for bad in ["", "host", ":7000", "host:", "host:0", "host:70000", "::1:7000", "a b:1"] {
            let error = topology(&["fine:1", bad]).unwrap_err();
            assert_eq!(error, InvalidTopology::Address { index: 1, address: bad.to_owned() });
        }
    }

    #[test]
    fn one_address_at_two_indexes_is_refused() {
        let error = topology(&["a:1", "b:1", "a:1"]).unwrap_err();
        assert_eq!(error, InvalidTopology::Twice { first: 0, second: 2 });
    }

    #[test]
    fn an_empty_topology_owns_nothing() {
        let id = "a".parse().unwrap();
        assert_eq!(topology(&[]).unwrap().owner(&PlacementKey::default(), &id, |_| false), None);
    }
}
