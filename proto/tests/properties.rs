//! What must hold for any frames and bytes: they are random, and proptest shrinks what fails to the
//! smallest that does.

mod pair;
mod random;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use single_state_proto::decoder::Decoder;
use single_state_proto::error::Malformed;
use single_state_proto::frame::{
    CloseCode, Data, Durability, Frame, GoAway, Hello, Open, Opened, Refused, ResetCode, Skipped,
    Start, Taken,
};
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, Generation, Incarnation, InputNumber, Revision, StreamId,
    WorkerIndex,
};
use single_state_proto::key::{Nonce, Proof};
use single_state_proto::limits::{HEAD_LEN, MAX_PAYLOAD};
use single_state_proto::link::Event;
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

use crate::pair::{Pair, keyed_hello, nonce, opened, other};
use crate::random::{body, cases, pieces, side};

/// `flags:u8 number:u64 length:u32` before the bytes of a message's first part.
const FIRST_PART: usize = 13;

fn stream() -> impl Strategy<Value = StreamId> {
    prop_oneof![1..6_u32, any::<u32>()].prop_map(StreamId)
}

fn index() -> impl Strategy<Value = WorkerIndex> {
    any::<u16>().prop_map(WorkerIndex)
}

fn topology() -> impl Strategy<Value = Topology> {
    let host = select(vec!["127.0.0.1", "worker-7.worker.default.svc", "[::1]"]);
    let placement = select(vec![Placement::Modulo, Placement::Jump]);
    (any::<u64>(), placement, host, 1..60_000_u16, 0..20_u16).prop_map(
        |(generation, placement, host, port, count)| {
            let workers = (0..count).map(|i| format!("{host}:{}", port + i)).collect();
            Topology::new(Generation(generation), placement, workers).expect("different addresses")
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let texts = (".{0,20}", ".{0,20}");
    let ids = (any::<u64>(), index(), any::<u64>());
    let nonce = option::of(any::<[u8; 32]>().prop_map(Nonce));
    (any::<(u16, u16, u32)>(), ids, texts, nonce).prop_map(
        |(protocol, ids, (cluster, build), nonce)| Hello {
            protocol_min: protocol.0,
            protocol_max: protocol.1,
            max_message: protocol.2,
            generation: Generation(ids.0),
            index: ids.1,
            incarnation: Incarnation(ids.2),
            cluster,
            build,
            nonce,
        },
    )
}

fn skipped() -> impl Strategy<Value = Skipped> {
    (vec(index(), 0..10), vec(index(), 0..10))
        .prop_map(|(down, passed_over)| Skipped { down, passed_over })
}

fn taken() -> impl Strategy<Value = Taken> {
    ("[A-Za-z0-9_-]{1,64}", any::<u64>()).prop_map(|(session, epoch)| Taken {
        session: session.parse().expect("a session id"),
        epoch: Epoch(epoch),
    })
}

fn open() -> impl Strategy<Value = Open> {
    let names = ("[A-Za-z0-9_-]{1,64}", "[A-Za-z0-9_-]{8,64}", option::of(".{0,40}"));
    let seen = option::of(any::<(u64, u64)>());
    (names, any::<[u64; 4]>(), skipped(), seen, any::<(bool, bool, u32)>()).prop_map(
        |((session, channel, identity), numbers, skipped, seen, (fresh, recovered, window))| Open {
            session: session.parse().expect("a session id"),
            channel: channel.parse().expect("a channel id"),
            attach: Attach(numbers[0]),
            connection: ConnectionId(numbers[1]),
            generation: Generation(numbers[2]),
            skipped,
            seen: seen.map(|(epoch, revision)| (Epoch(epoch), Revision(revision))),
            min_epoch: Epoch(numbers[3]),
            fresh,
            recovered,
            window,
            identity,
        },
    )
}

fn answer() -> impl Strategy<Value = Opened> {
    let durability = select(vec![Durability::Relaxed, Durability::Durable, Durability::Memory]);
    (any::<(u64, u64, bool, u32)>(), option::of(any::<u64>()), durability).prop_map(
        |((epoch, revision, resumed, window), applied, durability)| Opened {
            epoch: Epoch(epoch),
            applied: applied.map(InputNumber),
            revision: Revision(revision),
            resumed,
            window,
            durability,
        },
    )
}

fn refused() -> impl Strategy<Value = Refused> {
    prop_oneof![
        topology().prop_map(Refused::Stale),
        (any::<u32>(), option::of(index()))
            .prop_map(|(after_ms, owner)| Refused::Retry { after_ms, owner }),
        select(vec![
            Refused::WrongOwner,
            Refused::Quarantined,
            Refused::Forbidden,
            Refused::Superseded,
            Refused::TooManyChannels,
            Refused::TooNew,
        ]),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    let length = prop_oneof![
        8 => 0..100_usize,
        2 => 2000..2100_usize,
        1 => Just(MAX_PAYLOAD - FIRST_PART)
    ];
    let start = option::of(any::<(u64, u32, bool)>());
    (start, any::<bool>(), length).prop_map(|(start, fin, length)| {
        let start = start.map(|(number, length, binary)| Start { number, length, binary });
        Data { start, fin, part: body(length as u64, length) }
    })
}

/// Any kind but DATA, whose payload ends with the message. The short kinds are one branch, so that the
/// others come often enough.
fn frame_of_fields() -> impl Strategy<Value = Frame> {
    let short =
        (0..9, stream(), any::<u64>(), any::<u32>()).prop_map(|(kind, stream, number, bytes)| {
            match kind {
                0 => Frame::Ack(stream, number),
                1 => Frame::Credit(stream, bytes),
                2 => Frame::Recall(stream),
                3 => Frame::Moved(stream),
                4 => Frame::Ping(number),
                5 => Frame::Pong(number),
                6 => Frame::Reset(stream, pick(ResetCode::ALL, number)),
                7 => Frame::Close(stream, pick(CloseCode::ALL, number)),
                _ => Frame::GoAway(pick(GoAway::ALL, number)),
            }
        });
    prop_oneof![
        4 => short,
        1 => hello().prop_map(Frame::Hello),
        1 => any::<[u8; 32]>().prop_map(|proof| Frame::Proof(Proof(proof))),
        1 => (stream(), open()).prop_map(|(id, open)| Frame::Open(id, Box::new(open))),
        1 => (stream(), answer()).prop_map(|(id, opened)| Frame::Opened(id, opened)),
        1 => (stream(), refused()).prop_map(|(id, refused)| Frame::Refused(id, refused)),
        1 => topology().prop_map(Frame::Topology),
        1 => skipped().prop_map(Frame::Skipped),
        1 => taken().prop_map(Frame::Taken),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let data = (stream(), data()).prop_map(|(id, data)| Frame::Data(id, data));
    prop_oneof![4 => frame_of_fields(), 1 => data]
}

fn pick<T: Copy>(all: &[T], number: u64) -> T {
    all[(number % all.len() as u64) as usize]
}

fn encode(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

/// Feeds bytes in pieces of these sizes, in turn, and decodes after each; checks on the way that no more
/// than one frame is ever held.
fn decode(mut bytes: &[u8], pieces: &[usize]) -> (Vec<Frame>, Option<Malformed>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in pieces.iter().cycle() {
        let (now, later) = bytes.split_at((*piece).min(bytes.len()));
        decoder.buffer().extend_from_slice(now);
        loop {
            match decoder.decode() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(decoder.buffer().len() < HEAD_LEN + MAX_PAYLOAD, "more than one frame is held");
        bytes = later;
        if bytes.is_empty() {
            break;
        }
    }
    (frames, None)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn every_frame_is_read_as_it_was_written(frame in frame()) {
        let bytes = encode(std::slice::from_ref(&frame));
        prop_assert_eq!(decode(&bytes, &[bytes.len()]), (vec![frame], None));
    }

    #[test]
    fn a_longer_payload_is_read_by_the_fields_that_are_known(
        frame in frame_of_fields(),
        more in vec(any::<u8>(), 1..20),
    ) {
        let mut bytes = encode(std::slice::from_ref(&frame));
        bytes.extend_from_slice(&more);
        state_length(&mut bytes);
        prop_assert_eq!(decode(&bytes, &[bytes.len()]), (vec![frame], None));
    }

    #[test]
    fn a_payload_that_ends_within_its_fields_is_refused(
        frame in frame_of_fields(),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(std::slice::from_ref(&frame));
        if bytes.len() == HEAD_LEN {
            return Ok(());
        }
        bytes.truncate(HEAD_LEN + end.index(bytes.len() - HEAD_LEN));
        state_length(&mut bytes);
        let (frames, error) = decode(&bytes, &[bytes.len()]);
        prop_assert!(frames.is_empty() && matches!(error, Some(Malformed::Short(_))), "{error:?}");
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn bytes_cut_or_glued_in_any_way_give_the_same_frames(
        frames in vec(frame(), 1..12),
        pieces in pieces(),
    ) {
        let bytes = encode(&frames);
        prop_assert_eq!(decode(&bytes, &pieces), (frames, None));
    }

    #[test]
    fn random_bytes_are_refused_or_waited_with(
        bytes in vec(prop_oneof![Just(0), 0..16_u8, any::<u8>()], 0..4000),
        pieces in pieces(),
    ) {
        decode(&bytes, &pieces);
    }

    #[test]
    fn damaged_frames_are_refused_or_waited_with_or_read_as_other_frames(
        frames in vec(frame(), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        pieces in pieces(),
    ) {
        let mut bytes = encode(&frames);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for frame in decode(&bytes, &pieces).0 {
            let again = encode(std::slice::from_ref(&frame));
            prop_assert_eq!(decode(&again, &[again.len()]), (vec![frame], None));
        }
    }

    #[test]
    fn a_head_beyond_the_limit_is_refused_at_once(
        length in (MAX_PAYLOAD as u32 + 1)..(1 << 24),
        rest in any::<[u8; 5]>(),
    ) {
        let mut head = length.to_be_bytes()[1..].to_vec();
        head.extend_from_slice(&rest);
        let refused = Some(Malformed::Oversized(length as usize));
        prop_assert_eq!(decode(&head, &[HEAD_LEN]), (Vec::new(), refused));
    }

    /// A peer without the key says HELLO as it should, and then what it likes.
    #[test]
    fn no_frames_of_a_peer_without_the_key_make_a_link(
        to in side(),
        frames in vec(frame(), 1..60),
    ) {
        let mut pair = Pair::keyed("a", "a");
        pair.inject(to, Frame::Hello(keyed_hello(nonce(other(to))))).unwrap();
        for frame in frames {
            let error = pair.inject(to, frame).is_err();
            prop_assert!(!pair.end(to).link.is_active());
            for event in pair.end(to).events() {
                prop_assert!(matches!(event, Event::GoAway(_)), "{event:?}");
            }
            if error {
                break;
            }
        }
    }

    /// After HELLO, frames of a peer that knows the forms but not the rules.
    #[test]
    fn any_frames_in_any_order_are_served_or_end_the_link(
        to in side(),
        frames in vec(frame(), 1..60),
    ) {
        let mut pair = Pair::connected();
        for frame in frames {
            if pair.inject(to, frame).is_err() {
                break;
            }
            let end = pair.end(to);
            for event in end.events() {
                match event {
                    Event::Open(id, _) => end.link.accept(id, opened()),
                    Event::Message(id, message) => end.link.consumed(id, message.body.len()),
                    Event::Recall(id) => end.link.moved(id),
                    _ => {}
                }
            }
            pair.transmit(to);
        }
    }
}

/// Corrects the length in the head of a single frame.
fn state_length(bytes: &mut BytesMut) {
    let length = (bytes.len() - HEAD_LEN) as u32;
    bytes[..3].copy_from_slice(&length.to_be_bytes()[1..]);
}
