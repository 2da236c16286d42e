//! Version 1 of the link protocol is fixed: workers and gateways of different builds speak it with
//! each other while a cluster is upgraded or rolled back. `tests/vectors/link-1.txt` has a frame of
//! each kind and code as it must be written and read for as long as version 1 is spoken.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use single_state_proto::decoder::Decoder;
use single_state_proto::frame::{
    CloseCode, Data, Durability, Frame, GoAway, Hello, Open, Opened, Refused, ResetCode, Skipped,
    Start, Taken,
};
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, Generation, Incarnation, InputNumber, Revision, StreamId,
    WorkerIndex,
};
use single_state_proto::key::{Nonce, Proof};
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL, WINDOW};
use single_state_proto::link::{Link, Side};
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

const GOLDEN: &str = include_str!("../../tests/vectors/link-1.txt");

const STREAM: StreamId = StreamId(0x0102_0304);

fn hello(nonce: Option<Nonce>) -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        max_message: MAX_MESSAGE,
        generation: Generation(7),
        index: WorkerIndex(2),
        incarnation: Incarnation(0x0001_0203_0405_0607),
        cluster: "prod".to_owned(),
        build: "0.1.0".to_owned(),
        nonce,
    }
}

fn topology() -> Topology {
    let workers = vec!["worker-0:7000".to_owned(), "[::1]:7001".to_owned()];
    Topology::new(Generation(8), Placement::Jump, workers).expect("different addresses")
}

fn skipped() -> Skipped {
    Skipped { down: vec![WorkerIndex(3)], passed_over: vec![WorkerIndex(1), WorkerIndex(4)] }
}

fn taken() -> Taken {
    Taken { session: "alice".parse().expect("a session id"), epoch: Epoch(12) }
}

fn open(seen: Option<(Epoch, Revision)>, identity: Option<String>) -> Box<Open> {
    Box::new(Open {
        session: "alice".parse().expect("a session id"),
        channel: "tab-00000001".parse().expect("a channel id"),
        attach: Attach(2),
        connection: ConnectionId(0x1122_3344_5566_7788),
        generation: Generation(7),
        skipped: skipped(),
        seen,
        min_epoch: Epoch(9),
        fresh: identity.is_none(),
        recovered: identity.is_some(),
        window: WINDOW,
        identity,
    })
}

fn opened(applied: Option<InputNumber>, durability: Durability) -> Opened {
    let (epoch, revision) = (Epoch(10), Revision(11));
    Opened { epoch, applied, revision, resumed: applied.is_some(), window: WINDOW, durability }
}

/// A frame of each kind, and of each form that it has.
fn frames() -> Vec<(String, Frame)> {
    let data = |start, fin, part: &'static [u8]| {
        Frame::Data(STREAM, Data { start, fin, part: Bytes::from_static(part) })
    };
    let start = |binary| Some(Start { number: 5, length: 3, binary });
    let refused = |refused| Frame::Refused(STREAM, refused);
    let owner = Some(WorkerIndex(3));
    let mut frames = vec![
        ("hello", Frame::Hello(hello(None))),
        ("hello with a nonce", Frame::Hello(hello(Some(Nonce([0x22; 32]))))),
        ("proof", Frame::Proof(Proof([0x33; 32]))),
        ("open", Frame::Open(STREAM, open(None, None))),
        (
            "open of one that resumes",
            Frame::Open(STREAM, open(Some((Epoch(5), Revision(6))), Some("alice@x".to_owned()))),
        ),
        ("opened relaxed", Frame::Opened(STREAM, opened(None, Durability::Relaxed))),
        (
            "opened durable",
            Frame::Opened(STREAM, opened(Some(InputNumber(4)), Durability::Durable)),
        ),
        ("opened memory", Frame::Opened(STREAM, opened(None, Durability::Memory))),
        ("refused stale", refused(Refused::Stale(topology()))),
        ("refused wrong owner", refused(Refused::WrongOwner)),
        ("refused retry", refused(Refused::Retry { after_ms: 500, owner: None })),
        ("refused retry at", refused(Refused::Retry { after_ms: 500, owner })),
        ("refused quarantined", refused(Refused::Quarantined)),
        ("refused forbidden", refused(Refused::Forbidden)),
        ("refused superseded", refused(Refused::Superseded)),
        ("refused too many channels", refused(Refused::TooManyChannels)),
        ("refused too new", refused(Refused::TooNew)),
        ("data", data(start(false), true, b"abc")),
        ("data first part", data(start(true), false, b"a")),
        ("data last part", data(None, true, b"bc")),
        ("ack", Frame::Ack(STREAM, 5)),
        ("credit", Frame::Credit(STREAM, 65_536)),
        ("recall", Frame::Recall(STREAM)),
        ("moved", Frame::Moved(STREAM)),
        ("topology", Frame::Topology(topology())),
        ("skipped", Frame::Skipped(skipped())),
        ("taken", Frame::Taken(taken())),
        ("ping", Frame::Ping(12)),
        ("pong", Frame::Pong(12)),
    ]
    .into_iter()
    .map(|(name, frame)| (name.to_owned(), frame))
    .collect::<Vec<_>>();
    let codes = ResetCode::ALL.iter().map(|c| (format!("reset {c:?}"), Frame::Reset(STREAM, *c)));
    frames.extend(codes);
    let codes = CloseCode::ALL.iter().map(|c| (format!("close {c:?}"), Frame::Close(STREAM, *c)));
    frames.extend(codes);
    frames.extend(GoAway::ALL.iter().map(|c| (format!("go away {c:?}"), Frame::GoAway(*c))));
    frames
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden() -> BTreeMap<&'static str, &'static str> {
    let lines = GOLDEN.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(" = ").expect("NAME = BYTES")).collect()
}

#[test]
fn frames_of_version_1_are_written_and_read_as_ever() {
    let golden = golden();
    let mut written = String::new();
    for (name, frame) in frames() {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        written.push_str(&format!("{name} = {}\n", hex(&bytes)));
        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(&bytes);
        assert_eq!(decoder.decode(), Ok(Some(frame)), "{name}");
        let expected = golden.get(name.as_str()).copied();
        assert_eq!(Some(hex(&bytes).as_str()), expected, "{name}; all that is written:\n{written}");
    }
    assert_eq!(
        golden.len(),
        frames().len(),
        "a frame that is not spoken any more has a golden line"
    );
}

#[test]
fn version_1_is_spoken_and_builds_that_share_a_version_understand_each_other() {
    assert!(PROTOCOL.contains(&1), "say in the vectors' README until when version 1 was spoken");
    for (min, max, is_common) in [(1, 1, true), (1, 9, true), (0, 1, true), (2, 9, false)] {
        let now = Instant::now();
        let mut link = Link::new(Side::Gateway, hello(None), now);
        let theirs = Hello { protocol_min: min, protocol_max: max, ..hello(None) };
        let heard = link.handle_frame(now, Frame::Hello(theirs));
        assert_eq!(heard.is_ok(), is_common, "{min} to {max}: {heard:?}");
    }
}
