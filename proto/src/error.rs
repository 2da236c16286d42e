//! Why a link or a stream ends: whose fault, and how much dies with it.

use crate::id::{StreamId, WorkerIndex};

/// The whole link dies: the peer broke the protocol or is not who we look for. Its streams are
/// opened again over the next link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A frame that cannot be read.
    #[error("the peer sent a malformed frame: {0}")]
    Malformed(#[from] Malformed),
    /// A frame that is not allowed now.
    #[error("the peer sent {kind} on stream {stream}, {why}")]
    Unexpected {
        /// Name of the frame's kind.
        kind: &'static str,
        /// The stream it names.
        stream: StreamId,
        /// What is wrong with it here.
        why: &'static str,
    },
    /// The peer sent more than it was granted.
    #[error("the peer sent more on stream {0} than it was granted")]
    CreditExceeded(StreamId),
    /// The peer granted more than can be counted.
    #[error("the peer granted more credit on stream {0} than can be counted")]
    CreditOverflow(StreamId),
    /// A message longer than HELLO allowed.
    #[error("the peer sent a message of {length} bytes, allowed are {limit}")]
    TooLong {
        /// The length it stated.
        length: u64,
        /// What our HELLO allowed.
        limit: u32,
    },
    /// The peer belongs to another cluster.
    #[error("the peer belongs to cluster {theirs:?}, this process to {ours:?}")]
    WrongCluster {
        /// This side's cluster.
        ours: String,
        /// The peer's.
        theirs: String,
    },
    /// The peer is another worker than the topology says, or looks for another one.
    #[error("the gateway looks for worker {gateway}, the worker there is {worker}")]
    WrongIndex {
        /// Index that the gateway's topology gives this address.
        gateway: WorkerIndex,
        /// Index that the worker was started with.
        worker: WorkerIndex,
    },
    /// No version of the link protocol is common to both.
    #[error(
        "the peer speaks link protocol {theirs_min} to {theirs_max}, this process {ours_min} to {ours_max}"
    )]
    Version {
        /// Lowest of this side.
        ours_min: u16,
        /// Highest of this side.
        ours_max: u16,
        /// Lowest of the peer.
        theirs_min: u16,
        /// Highest of the peer.
        theirs_max: u16,
    },
    /// The peer has a link key, this side has none.
    #[error("the peer wants proof of a link key, this process was started without one")]
    KeyWanted,
    /// This side has a link key, the peer has none.
    #[error("the peer has no link key, this process was started with one")]
    NoKey,
    /// The peer's proof was made with another key, for another link, or by this side itself.
    #[error("the peer's proof was not made with a link key of this process")]
    WrongKey,
    /// No PROOF in time.
    #[error("the peer did not prove its link key in time")]
    NoProof,
    /// No HELLO in time.
    #[error("the peer did not say HELLO in time")]
    NoHello,
    /// The peer sends, but does not read what it is answered.
    #[error("the peer does not read what it is sent")]
    NotReading,
    /// Nothing arrived for too long.
    #[error("nothing arrived from the peer for {0:?}")]
    Silent(std::time::Duration),
}

/// A payload that does not have the form of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head states a longer payload than any frame may have.
    #[error("a payload of {0} bytes")]
    Oversized(usize),
    /// No frame has this kind.
    #[error("kind {0}")]
    Kind(u8),
    /// The payload ends before its fields do.
    #[error("{0} is cut short")]
    Short(&'static str),
    /// A field holds what it must not.
    #[error("{0}")]
    Field(&'static str),
}
