//! What a link promises: who may talk to whom, how streams begin and end, and when a peer is dead.
//! `flow.rs` has the messages, `hostile.rs` the peers that break the rules.

mod pair;

use std::time::Duration;

use bytes::Bytes;
use single_state_proto::error::LinkError;
use single_state_proto::frame::{CloseCode, Frame, GoAway, Refused, ResetCode};
use single_state_proto::id::{Generation, StreamId, WorkerIndex};
use single_state_proto::limits::{DEAD_AFTER, HELLO_TIMEOUT, PING_INTERVAL};
use single_state_proto::link::{Event, Side, goaway_for};
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

use crate::pair::{Pair, hello, open, opened, other};

const BOTH: [Side; 2] = [Side::Gateway, Side::Worker];

const MILLISECOND: Duration = Duration::from_millis(1);

// --- HELLO --------------------------------------------------------------------------------------

#[test]
fn both_sides_are_active_once_hello_is_exchanged() {
    let mut pair = Pair::new();
    assert!(!pair.gateway.link.is_active());
    pair.run();
    assert_eq!(pair.gateway.events(), [Event::Connected(hello())]);
    assert_eq!(pair.worker.events(), [Event::Connected(hello())]);
    assert!(pair.gateway.link.is_active() && pair.worker.link.is_active());
}

#[test]
fn no_stream_can_be_opened_before_hello() {
    let mut pair = Pair::new();
    assert_eq!(pair.gateway.link.open(open("alice")), None);
}

#[test]
fn a_peer_of_another_cluster_is_refused_and_told_so() {
    let mut theirs = hello();
    theirs.cluster = "other".to_owned();
    for side in BOTH {
        let mut pair = Pair::new();
        let error = pair.inject(side, Frame::Hello(theirs.clone())).unwrap_err();
        let (ours, theirs) = ("test".to_owned(), "other".to_owned());
        assert_eq!(error, LinkError::WrongCluster { ours, theirs });
        assert_eq!(goaway_for(&error), Some(GoAway::WrongCluster));
        assert!(!pair.end(side).link.is_active());
    }
}

#[test]
fn a_worker_of_another_index_is_refused_and_told_so() {
    let mut theirs = hello();
    theirs.index = WorkerIndex(5);
    for (side, gateway, worker) in [(Side::Gateway, 2, 5), (Side::Worker, 5, 2)] {
        let error = Pair::new().inject(side, Frame::Hello(theirs.clone())).unwrap_err();
        let (gateway, worker) = (WorkerIndex(gateway), WorkerIndex(worker));
        assert_eq!(error, LinkError::WrongIndex { gateway, worker });
        assert_eq!(goaway_for(&error), Some(GoAway::WrongIndex));
    }
}

#[test]
fn a_peer_without_a_common_version_is_refused_and_told_so() {
    for (min, max) in [(2, 3), (0, 0)] {
        let mut theirs = hello();
        (theirs.protocol_min, theirs.protocol_max) = (min, max);
        let error = Pair::new().inject(Side::Worker, Frame::Hello(theirs)).unwrap_err();
        assert!(matches!(error, LinkError::Version { .. }), "{error}");
        assert_eq!(goaway_for(&error), Some(GoAway::Version));
    }
}

#[test]
fn a_peer_that_speaks_newer_versions_too_is_welcome() {
    let mut newer = hello();
    newer.protocol_max = 9;
    Pair::with(hello(), newer).connect();
}

#[test]
fn nothing_but_a_farewell_may_come_before_hello() {
    for frame in [Frame::Ping(1), Frame::Credit(StreamId(1), 1), Frame::Recall(StreamId(1))] {
        let error = Pair::new().inject(Side::Worker, frame).unwrap_err();
        assert!(matches!(error, LinkError::Unexpected { why: "before HELLO", .. }), "{error}");
    }
    let mut pair = Pair::new();
    pair.inject(Side::Gateway, Frame::GoAway(GoAway::WrongIndex)).unwrap();
    assert_eq!(pair.gateway.events(), [Event::GoAway(GoAway::WrongIndex)]);
}

#[test]
fn a_second_hello_ends_the_link() {
    for side in BOTH {
        let error = Pair::connected().inject(side, Frame::Hello(hello())).unwrap_err();
        assert!(matches!(error, LinkError::Unexpected { kind: "HELLO", .. }), "{error}");
    }
}

#[test]
fn a_peer_that_does_not_say_hello_in_time_is_given_up() {
    let mut pair = Pair::new();
    pair.gateway.pipe.held = true;
    pair.advance(HELLO_TIMEOUT - MILLISECOND);
    assert_eq!(pair.worker.error, None);
    pair.advance(MILLISECOND);
    assert_eq!(pair.worker.error, Some(LinkError::NoHello));
}

// --- streams ------------------------------------------------------------------------------------

#[test]
fn a_stream_is_opened_with_all_that_the_gateway_says_and_accepted_with_all_that_the_worker_says() {
    let mut pair = Pair::connected();
    let id = pair.gateway.link.open(open("alice")).unwrap();
    pair.run();
    assert_eq!(pair.worker.events(), [Event::Open(id, Box::new(open("alice")))]);
    pair.worker.link.accept(id, opened());
    pair.run();
    assert_eq!(pair.gateway.events(), [Event::Opened(id, opened())]);
}

#[test]
fn a_refused_stream_is_gone_on_both_sides() {
    let topology = Topology::new(Generation(4), Placement::Jump, vec!["a:1".to_owned()]).unwrap();
    for refused in [
        Refused::Stale(topology),
        Refused::WrongOwner,
        Refused::Retry { after_ms: 250, owner: Some(WorkerIndex(1)) },
        Refused::TooManyChannels,
    ] {
        let mut pair = Pair::connected();
        let id = pair.gateway.link.open(open("alice")).unwrap();
        pair.run();
        pair.worker.link.refuse(id, refused.clone());
        pair.run();
        assert_eq!(pair.gateway.events(), [Event::Refused(id, refused)]);
        assert_eq!((pair.gateway.link.streams(), pair.worker.link.streams()), (0, 0));
    }
}

#[test]
fn a_stream_number_is_never_used_again() {
    let mut pair = Pair::connected();
    let first = pair.attach();
    pair.gateway.link.close(first, CloseCode::Ended);
    pair.run();
    assert_eq!(pair.worker.events(), [Event::Closed(first, CloseCode::Ended)]);
    let second = pair.attach();
    assert!(second > first);
}

#[test]
fn either_side_closes_a_stream_while_data_is_on_its_way() {
    for side in BOTH {
        let mut pair = Pair::connected();
        let (closed, stays) = (pair.attach(), pair.attach());
        assert!(pair.end(other(side)).send(closed, 1, "too late"));
        pair.end(other(side)).link.ack(closed, 1);
        pair.transmit(other(side));
        pair.end(side).link.close(closed, CloseCode::Ended);
        pair.run();
        assert_eq!(pair.end(side).events(), [], "frames of a stream that is gone are ignored");
        assert_eq!(pair.end(other(side)).events(), [Event::Closed(closed, CloseCode::Ended)]);

        assert!(pair.end(side).send(stays, 1, "on time"));
        pair.run();
        assert_eq!(pair.end(other(side)).messages().len(), 1);
        assert_eq!((&pair.gateway.error, &pair.worker.error), (&None, &None));
    }
}

#[test]
fn both_sides_may_close_a_stream_at_once() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    pair.gateway.link.close(id, CloseCode::Detached);
    pair.worker.link.close(id, CloseCode::SessionEnded);
    pair.run();
    assert_eq!((pair.gateway.events(), pair.worker.events()), (vec![], vec![]));
    assert_eq!((&pair.gateway.error, &pair.worker.error), (&None, &None));
}

#[test]
fn a_gateway_may_close_a_stream_that_is_not_attached_yet() {
    let mut pair = Pair::connected();
    let id = pair.gateway.link.open(open("alice")).unwrap();
    pair.transmit(Side::Gateway);
    pair.gateway.link.close(id, CloseCode::Detached);
    pair.deliver(Side::Worker);
    pair.worker.link.accept(id, opened());
    pair.run();
    assert_eq!(pair.worker.events()[1], Event::Closed(id, CloseCode::Detached));
    assert_eq!(pair.gateway.events(), []);
    assert_eq!((pair.gateway.link.streams(), pair.worker.link.streams()), (0, 0));
}

#[test]
fn what_was_sent_before_a_close_arrives_before_it_also_when_the_link_is_busy() {
    for side in BOTH {
        let mut pair = Pair::connected();
        let busy = pair.attach_all(8);
        let id = pair.attach();
        for id in busy {
            assert!(pair.end(side).send(id, 1, Bytes::from(vec![b'x'; 60_000])));
        }
        assert!(pair.end(side).send(id, 1, "last words"));
        pair.end(side).link.close(id, CloseCode::Ended);
        pair.run();
        let mut events = pair.end(other(side)).events();
        events.retain(
            |event| matches!(event, Event::Message(i, _) | Event::Closed(i, _) if *i == id),
        );
        let [Event::Message(_, message), Event::Closed(..)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(message.body, "last words");
    }
}

#[test]
fn a_reset_ends_a_stream_and_leaves_the_others() {
    let mut pair = Pair::connected();
    let (lost, stays) = (pair.attach(), pair.attach());
    pair.worker.link.reset(lost, ResetCode::Fenced);
    pair.run();
    assert_eq!(pair.gateway.events(), [Event::Reset(lost, ResetCode::Fenced)]);
    assert!(!pair.gateway.send(lost, 1, "nobody is there"));
    assert!(pair.gateway.send(stays, 1, "hello"));
}

#[test]
fn a_recalled_stream_goes_on_until_it_is_moved() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    pair.gateway.link.recall(id);
    pair.run();
    assert_eq!(pair.worker.events(), [Event::Recall(id)]);
    assert!(pair.worker.send(id, 1, "last output"));
    pair.worker.link.ack(id, 5);
    pair.worker.link.moved(id);
    pair.run();
    let events = pair.gateway.events();
    assert!(
        matches!(&events[..], [Event::Message(..), Event::Acked(_, 5), Event::Moved(i)] if *i == id),
        "{events:?}"
    );
    assert_eq!((pair.gateway.link.streams(), pair.worker.link.streams()), (0, 0));
}

#[test]
fn a_session_that_is_moved_unasked_takes_its_stream_along() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    pair.worker.link.moved(id);
    pair.run();
    assert_eq!(pair.gateway.events(), [Event::Moved(id)]);
}

#[test]
fn a_recall_may_overtake_a_long_message_without_harm() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    assert!(pair.gateway.send(id, 1, Bytes::from(vec![b'x'; 500_000])));
    pair.gateway.link.recall(id);
    pair.run();
    assert_eq!(pair.worker.error, None, "the link must outlive a recall");
    assert!(pair.worker.events().contains(&Event::Recall(id)));
    pair.worker.link.moved(id);
    pair.run();
    assert_eq!(pair.gateway.events().last(), Some(&Event::Moved(id)));
    assert_eq!(pair.gateway.error, None);
}

#[test]
fn a_recall_and_a_reset_may_cross() {
    let mut pair = Pair::connected();
    let id = pair.attach();
    pair.gateway.link.recall(id);
    pair.worker.link.reset(id, ResetCode::RolledBack);
    pair.run();
    assert_eq!(pair.worker.events(), []);
    assert_eq!(pair.gateway.events(), [Event::Reset(id, ResetCode::RolledBack)]);
}

#[test]
fn a_worker_learns_the_topology() {
    let workers = vec!["a:1".to_owned(), "b:1".to_owned()];
    let topology = Topology::new(Generation(4), Placement::Modulo, workers).unwrap();
    let mut pair = Pair::connected();
    pair.gateway.link.topology(topology.clone());
    pair.run();
    assert_eq!(pair.worker.events(), [Event::Topology(topology)]);
}

// --- going away ---------------------------------------------------------------------------------

#[test]
fn a_link_that_goes_away_opens_no_new_streams_and_serves_the_old_ones() {
    for side in BOTH {
        let mut pair = Pair::connected();
        let id = pair.attach();
        pair.end(side).link.go_away(GoAway::Draining);
        pair.run();
        assert_eq!(pair.end(other(side)).events(), [Event::GoAway(GoAway::Draining)]);
        assert!(!pair.gateway.link.is_active() && !pair.worker.link.is_active());
        assert_eq!(pair.gateway.link.open(open("bob")), None);

        assert!(pair.gateway.send(id, 1, "in") && pair.worker.send(id, 1, "out"));
        pair.run();
        assert_eq!(pair.gateway.messages().len() + pair.worker.messages().len(), 2);
    }
}

#[test]
fn a_stream_that_was_asked_for_before_the_farewell_arrived_can_still_be_refused() {
    let mut pair = Pair::connected();
    let id = pair.gateway.link.open(open("alice")).unwrap();
    pair.worker.link.go_away(GoAway::Draining);
    pair.run();
    let refused = Refused::Retry { after_ms: 0, owner: None };
    pair.worker.link.refuse(id, refused.clone());
    pair.run();
    assert!(pair.gateway.events().contains(&Event::Refused(id, refused)));
}

#[test]
fn going_away_before_hello_leaves_the_hello_checks_in_place() {
    for side in BOTH {
        let mut pair = Pair::new();
        pair.end(side).link.go_away(GoAway::Draining);
        let ping = pair.inject(side, Frame::Ping(1)).unwrap_err();
        assert!(matches!(ping, LinkError::Unexpected { why: "before HELLO", .. }), "{ping}");
        pair.run();
        assert_eq!((&pair.gateway.error, &pair.worker.error), (&None, &None));
        assert!(!pair.gateway.link.is_active() && !pair.worker.link.is_active());
        assert_eq!(
            pair.end(other(side)).events(),
            [Event::Connected(hello()), Event::GoAway(GoAway::Draining)]
        );
    }
}

// --- time ---------------------------------------------------------------------------------------

#[test]
fn an_idle_link_stays_alive_with_one_ping_a_second_from_each_side() {
    let mut pair = Pair::connected();
    pair.advance(Duration::from_secs(60));
    assert_eq!((&pair.gateway.error, &pair.worker.error), (&None, &None));
    for side in BOTH {
        let frames = &pair.end(side).frames;
        let pings = frames.iter().filter(|frame| matches!(frame, Frame::Ping(_))).count();
        let pongs = frames.iter().filter(|frame| matches!(frame, Frame::Pong(_))).count();
        assert_eq!((pings, pongs), (60, 60));
    }
}

#[test]
fn a_peer_that_is_silent_for_three_seconds_is_dead() {
    let mut pair = Pair::connected();
    pair.worker.pipe.held = true;
    pair.advance(DEAD_AFTER - MILLISECOND);
    assert_eq!(pair.gateway.error, None);
    pair.advance(MILLISECOND);
    let error = pair.gateway.error.unwrap();
    assert_eq!(error, LinkError::Silent(DEAD_AFTER));
    assert_eq!(goaway_for(&error), None, "the dead are not told anything");
    assert_eq!(pair.worker.error, None, "it still hears the gateway");
}

#[test]
fn any_byte_shows_that_the_peer_is_alive() {
    let mut pair = Pair::connected();
    pair.worker.pipe.held = true;
    for _ in 0..100 {
        pair.advance(Duration::from_millis(300));
        pair.gateway.link.bytes_arrived(pair.now);
    }
    assert_eq!(pair.gateway.error, None);
    pair.advance(DEAD_AFTER);
    assert_eq!(pair.gateway.error, Some(LinkError::Silent(DEAD_AFTER)));
}

#[test]
fn the_round_trip_is_measured() {
    let mut pair = Pair::connected();
    assert_eq!(pair.gateway.link.round_trip(), None);
    pair.gateway.pipe.delay = Duration::from_millis(20);
    pair.worker.pipe.delay = Duration::from_millis(30);
    pair.advance(PING_INTERVAL + Duration::from_millis(50));
    assert_eq!(pair.gateway.link.round_trip(), Some(Duration::from_millis(50)));
    assert_eq!(pair.worker.link.round_trip(), Some(Duration::from_millis(50)));
}

#[test]
fn a_pong_that_answers_no_ping_measures_nothing() {
    let mut pair = Pair::connected();
    pair.inject(Side::Gateway, Frame::Pong(0)).unwrap();
    pair.worker.pipe.held = true;
    pair.advance(PING_INTERVAL);
    pair.inject(Side::Gateway, Frame::Pong(0)).unwrap();
    pair.inject(Side::Gateway, Frame::Pong(9)).unwrap();
    assert_eq!(pair.gateway.link.round_trip(), None);
}
