//! What link keys promise: a link is up on a side only when the other has proven a key of this side's
//! ring, and nothing that can be heard, sent back or sent again helps who has none.

mod pair;

use std::time::Duration;

use bytes::Bytes;
use single_state_proto::error::LinkError;
use single_state_proto::frame::{Data, Frame, GoAway, Start};
use single_state_proto::id::{Generation, StreamId, WorkerIndex};
use single_state_proto::key::{Nonce, Proof};
use single_state_proto::limits::{DEAD_AFTER, HELLO_TIMEOUT};
use single_state_proto::link::{Event, Link, Side, goaway_for};
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;

use crate::pair::{Pair, hello, keyed_hello, keys, nonce, open, other};

const BOTH: [Side; 2] = [Side::Gateway, Side::Worker];

const MILLISECOND: Duration = Duration::from_millis(1);

/// What came from a side so far of a kind.
fn proofs_from(pair: &mut Pair, side: Side) -> Vec<Proof> {
    let frames = pair.end(other(side)).frames.iter();
    let proofs = frames.filter_map(|frame| match frame {
        Frame::Proof(proof) => Some(*proof),
        _ => None,
    });
    proofs.collect()
}

/// An end with key `a` that has heard this HELLO of a peer that the test plays.
fn proving(side: Side, theirs: Nonce) -> Pair {
    let mut pair = Pair::keyed("a", "a");
    pair.inject(side, Frame::Hello(keyed_hello(theirs))).expect("a HELLO of this cluster");
    pair
}

/// The end gives the link up, tells the peer why, and was never up.
#[track_caller]
fn check_refused(pair: &mut Pair, side: Side, frame: Frame, expected: &LinkError) {
    let error = pair.inject(side, frame).expect_err("a refusal");
    assert_eq!(&error, expected);
    assert_eq!(goaway_for(&error), Some(GoAway::Unauthenticated));
    check_never_up(pair, side);
}

#[track_caller]
fn check_never_up(pair: &mut Pair, side: Side) {
    assert!(!pair.end(side).link.is_active());
    let events = pair.end(side).events();
    assert!(!events.iter().any(|event| matches!(event, Event::Connected(_))), "{events:?}");
}

// --- who gets a link ----------------------------------------------------------------------------

#[test]
fn ends_with_the_same_key_are_connected_once_both_have_proven_it() {
    let mut pair = Pair::keyed("a", "a");
    pair.run();
    for side in BOTH {
        assert_eq!(pair.end(side).events(), [Event::Connected(keyed_hello(nonce(other(side))))]);
        assert!(pair.end(side).link.is_active());
    }
    pair.attach();
    pair.advance(Duration::from_secs(60));
    assert_eq!((&pair.gateway.error, &pair.worker.error), (&None, &None));
}

#[test]
fn a_link_is_not_up_before_the_proof_was_verified() {
    for side in BOTH {
        let mut pair = Pair::keyed("a", "a");
        while pair.end(side).frames.is_empty() {
            pair.transmit(other(side));
            pair.deliver(side);
        }
        assert!(matches!(pair.end(side).frames[..], [Frame::Hello(_)]), "HELLO and no more yet");
        check_never_up(&mut pair, side);
        assert_eq!(pair.end(side).link.open(open("alice")), None);
        pair.run();
        assert!(pair.end(side).link.is_active());
    }
}

#[test]
fn ends_with_different_keys_refuse_each_other() {
    let mut pair = Pair::keyed("a", "b");
    pair.run();
    for side in BOTH {
        assert_eq!(pair.end(side).error, Some(LinkError::WrongKey));
        check_never_up(&mut pair, side);
    }
}

#[test]
fn an_end_without_a_key_and_one_with_a_key_refuse_each_other_at_hello() {
    for (gateway, worker, errors) in [
        ("a", "", [LinkError::NoKey, LinkError::KeyWanted]),
        ("", "a", [LinkError::KeyWanted, LinkError::NoKey]),
    ] {
        let mut pair = Pair::keyed(gateway, worker);
        pair.run();
        for (side, error) in BOTH.into_iter().zip(errors) {
            assert_eq!(goaway_for(&error), Some(GoAway::Unauthenticated));
            assert_eq!(pair.end(side).error, Some(error));
            assert_eq!(proofs_from(&mut pair, side), [], "nothing is proven to who has no key");
            check_never_up(&mut pair, side);
        }
    }
}

#[test]
fn another_cluster_another_index_or_no_common_version_is_told_before_keys_are_compared() {
    let (mut cluster, mut index, mut version) = (hello(), hello(), hello());
    cluster.cluster = "other".to_owned();
    index.index = WorkerIndex(5);
    (version.protocol_min, version.protocol_max) = (7, 8);
    for (theirs, code) in
        [(cluster, GoAway::WrongCluster), (index, GoAway::WrongIndex), (version, GoAway::Version)]
    {
        let error = Pair::keyed("a", "a").inject(Side::Worker, Frame::Hello(theirs)).unwrap_err();
        assert_eq!(goaway_for(&error), Some(code));
    }
}

#[test]
fn keys_are_rotated_without_a_link_that_is_refused() {
    // Added last here, then there; moved first there, then here; removed here, then there.
    for (gateway, worker) in
        [("a", "a"), ("ab", "a"), ("ab", "ab"), ("ab", "ba"), ("ba", "ba"), ("b", "ba"), ("b", "b")]
    {
        let mut pair = Pair::keyed(gateway, worker);
        pair.run();
        for side in BOTH {
            assert!(pair.end(side).link.is_active(), "{side:?} of {gateway} and {worker}");
        }
    }
}

#[test]
fn a_new_key_that_is_first_before_the_peer_knows_it_is_refused_there_and_told_so() {
    let mut pair = Pair::keyed("a", "ba");
    pair.run();
    assert_eq!(pair.gateway.error, Some(LinkError::WrongKey));
    check_never_up(&mut pair, Side::Gateway);
    // The worker has taken the gateway's key; it hears the rest from the gateway.
    assert_eq!(pair.worker.error, None);
    assert!(!pair.worker.link.is_active());
    assert!(pair.worker.events().contains(&Event::GoAway(GoAway::Unauthenticated)));
}

// --- who has no key -----------------------------------------------------------------------------

#[test]
fn a_proof_sent_back_to_who_made_it_proves_nothing() {
    for side in BOTH {
        // The peer repeats whatever it hears: the nonce, or one of its own, and then the proof.
        for theirs in [nonce(side), nonce(other(side))] {
            let mut pair = proving(side, theirs);
            pair.transmit(side);
            pair.deliver(other(side));
            let [proof] = proofs_from(&mut pair, side)[..] else { panic!("one proof") };
            check_refused(&mut pair, side, Frame::Proof(proof), &LinkError::WrongKey);
        }
    }
}

#[test]
fn a_proof_made_on_another_link_proves_nothing_here() {
    let mut heard = Pair::keyed("a", "a");
    heard.run();
    for side in BOTH {
        let [proof] = proofs_from(&mut heard, other(side))[..] else { panic!("one proof") };
        // The same peer's HELLO, nonce and all, but this end has drawn another nonce.
        let mut pair = Pair::keyed("a", "a");
        let link = Link::new(side, hello(), pair.now).with_keys(keys("a"), Nonce([77; Nonce::LEN]));
        pair.end(side).link = link;
        pair.inject(side, Frame::Hello(keyed_hello(nonce(other(side))))).unwrap();
        check_refused(&mut pair, side, Frame::Proof(proof), &LinkError::WrongKey);

        // With the nonce of then it is the proof that was asked for: the nonce alone has refused it.
        let mut pair = proving(side, nonce(other(side)));
        pair.inject(side, Frame::Proof(proof)).unwrap();
        assert!(pair.end(side).link.is_active());
    }
}

#[test]
fn an_end_that_asks_one_worker_cannot_answer_another_with_what_it_hears() {
    // A proof for worker 2 of this cluster; the end that hears it is worker 3, or of another cluster.
    let mut heard = Pair::keyed("a", "a");
    heard.run();
    let [proof] = proofs_from(&mut heard, Side::Worker)[..] else { panic!("one proof") };
    let (mut index, mut cluster) = (hello(), hello());
    index.index = WorkerIndex(3);
    cluster.cluster = "other".to_owned();
    for ours in [index, cluster] {
        let mut pair = Pair::keyed("a", "a");
        let link = Link::new(Side::Gateway, ours.clone(), pair.now);
        pair.gateway.link = link.with_keys(keys("a"), nonce(Side::Gateway));
        let mut theirs = ours;
        theirs.nonce = Some(nonce(Side::Worker));
        pair.inject(Side::Gateway, Frame::Hello(theirs)).unwrap();
        check_refused(&mut pair, Side::Gateway, Frame::Proof(proof), &LinkError::WrongKey);
    }
}

#[test]
fn there_is_no_second_try() {
    for side in BOTH {
        let mut right = Pair::keyed("a", "a");
        right.run();
        let [proof] = proofs_from(&mut right, other(side))[..] else { panic!("one proof") };
        let mut pair = proving(side, nonce(other(side)));
        pair.inject(side, Frame::Proof(Proof([0; Proof::LEN]))).unwrap_err();
        pair.inject(side, Frame::Proof(proof)).unwrap_err();
        check_never_up(&mut pair, side);
    }
}

#[test]
fn nothing_but_a_farewell_may_come_before_the_proof() {
    let id = StreamId(1);
    let start = Some(Start { number: 1, length: 0, binary: false });
    let topology = Topology::new(Generation(9), Placement::Modulo, Vec::new()).unwrap();
    for side in BOTH {
        for frame in [
            Frame::Ping(1),
            Frame::Pong(1),
            Frame::Credit(id, 1),
            Frame::Recall(id),
            Frame::Moved(id),
            Frame::Open(id, Box::new(open("alice"))),
            Frame::Data(id, Data { start, fin: true, part: Bytes::new() }),
            Frame::Topology(topology.clone()),
        ] {
            let mut pair = proving(side, nonce(other(side)));
            let error = pair.inject(side, frame).unwrap_err();
            assert!(matches!(error, LinkError::Unexpected { why: "before PROOF", .. }), "{error}");
            assert_eq!(goaway_for(&error), Some(GoAway::Protocol));
            assert_eq!(pair.end(side).events(), [], "nothing of it reaches the owner");
        }
        let mut pair = proving(side, nonce(other(side)));
        pair.inject(side, Frame::GoAway(GoAway::Unauthenticated)).unwrap();
        assert_eq!(pair.end(side).events(), [Event::GoAway(GoAway::Unauthenticated)]);
        assert!(!pair.end(side).link.is_active());
    }
}

#[test]
fn a_proof_before_hello_twice_or_unasked_ends_the_link() {
    let proof = Frame::Proof(Proof([0; Proof::LEN]));
    for side in BOTH {
        let early = Pair::keyed("a", "a").inject(side, proof.clone()).unwrap_err();
        assert!(matches!(early, LinkError::Unexpected { why: "before HELLO", .. }), "{early}");

        let (mut keyed, unkeyed) = (Pair::keyed("a", "a"), Pair::connected());
        keyed.connect();
        for mut pair in [keyed, unkeyed] {
            let error = pair.inject(side, proof.clone()).unwrap_err();
            assert!(matches!(error, LinkError::Unexpected { kind: "PROOF", .. }), "{error}");
            assert_eq!(goaway_for(&error), Some(GoAway::Protocol));
        }
    }
}

#[test]
fn a_second_hello_does_not_replace_the_first_while_its_proof_is_awaited() {
    for side in BOTH {
        let mut pair = proving(side, nonce(other(side)));
        let second = Frame::Hello(keyed_hello(Nonce([9; Nonce::LEN])));
        let error = pair.inject(side, second).unwrap_err();
        assert!(matches!(error, LinkError::Unexpected { kind: "HELLO", .. }), "{error}");
    }
}

// --- time and farewells -------------------------------------------------------------------------

#[test]
fn a_peer_that_says_hello_and_proves_nothing_is_given_up_when_a_hello_would_be() {
    for said_hello_after in [Duration::ZERO, HELLO_TIMEOUT - 2 * MILLISECOND] {
        let mut pair = Pair::keyed("a", "a");
        pair.gateway.pipe.held = true;
        pair.advance(said_hello_after);
        pair.inject(Side::Worker, Frame::Hello(keyed_hello(nonce(Side::Gateway)))).unwrap();
        pair.advance(HELLO_TIMEOUT - said_hello_after - MILLISECOND);
        assert_eq!(pair.worker.error, None);
        pair.advance(MILLISECOND);
        assert_eq!(pair.worker.error, Some(LinkError::NoProof));
        assert_eq!(goaway_for(&LinkError::NoProof), Some(GoAway::Protocol));
    }
    assert!(HELLO_TIMEOUT > DEAD_AFTER, "silence counts only once a link is up");
}

#[test]
fn a_proof_that_is_late_but_in_time_makes_a_link_that_lives_on() {
    let mut pair = Pair::keyed("a", "a");
    for side in BOTH {
        pair.end(side).pipe.delay = HELLO_TIMEOUT / 2 - MILLISECOND;
    }
    pair.advance(HELLO_TIMEOUT - MILLISECOND);
    assert!(pair.gateway.link.is_active() && pair.worker.link.is_active());
    for side in BOTH {
        pair.end(side).pipe.delay = Duration::ZERO;
    }
    pair.advance(Duration::from_secs(60));
    assert_eq!((&pair.gateway.error, &pair.worker.error), (&None, &None));
}

#[test]
fn going_away_before_the_proof_leaves_the_proof_in_place() {
    for side in BOTH {
        let mut pair = Pair::keyed("a", "a");
        pair.end(side).link.go_away(GoAway::Draining);
        pair.run();
        for end in [&mut pair.gateway, &mut pair.worker] {
            assert_eq!(end.error, None);
            assert!(!end.link.is_active());
            let events = end.events();
            assert!(events.iter().any(|event| matches!(event, Event::Connected(_))), "{events:?}");
        }
        assert_eq!(pair.gateway.link.open(open("alice")), None);

        let mut pair = Pair::keyed("a", "b");
        pair.end(side).link.go_away(GoAway::Draining);
        pair.run();
        for side in BOTH {
            assert_eq!(pair.end(side).error, Some(LinkError::WrongKey));
        }
    }
}
