//! Peers that break the rules: the link ends with an error that says why, never with a panic, and
//! nothing is kept for them beyond the limits.

mod pair;

use bytes::Bytes;
use single_state_proto::decoder::Decoder;
use single_state_proto::error::{LinkError, Malformed};
use single_state_proto::frame::{
    CloseCode, Data, Frame, GoAway, Refused, ResetCode, Skipped, Start, Taken,
};
use single_state_proto::id::{Epoch, Generation, StreamId};
use single_state_proto::limits::{HEAD_LEN, MAX_MESSAGE, MAX_PAYLOAD, MESSAGE_COST, WINDOW};
use single_state_proto::link::{Side, goaway_for};
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

use crate::pair::{Pair, hello, open, opened};

const BOTH: [Side; 2] = [Side::Gateway, Side::Worker];

fn first(length: u32, fin: bool, bytes: usize) -> Data {
    let start = Some(Start { number: 1, length, binary: false });
    Data { start, fin, part: Bytes::from(vec![0; bytes]) }
}

fn more(fin: bool, bytes: usize) -> Data {
    Data { start: None, fin, part: Bytes::from(vec![0; bytes]) }
}

/// The frame must end the link, for a reason that says `why`.
#[track_caller]
fn check_refused(pair: &mut Pair, to: Side, frame: Frame, why: &str) {
    let error = pair.inject(to, frame.clone()).expect_err(&format!("{frame:?} passed"));
    assert!(error.to_string().contains(why), "{frame:?}: {error}");
    assert_eq!(goaway_for(&error), Some(GoAway::Protocol));
}

/// One of every kind that names a stream, as either side may send it.
fn stream_frames(side: Side, id: StreamId) -> Vec<Frame> {
    let mut frames = vec![
        Frame::Data(id, first(0, true, 0)),
        Frame::Ack(id, 1),
        Frame::Credit(id, 1),
        Frame::Reset(id, ResetCode::Fenced),
        Frame::Close(id, CloseCode::Ended),
    ];
    frames.extend(match side {
        Side::Gateway => vec![Frame::Recall(id)],
        Side::Worker => vec![
            Frame::Opened(id, opened()),
            Frame::Refused(id, Refused::WrongOwner),
            Frame::Moved(id),
        ],
    });
    frames
}

#[test]
fn a_frame_on_a_stream_that_was_never_opened_ends_the_link() {
    for to in BOTH {
        for id in [StreamId(0), StreamId(2), StreamId(u32::MAX)] {
            for frame in stream_frames(pair::other(to), id) {
                let mut pair = Pair::connected();
                pair.attach();
                check_refused(&mut pair, to, frame, "which was never opened");
            }
        }
    }
}

#[test]
fn a_message_before_the_stream_is_attached_ends_the_link() {
    for to in BOTH {
        for frame in [Frame::Ack(StreamId(1), 1), Frame::Credit(StreamId(1), 1)]
            .into_iter()
            .chain([Frame::Data(StreamId(1), first(0, true, 0))])
        {
            let mut pair = Pair::connected();
            pair.gateway.link.open(open("alice")).unwrap();
            pair.run();
            check_refused(&mut pair, to, frame, "which is not attached yet");
        }
    }
}

#[test]
fn an_answer_to_a_stream_that_is_attached_ends_the_link() {
    for frame in
        [Frame::Opened(StreamId(1), opened()), Frame::Refused(StreamId(1), Refused::Forbidden)]
    {
        let mut pair = Pair::connected();
        pair.attach();
        check_refused(&mut pair, Side::Gateway, frame, "which is attached");
    }
}

#[test]
fn a_stream_number_used_twice_ends_the_link() {
    for number in [0, 1, 4, 5] {
        let mut pair = Pair::connected();
        let open = || Box::new(open("alice"));
        pair.inject(Side::Worker, Frame::Open(StreamId(5), open())).unwrap();
        let again = Frame::Open(StreamId(number), open());
        check_refused(&mut pair, Side::Worker, again, "which was opened before");
    }
}

#[test]
fn kinds_that_only_the_other_side_sends_end_the_link() {
    let id = StreamId(1);
    let topology = Topology::new(Generation(1), Placement::Modulo, Vec::new()).unwrap();
    let taken = Taken { session: "alice".parse().unwrap(), epoch: Epoch(1) };
    for (to, frame) in [
        (Side::Gateway, Frame::Open(StreamId(9), Box::new(open("alice")))),
        (Side::Gateway, Frame::Recall(id)),
        (Side::Gateway, Frame::Topology(topology)),
        (Side::Gateway, Frame::Skipped(Skipped::default())),
        (Side::Worker, Frame::Opened(id, opened())),
        (Side::Worker, Frame::Refused(id, Refused::WrongOwner)),
        (Side::Worker, Frame::Moved(id)),
        (Side::Worker, Frame::Taken(taken)),
    ] {
        let mut pair = Pair::connected();
        pair.attach();
        check_refused(&mut pair, to, frame, "send");
    }
}

#[test]
fn a_stream_may_be_recalled_again_but_not_before_it_is_open() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    for _ in 0..2 {
        pair.inject(Side::Worker, Frame::Recall(id)).unwrap();
    }
    let opening = StreamId(9);
    pair.inject(Side::Worker, Frame::Open(opening, Box::new(open("alice")))).unwrap();
    check_refused(&mut pair, Side::Worker, Frame::Recall(opening), "which is not attached yet");
}

#[test]
fn more_data_than_was_granted_ends_the_link() {
    for to in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        let cost_of_one = 1000 + MESSAGE_COST;
        for _ in 0..WINDOW / cost_of_one {
            pair.inject(to, Frame::Data(id, first(1000, true, 1000))).unwrap();
        }
        let error = pair.inject(to, Frame::Data(id, first(1000, true, 1000))).unwrap_err();
        assert_eq!(error, LinkError::CreditExceeded(id));
        assert_eq!(goaway_for(&error), Some(GoAway::Protocol));
    }
}

#[test]
fn empty_messages_are_not_free() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    let mut taken = 0;
    while pair.inject(Side::Worker, Frame::Data(id, first(0, true, 0))).is_ok() {
        taken += 1;
        assert!(taken <= WINDOW, "they are");
    }
    assert_eq!(taken, WINDOW / MESSAGE_COST);
}

#[test]
fn a_long_message_that_does_not_wait_for_its_grant_ends_the_link() {
    let mut pair = Pair::connected();
    let streams = pair.attach_all(5);
    for id in &streams {
        pair.inject(Side::Worker, Frame::Data(*id, first(MAX_MESSAGE, false, 1))).unwrap();
    }
    // The budget is used up by the first four; the fifth has its window and no more.
    let in_window = (WINDOW - MESSAGE_COST - 1) as usize;
    pair.inject(Side::Worker, Frame::Data(streams[4], more(false, in_window))).unwrap();
    let error = pair.inject(Side::Worker, Frame::Data(streams[4], more(false, 1))).unwrap_err();
    assert_eq!(error, LinkError::CreditExceeded(streams[4]));
}

#[test]
fn more_credit_than_can_be_counted_ends_the_link() {
    for to in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        let error = pair.inject(to, Frame::Credit(id, u32::MAX)).unwrap_err();
        assert_eq!(error, LinkError::CreditOverflow(id));
        assert_eq!(goaway_for(&error), Some(GoAway::Protocol));
    }
}

#[test]
fn a_stated_length_beyond_what_hello_allowed_ends_the_link_at_the_first_part() {
    for to in BOTH {
        let mut short = hello();
        short.max_message = 100;
        let mut pair = Pair::with(short.clone(), short);
        pair.connect();
        let id = pair.attach();
        pair.inject(to, Frame::Data(id, first(100, true, 100))).unwrap();
        let error = pair.inject(to, Frame::Data(id, first(101, false, 1))).unwrap_err();
        assert_eq!(error, LinkError::TooLong { length: 101, limit: 100 });
        assert_eq!(goaway_for(&error), Some(GoAway::Protocol));
    }
}

#[test]
fn parts_that_do_not_make_up_the_stated_message_end_the_link() {
    for (parts, why) in [
        (vec![more(true, 1)], "which continues no message"),
        (vec![first(9, false, 1), first(9, false, 1)], "before the message in parts was whole"),
        (vec![first(2, false, 1), more(true, 2)], "longer than its first part said"),
        (vec![first(3, false, 1), more(true, 1)], "shorter than its first part said"),
        (vec![first(2, false, 1), more(false, 1)], "not marked as its last part"),
        (vec![first(2, false, 1), more(false, 0)], "an empty part"),
    ] {
        for to in BOTH {
            let mut pair = Pair::connected();
            let id = pair.attach();
            let (last, before) = parts.split_last().unwrap();
            for part in before {
                pair.inject(to, Frame::Data(id, part.clone())).unwrap();
            }
            check_refused(&mut pair, to, Frame::Data(id, last.clone()), why);
        }
    }
}

#[test]
fn frames_on_a_stream_that_is_gone_are_ignored_whatever_they_hold() {
    for to in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        pair.end(to).link.close(id, CloseCode::Ended);
        for frame in stream_frames(pair::other(to), id)
            .into_iter()
            .chain([Frame::Data(id, more(true, 9)), Frame::Credit(id, u32::MAX)])
        {
            pair.inject(to, frame).unwrap();
        }
        assert_eq!(pair.end(to).events(), []);
    }
}

#[test]
fn a_payload_beyond_the_limit_is_refused_by_its_head_alone() {
    let mut decoder = Decoder::new();
    let length = (MAX_PAYLOAD as u32 + 1).to_be_bytes();
    decoder.buffer().extend_from_slice(&[length[1], length[2], length[3], 5, 0, 0, 0, 1]);
    assert_eq!(decoder.decode(), Err(Malformed::Oversized(MAX_PAYLOAD + 1)));
    assert!(decoder.buffer().capacity() < MAX_PAYLOAD, "nothing was reserved for it");
}

#[test]
fn a_head_that_promises_a_payload_reserves_nothing_for_it() {
    let mut decoder = Decoder::new();
    let length = (MAX_PAYLOAD as u32).to_be_bytes();
    decoder.buffer().extend_from_slice(&[length[1], length[2], length[3], 5, 0, 0, 0, 1]);
    assert_eq!(decoder.decode(), Ok(None));
    assert!(decoder.buffer().capacity() < MAX_PAYLOAD);
}

#[test]
fn unknown_kinds_are_refused_by_their_head_alone() {
    for kind in [0, 19, 255] {
        let mut decoder = Decoder::new();
        decoder.buffer().extend_from_slice(&[0, 0, 9, kind, 0, 0, 0, 0]);
        assert_eq!(decoder.buffer().len(), HEAD_LEN);
        assert_eq!(decoder.decode(), Err(Malformed::Kind(kind)));
    }
}

#[test]
fn a_topology_that_states_more_workers_than_it_has_is_cut_short() {
    let mut payload = 1_u64.to_be_bytes().to_vec();
    payload.push(1);
    payload.extend_from_slice(&u16::MAX.to_be_bytes());
    let mut decoder = Decoder::new();
    decoder.buffer().extend_from_slice(&[0, 0, payload.len() as u8, 12, 0, 0, 0, 0]);
    decoder.buffer().extend_from_slice(&payload);
    assert_eq!(decoder.decode(), Err(Malformed::Short("TOPOLOGY")));
}
