//! OPEN asks a worker to attach a channel to its session; OPENED or REFUSED answers.

use bytes::{BufMut, Bytes};

use super::field::{Fields, put_option, put_text};
use super::skipped::Skipped;
use super::topology::{get_topology, put_topology};
use crate::error::Malformed;
use crate::id::{
    Attach, ChannelId, ConnectionId, Epoch, Generation, InputNumber, Revision, SessionId,
    WorkerIndex,
};
use crate::topology::Topology;

/// A gateway asks for a session's channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The session.
    pub session: SessionId,
    /// The channel in it.
    pub channel: ChannelId,
    /// Counts the channel's connections: a higher one takes over.
    pub attach: Attach,
    /// The browser socket: the same pair of attach and connection is the same browser (R1).
    pub connection: ConnectionId,
    /// Generation of the topology by which this worker was chosen.
    pub generation: Generation,
    /// Workers that placement passed over, because of which this one was chosen.
    pub skipped: Skipped,
    /// Last output that the client has; absent: it has nothing and wants the full picture.
    pub seen: Option<(Epoch, Revision)>,
    /// Highest epoch of the session that this gateway saw.
    pub min_epoch: Epoch,
    /// The id was minted just now: nothing can be stored under it.
    pub fresh: bool,
    /// This connection had this stream open before (R7).
    pub recovered: bool,
    /// Bytes of output that the worker may send at first.
    pub window: u32,
    /// What an authenticating proxy vouches for.
    pub identity: Option<String>,
}

impl Open {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        put_text(out, self.session.as_str());
        put_text(out, self.channel.as_str());
        out.put_u64(self.attach.0);
        out.put_u64(self.connection.0);
        out.put_u64(self.generation.0);
        self.skipped.encode(out);
        put_option(out, self.seen, |out, (epoch, revision)| {
            out.put_u64(epoch.0);
            out.put_u64(revision.0);
        });
        out.put_u64(self.min_epoch.0);
        out.put_u8(u8::from(self.fresh));
        out.put_u8(u8::from(self.recovered));
        out.put_u32(self.window);
        put_option(out, self.identity.as_deref(), put_text);
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new("OPEN", payload);
        Ok(Self {
            session: fields.parse("a session id that is none")?,
            channel: fields.parse("a channel id that is none")?,
            attach: Attach(fields.u64()?),
            connection: ConnectionId(fields.u64()?),
            generation: Generation(fields.u64()?),
            skipped: Skipped::take(&mut fields)?,
            seen: fields.option(|f| Ok((Epoch(f.u64()?), Revision(f.u64()?))))?,
            min_epoch: Epoch(fields.u64()?),
            fresh: fields.bool()?,
            recovered: fields.bool()?,
            window: fields.u32()?,
            identity: fields.option(Fields::text)?,
        })
    }
}

/// When an input counts as taken and when an output may leave (DESIGN 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Durability {
    /// Inputs are acknowledged when durable, outputs leave at once.
    Relaxed = 1,
    /// Inputs are acknowledged and outputs leave when durable.
    Durable = 2,
    /// Nothing is ever committed.
    Memory = 3,
}

/// A worker has attached the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Epoch of the ownership that answers.
    pub epoch: Epoch,
    /// Last input applied and durable; absent: the session does not know the channel, whose next
    /// number is taken as it is.
    pub applied: Option<InputNumber>,
    /// Newest output of the session.
    pub revision: Revision,
    /// Everything after `seen` follows without loss; else the full picture follows.
    pub resumed: bool,
    /// Bytes of input that the gateway may send at first.
    pub window: u32,
    /// What an acknowledgement of this session means.
    pub durability: Durability,
}

impl Opened {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.epoch.0);
        put_option(out, self.applied, |out, number| out.put_u64(number.0));
        out.put_u64(self.revision.0);
        out.put_u8(u8::from(self.resumed));
        out.put_u32(self.window);
        out.put_u8(self.durability as u8);
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new("OPENED", payload);
        Ok(Self {
            epoch: Epoch(fields.u64()?),
            applied: fields.option(|f| f.u64().map(InputNumber))?,
            revision: Revision(fields.u64()?),
            resumed: fields.bool()?,
            window: fields.u32()?,
            durability: match fields.u8()? {
                1 => Durability::Relaxed,
                2 => Durability::Durable,
                3 => Durability::Memory,
                _ => return Err(Malformed::Field("a durability that is none")),
            },
        })
    }
}

/// A worker does not attach the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The gateway's topology is old; this is a newer one.
    Stale(Topology),
    /// The session belongs to another worker of the same topology.
    WrongOwner,
    /// Not now: ask again after a while, first at `owner` if it is known.
    Retry {
        /// Milliseconds to wait.
        after_ms: u32,
        /// Who has the session.
        owner: Option<WorkerIndex>,
    },
    /// The session ended its owners or cannot be read; an operator must look.
    Quarantined,
    /// The session belongs to another identity.
    Forbidden,
    /// A newer connection holds the channel (R1).
    Superseded,
    /// The session has as many channels as it may.
    TooManyChannels,
    /// A newer version of the app has saved the session: a worker that was upgraded has to take it.
    TooNew,
}

impl Refused {
    /// All that [`name`](Self::name) may say.
    pub const NAMES: [&'static str; 8] = [
        "stale",
        "wrong_owner",
        "retry",
        "quarantined",
        "forbidden",
        "superseded",
        "too_many_channels",
        "too_new",
    ];

    /// What it is called in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stale(_) => "stale",
            Self::WrongOwner => "wrong_owner",
            Self::Retry { .. } => "retry",
            Self::Quarantined => "quarantined",
            Self::Forbidden => "forbidden",
            Self::Superseded => "superseded",
            Self::TooManyChannels => "too_many_channels",
            Self::TooNew => "too_new",
        }
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Stale(topology) => {
                out.put_u8(1);
                put_topology(out, topology);
            }
            Self::WrongOwner => out.put_u8(2),
            Self::Retry { after_ms, owner } => {
                out.put_u8(3);
                out.put_u32(*after_ms);
                put_option(out, *owner, |out, index| out.put_u16(index.0));
            }
            Self::Quarantined => out.put_u8(4),
            Self::Forbidden => out.put_u8(5),
            Self::Superseded => out.put_u8(6),
            Self::TooManyChannels => out.put_u8(7),
            Self::TooNew => out.put_u8(8),
        }
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new("REFUSED", payload);
        Ok(match fields.u8()? {
            1 => Self::Stale(get_topology(&mut fields)?),
            2 => Self::WrongOwner,
            3 => Self::Retry {
                after_ms: fields.u32()?,
                owner: fields.option(|f| f.u16().map(WorkerIndex))?,
            },
            4 => Self::Quarantined,
            5 => Self::Forbidden,
            6 => Self::Superseded,
            7 => Self::TooManyChannels,
            8 => Self::TooNew,
            _ => return Err(Malformed::Field("a refusal that is none")),
        })
    }
}
