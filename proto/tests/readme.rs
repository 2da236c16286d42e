//! `README.md` specifies the wire; what it says in numbers and bytes is what the crate does.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use single_state_proto::decoder::Decoder;
use single_state_proto::frame::{CloseCode, Data, Frame, GoAway, Hello, Open, ResetCode, Start};
use single_state_proto::frame::{Kind, Refused, Skipped};
use single_state_proto::id::{Attach, ConnectionId, Epoch, Generation, Incarnation, StreamId};
use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::key::{LinkKeys, Nonce};
use single_state_proto::limits;
use single_state_proto::link::{Link, Side};
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

const README: &str = include_str!("../README.md");

/// The bytes of the block that begins with "```hex NAME".
fn block(name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}\n");
    let (_, block) = README.split_once(&fence).expect("a block of this name");
    let (block, _) = block.split_once("```").expect("the end of the block");
    let digits: Vec<u8> = block
        .lines()
        .flat_map(|line| line.split('#').next())
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|digit| char::from(digit).to_digit(16).expect("a hex digit") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The block is the frame, written and read.
#[track_caller]
fn check_example(name: &str, frame: Frame) {
    let mut written = BytesMut::new();
    frame.encode(&mut written);
    assert_eq!(format!("{:02x?}", &written[..]), format!("{:02x?}", block(name)));
    let mut decoder = Decoder::new();
    decoder.buffer().extend_from_slice(&block(name));
    assert_eq!(decoder.decode(), Ok(Some(frame)));
}

/// A table of the README has a row that begins with these cells.
#[track_caller]
fn check_row(first: impl ToString, second: impl ToString) {
    let row = format!("| {} | {} |", first.to_string(), second.to_string());
    assert!(README.lines().any(|line| line.starts_with(&row)), "README has no row {row}");
}

/// The table whose header begins with this cell has a row for each code, and no other.
#[track_caller]
fn check_codes<T: std::fmt::Debug + Copy>(header: &str, codes: &[T], number: impl Fn(T) -> u8) {
    let (_, table) = README.split_once(&format!("\n| {header} | ")).expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let found: Vec<_> = rows.map(|row| row.split(" | ").take(2).collect::<Vec<_>>()).collect();
    let expected = codes.iter().map(|code| [format!("| {}", number(*code)), format!("`{code:?}`")]);
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn the_examples_are_what_the_crate_writes_and_reads() {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        max_message: limits::MAX_MESSAGE,
        generation: Generation(7),
        index: WorkerIndex(2),
        incarnation: Incarnation(4_294_967_338),
        cluster: "prod".to_owned(),
        build: "0.1.0".to_owned(),
        nonce: None,
    };
    check_example("hello", Frame::Hello(hello.clone()));
    check_example("proof", proof_of_worker(hello));
    let open = Open {
        session: "alice".parse::<SessionId>().unwrap(),
        channel: "tab-00000001".parse().unwrap(),
        attach: Attach(1),
        connection: ConnectionId(0x1122_3344_5566_7788),
        generation: Generation(7),
        skipped: Skipped { down: vec![WorkerIndex(3)], ..Skipped::default() },
        seen: None,
        min_epoch: Epoch(0),
        fresh: false,
        recovered: false,
        window: limits::WINDOW,
        identity: None,
    };
    check_example("open", Frame::Open(StreamId(5), Box::new(open)));
    let data = |start, fin, part| Frame::Data(StreamId(5), Data { start, fin, part });
    let start = |number, length, binary| Some(Start { number, length, binary });
    let body = Bytes::from_static(b"{\"tag\":\"items\"}");
    check_example("data", data(start(1, 15, false), true, body));
    check_example("first-part", data(start(2, 3, true), false, Bytes::from_static(&[1, 2])));
    check_example("last-part", data(None, true, Bytes::from_static(&[3])));
}

/// What a worker with this HELLO, the key 42…42 and the nonce 22…22 proves to a gateway whose nonce is
/// 11…11.
fn proof_of_worker(hello: Hello) -> Frame {
    let (nonce, theirs) = (Nonce([0x22; Nonce::LEN]), Nonce([0x11; Nonce::LEN]));
    let keys = LinkKeys::parse(&"42".repeat(32)).expect("a key");
    let now = Instant::now();
    let mut worker = Link::new(Side::Worker, hello.clone(), now).with_keys(keys, nonce);
    let theirs = Frame::Hello(Hello { nonce: Some(theirs), ..hello });
    worker.handle_frame(now, theirs).expect("a HELLO of its gateway");
    let mut decoder = Decoder::new();
    worker.poll_transmit(decoder.buffer());
    assert!(matches!(decoder.decode(), Ok(Some(Frame::Hello(_)))));
    decoder.decode().expect("a whole frame").expect("its proof")
}

#[test]
fn the_kinds_have_their_numbers() {
    for (name, kind) in [
        ("HELLO", Kind::Hello),
        ("OPEN", Kind::Open),
        ("OPENED", Kind::Opened),
        ("REFUSED", Kind::Refused),
        ("DATA", Kind::Data),
        ("ACK", Kind::Ack),
        ("CREDIT", Kind::Credit),
        ("RECALL", Kind::Recall),
        ("MOVED", Kind::Moved),
        ("RESET", Kind::Reset),
        ("CLOSE", Kind::Close),
        ("TOPOLOGY", Kind::Topology),
        ("PING", Kind::Ping),
        ("PONG", Kind::Pong),
        ("GOAWAY", Kind::GoAway),
        ("PROOF", Kind::Proof),
        ("SKIPPED", Kind::Skipped),
        ("TAKEN", Kind::Taken),
    ] {
        check_row(kind as u8, format!("`{name}`"));
    }
}

#[test]
fn the_codes_have_their_numbers() {
    check_codes("code of RESET", ResetCode::ALL, |code| code as u8);
    check_codes("code of CLOSE", CloseCode::ALL, |code| code as u8);
    check_codes("code of GOAWAY", GoAway::ALL, |code| code as u8);
}

#[test]
fn the_refusals_have_their_numbers() {
    let topology = Topology::new(Generation(1), Placement::Modulo, Vec::new()).unwrap();
    for (name, refused) in [
        ("Stale", Refused::Stale(topology)),
        ("WrongOwner", Refused::WrongOwner),
        ("Retry", Refused::Retry { after_ms: 1, owner: None }),
        ("Quarantined", Refused::Quarantined),
        ("Forbidden", Refused::Forbidden),
        ("Superseded", Refused::Superseded),
        ("TooManyChannels", Refused::TooManyChannels),
    ] {
        let mut frame = BytesMut::new();
        Frame::Refused(StreamId(1), refused).encode(&mut frame);
        check_row(frame[limits::HEAD_LEN], format!("`{name}`"));
    }
}

#[test]
fn the_limits_have_their_values() {
    let check = |name: &str, value: u64| check_row(format!("`{name}`"), value);
    check("MAX_PAYLOAD", limits::MAX_PAYLOAD as u64);
    check("MAX_MESSAGE", limits::MAX_MESSAGE.into());
    check("WINDOW", limits::WINDOW.into());
    check("MESSAGE_COST", limits::MESSAGE_COST.into());
    check("REASSEMBLY_BUDGET", limits::REASSEMBLY_BUDGET);
    check("MAX_WORKERS", limits::MAX_WORKERS as u64);
    check("MAX_ADDRESS", limits::MAX_ADDRESS as u64);
    check("MAX_INPUT_NUMBER", limits::MAX_INPUT_NUMBER);
    check("UNACKED_MESSAGES", limits::UNACKED_MESSAGES as u64);
    check("UNACKED_BYTES", limits::UNACKED_BYTES as u64);
    check("MAX_CHANNELS", limits::MAX_CHANNELS as u64);
    for (name, value) in [
        ("HELLO_TIMEOUT", limits::HELLO_TIMEOUT),
        ("PING_INTERVAL", limits::PING_INTERVAL),
        ("DEAD_AFTER", limits::DEAD_AFTER),
    ] {
        assert_eq!(value, Duration::from_secs(value.as_secs()));
        check_row(format!("`{name}`"), format!("{} s", value.as_secs()));
    }
}
