//! The frames of a link: one type for each payload, `encode` and `decode` side by side.

mod data;
mod field;
mod head;
mod hello;
mod open;
mod skipped;
mod taken;
mod topology;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

pub use self::data::{Data, Start};
pub(crate) use self::data::{MAX_PART, encode as encode_data};
use self::field::Fields;
pub(crate) use self::head::Head;
pub use self::head::Kind;
pub use self::hello::Hello;
pub use self::open::{Durability, Open, Opened, Refused};
pub use self::skipped::Skipped;
pub use self::taken::Taken;
use crate::error::Malformed;
use crate::id::StreamId;
use crate::key::Proof;
use crate::limits::HEAD_LEN;
use crate::topology::Topology;

/// Everything that goes over a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Who the sender is; its first frame.
    Hello(Hello),
    /// Shows that the sender has a link key; answers HELLO where links have keys.
    Proof(Proof),
    /// Gateway: attach this channel.
    Open(StreamId, Box<Open>),
    /// Worker: attached.
    Opened(StreamId, Opened),
    /// Worker: not attached; the stream is gone.
    Refused(StreamId, Refused),
    /// A message or a part of it, in both directions.
    Data(StreamId, Data),
    /// All numbers up to this one are taken: inputs by the session, outputs by the browser's socket.
    Ack(StreamId, u64),
    /// The sender of DATA may send so many bytes more.
    Credit(StreamId, u32),
    /// Gateway: commit and release this session, another worker takes it.
    Recall(StreamId),
    /// Worker: committed and released; the stream is gone.
    Moved(StreamId),
    /// The stream is gone and its session lost what was not committed.
    Reset(StreamId, ResetCode),
    /// The stream ended.
    Close(StreamId, CloseCode),
    /// Gateway: the newest topology it knows.
    Topology(Topology),
    /// Gateway: the workers that it passes over now.
    Skipped(Skipped),
    /// Worker: it has taken this session from an owner that had not given it up.
    Taken(Taken),
    /// Answer with PONG and the same number.
    Ping(u64),
    /// Answer to PING.
    Pong(u64),
    /// The sender takes no new streams, or ends the link.
    GoAway(GoAway),
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn from_wire(number: u8) -> Result<Self, Malformed> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|code| *code as u8 == number)
                    .ok_or(Malformed::Field(concat!(stringify!($name), " with an unknown code")))
            }
        }
    };
}

codes! {
    /// Why a stream was lost. The gateway opens another one.
    ResetCode {
        /// The channel was too slow for the events it must get; it needs a new full picture.
        Overflow = 1,
        /// Another owner has the session.
        Fenced = 2,
        /// The session went back to its last commit.
        RolledBack = 3,
    }
}

codes! {
    /// Why a stream ended for good.
    CloseCode {
        /// Gateway: the client went away and may come back with this channel.
        Detached = 1,
        /// Gateway: the channel ended.
        Ended = 2,
        /// Worker: a newer connection took the channel over.
        Superseded = 3,
        /// Worker: the app ended the session.
        SessionEnded = 4,
        /// The peer sent a number that the channel does not allow.
        Protocol = 5,
        /// A message longer than the receiver takes.
        TooLong = 6,
        /// Worker: the session is quarantined.
        Quarantined = 7,
        /// Worker: it is not known any more which inputs of this channel were applied.
        ChannelExpired = 8,
    }
}

codes! {
    /// Why a peer takes no new streams, or ends the link.
    GoAway {
        /// It is shutting down; streams that are open go on until they are moved.
        Draining = 1,
        /// The other side broke the protocol.
        Protocol = 2,
        /// It belongs to another cluster.
        WrongCluster = 3,
        /// It is another worker than the topology says.
        WrongIndex = 4,
        /// No version of the protocol is common to both.
        Version = 5,
        /// The other side has not shown that it has a link key of this one.
        Unauthenticated = 6,
        /// The other side has another list of workers under the same generation (R4).
        OtherTopology = 7,
    }
}

/// What the other side is told, from its point of view.
impl fmt::Display for GoAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "the peer is shutting down",
            Self::Protocol => "this process broke the protocol",
            Self::WrongCluster => "the peer belongs to another cluster",
            Self::WrongIndex => "the peer has another worker index",
            Self::Version => "the peer speaks other versions of the link protocol",
            Self::Unauthenticated => "the peer does not take the link key of this process",
            Self::OtherTopology => "the peer has another list of workers with the same generation",
        })
    }
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let (kind, stream) = self.kind_and_stream();
        if let Self::Data(stream, data) = self {
            return encode_data(out, *stream, data.start, data.fin, &data.part);
        }
        let start = out.len();
        out.put_bytes(0, HEAD_LEN);
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Proof(proof) => out.put_slice(&proof.0),
            Self::Open(_, open) => open.encode(out),
            Self::Opened(_, opened) => opened.encode(out),
            Self::Refused(_, refused) => refused.encode(out),
            Self::Topology(topology) => topology::put_topology(out, topology),
            Self::Skipped(skipped) => skipped.encode(out),
            Self::Taken(taken) => taken.encode(out),
            Self::Ack(_, number) | Self::Ping(number) | Self::Pong(number) => out.put_u64(*number),
            Self::Credit(_, bytes) => out.put_u32(*bytes),
            Self::Reset(_, code) => out.put_u8(*code as u8),
            Self::Close(_, code) => out.put_u8(*code as u8),
            Self::GoAway(code) => out.put_u8(*code as u8),
            Self::Recall(_) | Self::Moved(_) | Self::Data(..) => {}
        }
        let len = out.len() - start - HEAD_LEN;
        Head { len, kind, stream }.encode(&mut &mut out[start..start + HEAD_LEN]);
    }

    /// The frame of a head and the payload that followed it.
    pub(crate) fn decode(head: Head, payload: Bytes) -> Result<Self, Malformed> {
        let Head { kind, stream, .. } = head;
        let number = |kind, payload| Fields::new(kind, payload).u64();
        Ok(match kind {
            Kind::Hello => Self::Hello(Hello::decode(payload)?),
            Kind::Open => Self::Open(stream, Box::new(Open::decode(payload)?)),
            Kind::Opened => Self::Opened(stream, Opened::decode(payload)?),
            Kind::Refused => Self::Refused(stream, Refused::decode(payload)?),
            Kind::Data => Self::Data(stream, data::decode(payload)?),
            Kind::Ack => Self::Ack(stream, number("ACK", payload)?),
            Kind::Credit => Self::Credit(stream, Fields::new("CREDIT", payload).u32()?),
            Kind::Recall => Self::Recall(stream),
            Kind::Moved => Self::Moved(stream),
            Kind::Reset => {
                Self::Reset(stream, ResetCode::from_wire(Fields::new("RESET", payload).u8()?)?)
            }
            Kind::Close => {
                Self::Close(stream, CloseCode::from_wire(Fields::new("CLOSE", payload).u8()?)?)
            }
            Kind::Topology => Self::Topology(topology::decode(payload)?),
            Kind::Skipped => Self::Skipped(Skipped::decode(payload)?),
            Kind::Taken => Self::Taken(Taken::decode(payload)?),
            Kind::Ping => Self::Ping(number("PING", payload)?),
            Kind::Pong => Self::Pong(number("PONG", payload)?),
            Kind::Proof => Self::Proof(Proof(Fields::new("PROOF", payload).bytes()?)),
            Kind::GoAway => Self::GoAway(GoAway::from_wire(Fields::new("GOAWAY", payload).u8()?)?),
        })
    }

    fn kind_and_stream(&self) -> (Kind, StreamId) {
        let link = StreamId(0);
        match self {
            Self::Hello(_) => (Kind::Hello, link),
            Self::Proof(_) => (Kind::Proof, link),
            Self::Open(stream, _) => (Kind::Open, *stream),
            Self::Opened(stream, _) => (Kind::Opened, *stream),
            Self::Refused(stream, _) => (Kind::Refused, *stream),
            Self::Data(stream, _) => (Kind::Data, *stream),
            Self::Ack(stream, _) => (Kind::Ack, *stream),
            Self::Credit(stream, _) => (Kind::Credit, *stream),
            Self::Recall(stream) => (Kind::Recall, *stream),
            Self::Moved(stream) => (Kind::Moved, *stream),
            Self::Reset(stream, _) => (Kind::Reset, *stream),
            Self::Close(stream, _) => (Kind::Close, *stream),
            Self::Topology(_) => (Kind::Topology, link),
            Self::Skipped(_) => (Kind::Skipped, link),
            Self::Taken(_) => (Kind::Taken, link),
            Self::Ping(_) => (Kind::Ping, link),
            Self::Pong(_) => (Kind::Pong, link),
            Self::GoAway(_) => (Kind::GoAway, link),
        }
    }
}
