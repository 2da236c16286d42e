//! `sessions show`: a row and its snapshot as one JSON document. Reads snapshots; knows no stores.

use std::io::Write;

use serde::{Serialize, Serializer};
use single_state_store::Listed;

use super::Numbers;
use super::json::{self, Blob, Packed, Shown, Text};
use super::moment::moment_of_millis;
use crate::snapshot::{self, Channel, Kept, Output, Timer};

/// Everything about one session.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    row: Numbers<'a>,
    /// Why the snapshot, or a part of it, is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    library: Option<Library<'a>>,
    app: Option<Shown<'a>>,
    /// The snapshot as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

/// What the library keeps beside the app's state.
#[derive(Debug, Serialize)]
struct Library<'a> {
    revision: u64,
    dropped: u64,
    epochs: Vec<ShownEpoch>,
    scheduled: u64,
    /// Index of the worker that has saved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_by: Option<u16>,
    expired: bool,
    channels: Vec<ShownChannel<'a>>,
    timers: Vec<ShownTimer<'a>>,
    outputs: Vec<ShownOutput<'a>>,
}

/// An owner, and the revision at which it began.
#[derive(Debug, Serialize)]
struct ShownEpoch {
    epoch: u64,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct ShownChannel<'a> {
    id: &'a str,
    attach: u64,
    connection: u64,
    applied: Option<u64>,
    taken: u64,
}

#[derive(Debug, Serialize)]
struct ShownTimer<'a> {
    key: &'a str,
    due: String,
    number: u64,
    epoch: u64,
    message: Packed<'a>,
}

#[derive(Debug, Serialize)]
struct ShownOutput<'a> {
    revision: u64,
    /// Of an assigned value; absent for an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    body: Body<'a>,
}

#[derive(Debug)]
enum Body<'a> {
    Text(Text<'a>),
    Binary(Blob<'a>),
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(to),
            Self::Binary(bytes) => bytes.serialize(to),
        }
    }
}

/// Writes a session; `raw`: its snapshot as it is stored too.
pub(super) fn show(
    listed: &Listed,
    state: &[u8],
    raw: bool,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let row = Numbers::new(listed);
    let state_text = raw.then(|| json::base64(state));
    let mut document = Document { row, error: None, library: None, app: None, state: state_text };
    // One that was never saved, or was discarded, has no snapshot: that is no error.
    if listed.version.0 == 0 {
        return write(&document, out);
    }
    let (kept, app) = match snapshot::decode(listed.codec, state) {
        Ok(parts) => parts,
        Err(error) => {
            document.error = Some(error.to_string());
            return write(&document, out);
        }
    };
    document.library = Some(library(&kept));
    match json::read(app) {
        Ok(value) => {
            document.app = Some(Shown(&value));
            write(&document, out)
        }
        Err(error) => {
            document.error = Some(format!("its state cannot be shown: {error}"));
            write(&document, out)
        }
    }
}

fn write(document: &Document<'_>, out: &mut impl Write) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}

fn library<'a>(kept: &'a Kept<'a>) -> Library<'a> {
    let Kept { revision, dropped, epochs, outputs, channels, expired, timers, scheduled, by } =
        kept;
    let epochs = epochs.iter().map(|&(epoch, revision)| ShownEpoch { epoch, revision });
    Library {
        revision: *revision,
        dropped: *dropped,
        epochs: epochs.collect(),
        scheduled: *scheduled,
        saved_by: *by,
        expired: *expired,
        channels: channels.iter().map(ShownChannel::new).collect(),
        timers: timers.iter().map(ShownTimer::new).collect(),
        outputs: outputs.iter().map(ShownOutput::new).collect(),
    }
}

impl<'a> ShownChannel<'a> {
    fn new(channel: &'a Channel<'a>) -> Self {
        let Channel { id, attach, connection, applied, taken } = channel;
        let (attach, connection, applied, taken) = (*attach, *connection, *applied, *taken);
        Self { id, attach, connection, applied, taken }
    }
}

impl<'a> ShownTimer<'a> {
    fn new(timer: &'a Timer<'a>) -> Self {
        let Timer { key, due, number, epoch, message } = timer;
        let (due, message) = (moment_of_millis(*due), Packed(message));
        Self { key, due, number: *number, epoch: *epoch, message }
    }
}

impl<'a> ShownOutput<'a> {
    fn new(output: &'a Output<'a>) -> Self {
        let Output { rev, key, binary, body } = output;
        let key = key.as_ref().map(|(key, _)| key.as_ref());
        let body = if *binary { Body::Binary(Blob(body)) } else { Body::Text(Text(body)) };
        Self { revision: *rev, key, body }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use serde_json::{Value, json};
    use single_state_proto::id::{Epoch, WorkerIndex};
    use single_state_store::Version;

    use super::*;
    use crate::snapshot::CODEC;

    fn row(version: u64, codec: u16, bytes: usize) -> Listed {
        Listed {
            session: "a".parse().unwrap(),
            owner: Some(WorkerIndex(2)),
            epoch: Epoch(9),
            version: Version(version),
            app_version: 4,
            codec,
            strikes: 0,
            bytes: bytes as u64,
            wake_at: None,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }

    fn print(row: &Listed, state: &[u8], raw: bool) -> Value {
        let mut out = Vec::new();
        show(row, state, raw, &mut out).unwrap();
        assert_eq!(out.last(), Some(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_document_has_the_row_what_the_library_keeps_and_the_apps_state() {
        let kept = Kept {
            revision: 7,
            epochs: vec![(9, 6)],
            outputs: vec![
                Output {
                    rev: 6,
                    key: Some(("loss".into(), 20)),
                    binary: false,
                    body: Bytes::from_static(br#"{"tag":"assign","key":"loss","value":0.5}"#),
                },
                Output { rev: 7, key: None, binary: true, body: Bytes::from_static(b"{}") },
            ],
            channels: vec![Channel {
                id: "channel-1".into(),
                attach: 1,
                connection: u64::MAX,
                applied: None,
                taken: 5,
            }],
            timers: vec![Timer {
                key: "step".into(),
                due: 1_700_000_000_000,
                number: 4,
                epoch: 9,
                message: rmp_serde::to_vec_named(&json!({"tag": "_step"})).unwrap().into(),
            }],
            scheduled: 4,
            by: Some(2),
            ..Kept::default()
        };
        let bytes = snapshot::encode(&kept, &json!({"items": ["x"]})).unwrap();
        let shown = print(&row(3, CODEC, bytes.len()), &bytes, false);
        let expected = json!({
            "session": "a", "owner": 2, "epoch": 9, "version": 3, "app_version": 4,
            "codec": CODEC, "strikes": 0, "quarantined": false, "bytes": bytes.len(),
            "wake_at": null, "updated_at": "1970-01-01T00:00:00Z",
            "library": {
                "revision": 7, "dropped": 0, "epochs": [{"epoch": 9, "revision": 6}],
                "scheduled": 4, "saved_by": 2, "expired": false,
                "channels": [{"id": "channel-1", "attach": 1, "connection": u64::MAX,
                              "applied": null, "taken": 5}],
                "timers": [{"key": "step", "due": "2023-11-14T22:13:20Z", "number": 4,
                            "epoch": 9, "message": {"tag": "_step"}}],
                "outputs": [
                    {"revision": 6, "key": "loss",
                     "body": {"tag": "assign", "key": "loss", "value": 0.5}},
                    {"revision": 7, "body": {"$bytes": "e30="}},
                ],
            },
            "app": {"items": ["x"]},
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_session_that_was_never_saved_has_no_state() {
        let shown = print(&row(0, 0, 0), b"", false);
        assert_eq!((&shown["app"], &shown["version"]), (&Value::Null, &json!(0)));
        assert_eq!((shown.get("error"), shown.get("state")), (None, None));
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_still_shows_its_row() {
        let mut damaged = snapshot::encode(&Kept::default(), &1).unwrap().to_vec();
        damaged[9] ^= 1;
        let shown = print(&row(3, CODEC, damaged.len()), &damaged, false);
        let error = "its snapshot is damaged: the checksum does not match";
        assert_eq!((&shown["error"], &shown["version"]), (&json!(error), &json!(3)));
        assert_eq!((&shown["app"], shown.get("state")), (&Value::Null, None));
        let raw = print(&row(3, CODEC, damaged.len()), &damaged, true);
        assert_eq!(raw["state"], json::base64(&damaged));

        let shown = print(&row(3, 77, 1), b"x", false);
        let error = shown["error"].as_str().unwrap();
        assert!(error.contains("codec 77"), "{error}");
    }

    #[test]
    fn a_state_that_is_nested_too_deep_hides_nothing_else() {
        let mut deep = snapshot::encode(&Kept::default(), &()).unwrap().to_vec();
        deep.pop();
        deep.extend([0x91; 3000]);
        let checksum = crc32fast::hash(&deep[4..]).to_le_bytes();
        deep[..4].copy_from_slice(&checksum);
        // With the stack that the main thread of a program has.
        let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(move || {
            let shown = print(&row(1, CODEC, deep.len()), &deep, false);
            let error = "its state cannot be shown: it is nested deeper than 1024 levels";
            assert_eq!(shown["error"], error);
            assert_eq!((&shown["app"], &shown["library"]["revision"]), (&Value::Null, &json!(0)));
        });
        thread.unwrap().join().unwrap();
    }
}
