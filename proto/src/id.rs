//! Names of things as types of their own, so that two numbers are never swapped in a call.
//! Each has one parser and one printed form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not an id. Its printed form is a sentence for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {min} to {max} characters of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidId {
    what: &'static str,
    min: usize,
    max: usize,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $min:literal..=$max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as it was given; also what placement hashes.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                if ($min..=$max).contains(&text.len()) && text.bytes().all(allowed) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { what: $what, min: $min, max: $max })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Durable identity of one user's session: `[A-Za-z0-9_-]{1,64}`.
    SessionId, "a session id", 1..=64
);
text_id!(
    /// One client's (tab's) conversation with a session, chosen at random by the client:
    /// `[A-Za-z0-9_-]{8,64}`.
    ChannelId, "a channel id", 8..=64
);

macro_rules! number_id {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

number_id! {
    /// Position of a worker in the topology's list, from 0.
    WorkerIndex(u16);
    /// One start of a worker process: rises with each start of the same index.
    Incarnation(u64);
    /// Number of a topology; the highest wins.
    Generation(u64);
    /// Number of an ownership of a session; raised by each claim.
    Epoch(u64);
    /// Position in a session's output log; the first output has 1.
    Revision(u64);
    /// Number of a client's input within its channel; the first has 1.
    InputNumber(u64);
    /// Counts the connections of one channel; the highest holds the channel.
    Attach(u64);
    /// One browser socket, chosen at random by its gateway.
    ConnectionId(u64);
    /// One attached channel within a link; chosen by the gateway, rising, never used again on that link.
    StreamId(u32);
}

impl InputNumber {
    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Revision {
    /// The revision that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_has_1_to_64_letters_digits_underscores_and_dashes() {
        for good in ["a", "A-z_09", &"x".repeat(64)] {
            assert_eq!(good.parse::<SessionId>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ä", "a\0", "a\n", "..", &"x".repeat(65)] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_refused_id_says_what_would_be_one() {
        let error = "short".parse::<ChannelId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a channel id has 8 to 64 characters of A-Z, a-z, 0-9, _ and -"
        );
    }
}
