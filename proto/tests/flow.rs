//! How messages flow over a link: whole, in order, bounded by what their receiver has consumed, and
//! without one stream in the way of another.

mod pair;

use bytes::Bytes;
use single_state_proto::credit::message_cost;
use single_state_proto::frame::{CloseCode, Data, Frame, GoAway, Start};
use single_state_proto::id::StreamId;
use single_state_proto::limits::{
    LINK_HIGH_WATER, MAX_MESSAGE, MAX_PAYLOAD, MESSAGE_COST, PING_INTERVAL, WINDOW,
};
use single_state_proto::link::{Event, Message, Queued, Side};

use crate::pair::{End, Pair, open, opened, other};

const BOTH: [Side; 2] = [Side::Gateway, Side::Worker];

/// A body in which every byte depends on its place.
fn body(length: usize) -> Bytes {
    (0..length).map(|i| (i % 251) as u8).collect()
}

/// Sends messages of one length until one is turned away; returns how many were taken.
fn send_until_full(pair: &mut Pair, from: Side, id: StreamId, length: usize) -> u64 {
    let body = body(length);
    let mut taken = 0;
    while pair.end(from).send(id, taken + 1, body.clone()) {
        taken += 1;
        pair.run();
        assert!(taken < 10_000, "nothing stops the sender");
    }
    taken
}

fn credits(end: &End, id: StreamId) -> Vec<u32> {
    let credits = end.frames.iter().filter_map(|frame| match frame {
        Frame::Credit(stream, bytes) if *stream == id => Some(*bytes),
        _ => None,
    });
    credits.collect()
}

// --- messages -----------------------------------------------------------------------------------

#[test]
fn messages_arrive_whole_and_in_order_in_both_directions() {
    for from in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        let sent = [
            Message { number: 1, binary: false, body: Bytes::from_static(b"{\"tag\":\"axpy\"}") },
            Message { number: 2, binary: true, body: Bytes::from_static(b"\0\xff") },
            Message { number: u64::MAX, binary: false, body: Bytes::new() },
        ];
        for message in &sent {
            let Message { number, binary, body } = message;
            assert!(pair.end(from).link.send(id, *number, *binary, body));
        }
        pair.run();
        assert_eq!(pair.end(other(from)).messages(), sent.map(|message| (id, message)));
    }
}

#[test]
fn an_acknowledgement_arrives() {
    for from in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        pair.end(from).link.ack(id, 17);
        pair.run();
        assert_eq!(pair.end(other(from)).events(), [Event::Acked(id, 17)]);
    }
}

#[test]
fn a_message_of_sixteen_mebibytes_is_cut_and_arrives_whole() {
    for from in BOTH {
        let mut pair = Pair::connected();
        pair.end(from).pipe.cut = vec![8192, 1, 65_536, 7];
        let id = pair.attach();
        let body = body(MAX_MESSAGE as usize);
        assert!(pair.end(from).send(id, 1, body.clone()));
        pair.run();
        let [(_, message)] = &pair.end(other(from)).messages()[..] else { panic!("not one") };
        assert!(message.body == body, "the body has changed on its way");
        let parts = pair.end(other(from)).frames.iter().filter_map(|frame| match frame {
            Frame::Data(_, data) => Some(data.part.len()),
            _ => None,
        });
        assert!(parts.into_iter().all(|length| length < MAX_PAYLOAD));
    }
}

#[test]
fn short_messages_do_not_wait_for_a_long_one_of_another_stream() {
    for from in BOTH {
        let mut pair = Pair::connected();
        let (long, short) = (pair.attach(), pair.attach());
        assert!(pair.end(from).send(long, 1, body(MAX_MESSAGE as usize)));
        // The first part goes out and brings the grant for all the others back.
        pair.transmit(from);
        pair.deliver(other(from));
        pair.transmit(other(from));
        pair.deliver(from);
        for number in 1..=20 {
            assert!(pair.end(from).send(short, number, "short"));
            pair.transmit(from);
            pair.deliver(other(from));
            let arrived = pair.end(other(from)).messages();
            assert!(
                matches!(&arrived[..], [(id, message)] if *id == short && message.number == number),
                "message {number} did not leave with the next write"
            );
        }
        pair.run();
        assert_eq!(pair.end(other(from)).messages().len(), 1, "the long one");
    }
}

#[test]
fn one_write_takes_little_more_than_the_high_water_mark() {
    let mut pair = Pair::connected();
    for id in pair.attach_all(40) {
        assert!(pair.worker.send(id, 1, body(60_000)));
    }
    let mut bytes = bytes::BytesMut::new();
    pair.worker.link.poll_transmit(&mut bytes);
    assert!(bytes.len() <= LINK_HIGH_WATER + MAX_PAYLOAD, "{} bytes", bytes.len());
    assert!(pair.worker.link.wants_transmit(), "the rest stays with its streams");
}

#[test]
fn link_frames_overtake_queued_data() {
    let mut pair = Pair::connected();
    for id in pair.attach_all(10) {
        assert!(pair.gateway.send(id, 1, body(60_000)));
    }
    let before = pair.worker.frames.len();
    pair.gateway.link.go_away(GoAway::Draining);
    pair.gateway.link.handle_timeout(pair.now + PING_INTERVAL).unwrap();
    pair.run();
    let arrived = &pair.worker.frames[before..];
    assert_eq!(arrived[..2], [Frame::GoAway(GoAway::Draining), Frame::Ping(1)]);
    let data = arrived[2..].iter().filter(|frame| matches!(frame, Frame::Data(..)));
    assert_eq!(data.count(), 10);
}

// --- credit -------------------------------------------------------------------------------------

#[test]
fn a_receiver_that_does_not_consume_stops_its_sender_at_the_window_and_nobody_else() {
    for from in BOTH {
        for length in [0, 1000, 30_000] {
            let mut pair = Pair::connected();
            let (stopped, other_one) = (pair.attach(), pair.attach());
            let taken = send_until_full(&mut pair, from, stopped, length);
            let received = pair.end(other(from)).received[&stopped];
            let bound = u64::from(WINDOW) + length as u64;
            assert!(received <= bound, "{received} bytes wait: the window and the last message");
            let fit = u64::from(WINDOW) / message_cost(length);
            assert!((fit..=fit + 1).contains(&taken), "{taken} messages of {length} bytes");

            assert!(pair.end(from).send(other_one, 1, "not concerned"));
            pair.run();
            let arrived = pair.end(other(from)).messages();
            assert_eq!(arrived.last().unwrap().0, other_one);
        }
    }
}

#[test]
fn a_wait_for_credit_is_counted_once_however_often_it_is_tried() {
    for from in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        send_until_full(&mut pair, from, id, 1000);
        assert!(!pair.end(from).send(id, 1000, body(1)));
        // The last one had to wait in the middle, and this one waits.
        assert_eq!(pair.end(from).link.take_stalls(), 2);
        let queued = pair.end(other(from)).link.queued();
        assert!(queued.unconsumed >= u64::from(WINDOW) - 1000, "{queued:?}");
        assert_eq!((queued.unsent, pair.end(from).link.take_stalls()), (0, 0));

        let arrived = pair.end(other(from)).messages();
        for (_, message) in &arrived {
            pair.end(other(from)).link.consumed(id, message.body.len());
        }
        pair.run();
        assert_eq!(pair.end(other(from)).link.queued(), Queued::default());
        // A message that is longer than the window waits once until it is granted as a whole.
        assert!(pair.end(from).send(id, 1001, body(2 * WINDOW as usize)));
        pair.run();
        assert_eq!(pair.end(from).link.take_stalls(), 1);
    }
}

#[test]
fn credit_comes_back_when_messages_are_consumed_and_not_before() {
    for from in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        let taken = send_until_full(&mut pair, from, id, 1000);
        let for_the_last_one: u32 = credits(pair.end(from), id).iter().sum();
        assert!(for_the_last_one < 1000, "only what had begun is completed");

        let arrived = pair.end(other(from)).messages();
        for (_, message) in &arrived {
            pair.end(other(from)).link.consumed(id, message.body.len());
        }
        pair.run();
        let returned: u32 = credits(pair.end(from), id).iter().sum();
        let consumed = taken * message_cost(1000);
        assert!(returned >= WINDOW / 2 && u64::from(returned) <= consumed);
        assert!(pair.end(from).send(id, taken + 1, "again"));
    }
}

#[test]
fn a_long_message_is_granted_once_and_then_nothing_more_until_it_is_consumed() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    assert!(pair.gateway.send(id, 1, body(1_000_000)));
    pair.run();
    assert_eq!(pair.worker.messages().len(), 1);
    assert_eq!(credits(&pair.gateway, id), [1_000_000 + MESSAGE_COST - WINDOW]);
    assert!(!pair.gateway.send(id, 2, "x"), "the overshoot is used up");

    pair.worker.link.consumed(id, 1_000_000);
    pair.run();
    assert_eq!(credits(&pair.gateway, id)[1..], [WINDOW]);
    assert_eq!(pair.gateway.events(), [Event::Writable(id)]);
}

#[test]
fn a_message_that_was_turned_away_is_asked_for_exactly_once() {
    for from in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        let taken = send_until_full(&mut pair, from, id, 1000);
        for _ in 0..3 {
            assert!(!pair.end(from).send(id, taken + 1, "again"), "each caller is turned away");
        }
        assert_eq!(pair.end(from).events(), []);

        for (_, message) in pair.end(other(from)).messages() {
            pair.end(other(from)).link.consumed(id, message.body.len());
        }
        pair.run();
        assert_eq!(pair.end(from).events(), [Event::Writable(id)]);
        for number in 1..=3 {
            assert!(pair.end(from).send(id, taken + number, "again"));
            pair.run();
        }
        assert_eq!(pair.end(from).events(), []);
    }
}

#[test]
fn a_message_behind_one_that_is_still_queued_is_asked_for_once_that_has_left() {
    let mut pair = Pair::connected();
    let busy = pair.attach_all(8);
    let id = pair.attach();
    for id in busy {
        assert!(pair.worker.send(id, 1, body(60_000)));
    }
    assert!(pair.worker.send(id, 1, "first"));
    assert!(!pair.worker.send(id, 2, "second"));
    pair.run();
    assert_eq!(pair.worker.events(), [Event::Writable(id)]);
}

#[test]
fn a_message_that_was_turned_away_before_the_stream_was_attached_is_asked_for_afterwards() {
    let mut pair = Pair::connected();
    let id = pair.gateway.link.open(open("alice")).unwrap();
    assert!(!pair.gateway.send(id, 1, "early"));
    pair.run();
    assert!(!pair.worker.send(id, 1, "early"));
    pair.worker.events();
    pair.worker.link.accept(id, opened());
    pair.run();
    assert_eq!(pair.worker.events(), [Event::Writable(id)]);
    assert_eq!(pair.gateway.events(), [Event::Opened(id, opened()), Event::Writable(id)]);
}

#[test]
fn nobody_is_told_that_there_is_room_who_did_not_ask() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    for number in 1..=200 {
        assert!(pair.gateway.send(id, number, body(1000)));
        pair.run();
        assert_eq!(pair.worker.messages().len(), 1);
        pair.worker.link.consumed(id, 1000);
    }
    assert_eq!(pair.gateway.events(), []);
}

// --- reassembly budget --------------------------------------------------------------------------

/// Four messages of this length fill the budget of a link but for less than the length of a fifth.
const LARGEST: usize = MAX_MESSAGE as usize;

/// One byte of a message of `length` bytes.
fn begin(id: StreamId, length: usize) -> Frame {
    let start = Some(Start { number: 1, length: length as u32, binary: false });
    Frame::Data(id, Data { start, fin: false, part: body(1) })
}

/// All that follows it.
fn rest_of(id: StreamId, length: usize) -> Frame {
    Frame::Data(id, Data { start: None, fin: true, part: body(length - 1) })
}

fn whole(id: StreamId, length: usize) -> Frame {
    let start = Some(Start { number: 1, length: length as u32, binary: false });
    Frame::Data(id, Data { start, fin: true, part: body(length) })
}

#[test]
fn messages_beyond_the_reassembly_budget_wait_and_then_come() {
    let mut pair = Pair::connected();
    let body = body(LARGEST);
    let streams = pair.attach_all(5);
    for id in &streams {
        assert!(pair.gateway.send(*id, 1, body.clone()));
    }
    // The first parts go out; what comes back is the grants.
    while pair.transmit(Side::Gateway) {}
    pair.deliver(Side::Worker);
    pair.transmit(Side::Worker);
    pair.deliver(Side::Gateway);
    let granted: Vec<_> = streams.iter().map(|id| credits(&pair.gateway, *id).len()).collect();
    assert_eq!(granted, [1, 1, 1, 1, 0]);

    pair.run();
    let arrived = pair.worker.messages();
    assert_eq!(arrived.len(), 5);
    assert_eq!(arrived[4].0, streams[4]);
    assert!(arrived.iter().all(|(_, message)| message.body == body));
}

#[test]
fn a_stream_that_ends_gives_its_share_of_the_budget_back() {
    let mut pair = Pair::connected();
    let streams = pair.attach_all(5);
    for id in &streams {
        pair.inject(Side::Worker, begin(*id, LARGEST)).unwrap();
    }
    pair.run();
    assert_eq!(credits(&pair.gateway, streams[4]), [0_u32; 0]);
    pair.gateway.link.close(streams[1], CloseCode::Ended);
    pair.run();
    assert_eq!(credits(&pair.gateway, streams[4]).len(), 1);
}

#[test]
fn the_budget_is_whole_again_after_a_stream_stood_twice_in_the_queue_for_it() {
    let mut pair = Pair::connected();
    // Five messages leave 1,000 bytes of the budget; another one waits for more than that.
    let paid = (WINDOW - MESSAGE_COST) as usize;
    let mut others = pair.attach_all(6);
    for id in &others[..4] {
        pair.inject(Side::Worker, begin(*id, LARGEST)).unwrap();
    }
    pair.inject(Side::Worker, begin(others[4], 5 * paid - 1000)).unwrap();
    pair.inject(Side::Worker, begin(others[5], LARGEST)).unwrap();

    // Behind it a message that needs a little more than its window. It comes in all the same, by the
    // credit of an older one that is consumed meanwhile; then the next one begins and waits, too.
    let id = pair.attach();
    pair.inject(Side::Worker, whole(id, 60_000)).unwrap();
    pair.inject(Side::Worker, begin(id, 20_000)).unwrap();
    pair.run();
    assert_eq!(credits(&pair.gateway, id), [0_u32; 0], "it waits for the budget");
    pair.worker.link.consumed(id, 60_000);
    pair.inject(Side::Worker, rest_of(id, 20_000)).unwrap();
    pair.worker.link.consumed(id, 20_000);
    pair.inject(Side::Worker, begin(id, LARGEST)).unwrap();

    others.push(id);
    for id in others {
        pair.gateway.link.close(id, CloseCode::Ended);
    }
    pair.run();
    assert_eq!(pair.worker.link.streams(), 0);
    pair.worker.events();
    let streams = pair.attach_all(4);
    for id in &streams {
        pair.inject(Side::Worker, begin(*id, LARGEST)).unwrap();
    }
    pair.run();
    for id in streams {
        assert_eq!(credits(&pair.gateway, id).len(), 1, "the whole budget is there");
    }
}
