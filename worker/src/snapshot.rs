//! A session as bytes: everything that the next owner needs, self-describing and with a checksum.
//! Knows no stores and no channels' connections.
//!
//! ```text
//!   crc32 of the rest | length of what follows | what the library keeps | the app's state
//!   └────── 4 bytes each, little-endian ───────┘ └────── MessagePack, fields named ───────┘
//! ```
//!
//! MessagePack, because JSON loses NaN, infinities, bytes and keys that are not strings. The app's
//! state comes last and by itself, so that it is read as the type it was written as, whatever the
//! library adds.

use std::borrow::Cow;
use std::io::Write;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How this build writes snapshots. Stored beside each, so that a later one can read both.
pub(crate) const CODEC: u16 = 1;

/// Longest snapshot.
pub(crate) const MAX_SNAPSHOT: usize = 16 * 1024 * 1024;

const CHECKSUM: usize = 4;
const HEAD: usize = CHECKSUM + 4;

/// What the library keeps of a session. Its names are short: they are written with every save.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept<'a> {
    /// Newest revision of the output log.
    pub(crate) revision: u64,
    /// Newest event that was dropped from it.
    pub(crate) dropped: u64,
    /// The last owners that made snapshots: epoch, and the revision at which it began (R13).
    pub(crate) epochs: Vec<(u64, u64)>,
    #[serde(borrow)]
    pub(crate) outputs: Vec<Output<'a>>,
    #[serde(borrow)]
    pub(crate) channels: Vec<Channel<'a>>,
    /// A channel was dropped that may have applied inputs (R7).
    pub(crate) expired: bool,
    #[serde(borrow)]
    pub(crate) timers: Vec<Timer<'a>>,
    /// How many messages were ever scheduled.
    pub(crate) scheduled: u64,
    /// Index of the worker that has made the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<u16>,
}

/// One entry of the output log.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output<'a> {
    pub(crate) rev: u64,
    /// Key and where its value begins in the body; absent for an event.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<(Cow<'a, str>, u32)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) binary: bool,
    pub(crate) body: Bytes,
}

/// One channel's numbers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Channel<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    pub(crate) attach: u64,
    pub(crate) connection: u64,
    /// Last input that is in this snapshot.
    pub(crate) applied: Option<u64>,
    /// Newest output that its client has taken.
    pub(crate) taken: u64,
}

/// One message that is planned.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timer<'a> {
    #[serde(borrow)]
    pub(crate) key: Cow<'a, str>,
    /// Unix time in milliseconds.
    pub(crate) due: u64,
    /// Its number, and the epoch in which it was planned.
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) message: Bytes,
}

/// Why bytes are no snapshot that this build can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("its snapshot is damaged: the checksum does not match")]
    Damaged,
    #[error("its snapshot is written with codec {0}; this build reads {CODEC}")]
    Codec(u16),
    #[error("its snapshot does not fit this build: {0}")]
    Library(String),
    #[error(
        "its state, saved by version {from} of the app, does not fit version {to}: {error}; a new \
         field needs #[serde(default)], Session::migrate reads any other older form"
    )]
    App { from: u32, to: u32, error: String },
    #[error(
        "its state does not fit the app, which has changed without raising Session::VERSION: {0}; \
         a new field needs #[serde(default)], after any other change raise VERSION and read the \
         older form in Session::migrate"
    )]
    Changed(String),
}

/// Why a session cannot be saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsaveable {
    #[error("its state is {0} bytes long, allowed are {MAX_SNAPSHOT}")]
    TooLong(usize),
    #[error("its state cannot be written: {0}")]
    App(String),
}

/// Writes a snapshot.
pub(crate) fn encode(kept: &Kept<'_>, app: &impl Serialize) -> Result<Bytes, Unsaveable> {
    let wrong = |error: rmp_serde::encode::Error| Unsaveable::App(error.to_string());
    let mut bytes = Limited { bytes: vec![0; HEAD], length: HEAD };
    rmp_serde::encode::write_named(&mut bytes, kept).map_err(wrong)?;
    let kept_length = bytes.length - HEAD;
    rmp_serde::encode::write_named(&mut bytes, app).map_err(wrong)?;
    let Limited { mut bytes, length } = bytes;
    if length > MAX_SNAPSHOT {
        return Err(Unsaveable::TooLong(length));
    }
    // Far below 4 GiB, as the whole is.
    bytes[CHECKSUM..HEAD].copy_from_slice(&(kept_length as u32).to_le_bytes());
    let checksum = crc32fast::hash(&bytes[CHECKSUM..]).to_le_bytes();
    bytes[..CHECKSUM].copy_from_slice(&checksum);
    Ok(bytes.into())
}

/// Takes what fits a snapshot and only counts the rest: the user is told how much too long it is.
struct Limited {
    bytes: Vec<u8>,
    length: usize,
}

impl Write for Limited {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.length += part.len();
        if self.length <= MAX_SNAPSHOT {
            self.bytes.extend_from_slice(part);
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads what the library keeps; the rest is the app's state.
pub(crate) fn decode(codec: u16, bytes: &[u8]) -> Result<(Kept<'_>, &[u8]), Unreadable> {
    if codec != CODEC {
        return Err(Unreadable::Codec(codec));
    }
    let Some((checksum, rest)) = bytes.split_first_chunk::<CHECKSUM>() else {
        return Err(Unreadable::Damaged);
    };
    if crc32fast::hash(rest).to_le_bytes() != *checksum {
        return Err(Unreadable::Damaged);
    }
    let parts = rest
        .split_first_chunk()
        .and_then(|(length, body)| body.split_at_checked(u32::from_le_bytes(*length) as usize));
    let (kept, app) = parts.ok_or(Unreadable::Damaged)?;
    let kept =
        rmp_serde::from_slice(kept).map_err(|error| Unreadable::Library(error.to_string()))?;
    Ok((kept, app))
}

/// Saved state of an app, as one of its versions wrote it; see
/// [`Session::migrate`](crate::Session::migrate).
#[derive(Clone)]
pub struct Saved {
    bytes: Bytes,
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved").field("bytes", &self.bytes.len()).finish()
    }
}

impl Saved {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Reads it as a `T`: the app's type of then, or something looser such as a map of
    /// `serde_json::Value`. Fields that `T` does not have are skipped.
    ///
    /// # Errors
    /// When it is no `T`.
    pub fn read<T: DeserializeOwned>(&self) -> crate::Result<T> {
        Ok(rmp_serde::from_slice(&self.bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    fn kept() -> Kept<'static> {
        Kept {
            revision: 7,
            dropped: 3,
            epochs: vec![(1, 0), (u64::MAX, 4)],
            outputs: vec![
                Output {
                    rev: 5,
                    key: Some(("loss".into(), 20)),
                    binary: false,
                    body: Bytes::from_static(b"{}"),
                },
                Output { rev: 7, key: None, binary: true, body: Bytes::from_static(b"\xff\0") },
            ],
            channels: vec![Channel {
                id: "channel-1".into(),
                attach: 2,
                connection: u64::MAX,
                applied: Some(9),
                taken: 5,
            }],
            expired: true,
            timers: vec![Timer {
                key: "step".into(),
                due: 1_700_000_000_000,
                number: 4,
                epoch: 1,
                message: Bytes::from_static(b"\x80"),
            }],
            scheduled: 4,
            by: Some(2),
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct App {
        numbers: Vec<f64>,
        pairs: HashMap<(u8, String), i64>,
        largest: u64,
        smallest: i64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        nothing: Option<()>,
        text: String,
    }

    #[test]
    fn a_snapshot_loses_nothing() {
        let app = App {
            numbers: vec![f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.1],
            pairs: [((1, "a".to_owned()), -1), ((2, String::new()), i64::MIN)].into(),
            largest: u64::MAX,
            smallest: i64::MIN,
            bytes: vec![0, 255, 128],
            nothing: None,
            text: "\u{1f600}\0".to_owned(),
        };
        let bytes = encode(&kept(), &app).unwrap();
        let (read, rest) = decode(CODEC, &bytes).unwrap();
        assert_eq!(read, kept());
        assert_eq!(Saved::new(Bytes::copy_from_slice(rest)).read::<App>().unwrap(), app);
    }

    #[test]
    fn not_a_number_stays_not_a_number() {
        let bytes = encode(&Kept::default(), &vec![f64::NAN]).unwrap();
        let (_, rest) = decode(CODEC, &bytes).unwrap();
        let numbers: Vec<f64> = Saved::new(Bytes::copy_from_slice(rest)).read().unwrap();
        assert!(numbers[0].is_nan());
    }

    #[test]
    fn any_damage_is_noticed() {
        let bytes = encode(&kept(), &"state").unwrap().to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(CODEC, &damaged).unwrap_err(), Unreadable::Damaged);
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(CODEC, &bytes[..length]).unwrap_err(), Unreadable::Damaged);
        }
    }

    #[test]
    fn what_another_build_wrote_is_not_guessed_at() {
        let bytes = encode(&kept(), &1).unwrap();
        assert_eq!(decode(2, &bytes).unwrap_err(), Unreadable::Codec(2));
        let kept = rmp_serde::to_vec_named(&BTreeMap::from([("revision", "x")])).unwrap();
        let mut other = [vec![0; CHECKSUM], (kept.len() as u32).to_le_bytes().to_vec()].concat();
        other.extend(kept);
        let checksum = crc32fast::hash(&other[CHECKSUM..]).to_le_bytes();
        other[..CHECKSUM].copy_from_slice(&checksum);
        assert!(matches!(decode(CODEC, &other), Err(Unreadable::Library(_))));
    }

    #[test]
    fn a_state_that_does_not_fit_tells_its_author_what_to_change() {
        let error = "missing field `x`".to_owned();
        let app = Unreadable::App { from: 1, to: 2, error: error.clone() };
        for sentence in [Unreadable::Changed(error).to_string(), app.to_string()] {
            for part in ["missing field `x`", "#[serde(default)]", "Session::migrate"] {
                assert!(sentence.contains(part), "{part} is missing in: {sentence}");
            }
        }
    }

    #[test]
    fn a_state_that_is_too_long_says_how_long_it_is() {
        let long = "x".repeat(MAX_SNAPSHOT + 1000);
        let Err(Unsaveable::TooLong(length)) = encode(&Kept::default(), &long) else {
            panic!("it must be refused");
        };
        assert!((MAX_SNAPSHOT + 1000..MAX_SNAPSHOT + 2000).contains(&length));
        let just = "x".repeat(MAX_SNAPSHOT - 1000);
        assert!(encode(&Kept::default(), &just).is_ok());
    }

    #[test]
    fn what_serde_cannot_write_is_said() {
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no form"))
            }
        }
        let error = encode(&Kept::default(), &Broken).unwrap_err();
        assert_eq!(error.to_string(), "its state cannot be written: no form");
    }
}
