//! Sessions that are wanted elsewhere, in virtual time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use single_state_proto::frame::Durability;

use super::faulty::{Fault, FaultyStore};
use super::{Journal, appended, list};
use crate::testing::TestSession;

fn session(durability: Durability) -> (Rc<FaultyStore>, TestSession<Journal>) {
    let store = Rc::new(FaultyStore::default());
    let session = TestSession::with_store(Arc::new(()), durability, store.clone());
    (store, session)
}

fn slow(session: &TestSession<Journal>, n: u64) {
    session.send_unwaited(json!({"tag": "slow", "n": n, "ms": 10_000}));
    // It runs.
    session.advance(Duration::from_millis(1));
}

const GRACE: Duration = Duration::from_secs(2);

#[test]
fn a_handler_is_given_up_after_its_grace_and_its_message_handled_by_the_next_owner() {
    let (_, session) = session(Durability::Relaxed);
    session.send(json!({"tag": "append", "n": 1}));
    // It is committed.
    session.advance(Duration::from_secs(2));
    slow(&session, 2);
    session.recall();
    session.advance(GRACE + Duration::from_secs(9));
    assert_eq!(appended(session.outputs()), [1], "it would have returned by now");
    session.advance(Duration::from_secs(2));
    assert_eq!(appended(session.outputs()), [2]);
    assert_eq!(list(&session), [1, 2]);
}

#[test]
fn a_handler_goes_on_where_there_is_no_commit_to_go_back_to() {
    for (durability, fault) in
        [(Durability::Memory, Fault::None), (Durability::Relaxed, Fault::Refuses)]
    {
        let (store, session) = session(durability);
        session.send(json!({"tag": "append", "n": 1}));
        store.set(fault);
        session.advance(Duration::from_secs(2));
        slow(&session, 2);
        session.recall();
        session.advance(Duration::from_secs(11));
        assert_eq!(appended(session.outputs()), [1, 2], "{durability:?}");
        store.set(Fault::None);
        assert_eq!(list(&session), [1, 2], "{durability:?}");
    }
}

#[test]
fn a_session_that_cannot_be_committed_goes_on_and_leaves_when_it_can() {
    let (store, session) = session(Durability::Relaxed);
    store.set(Fault::Refuses);
    session.send(json!({"tag": "append", "n": 1}));
    session.recall();
    session.send_unwaited(json!({"tag": "append", "n": 2}));
    session.advance(Duration::from_millis(900));
    assert_eq!(appended(session.outputs()), [1], "it waits for its commit");
    session.advance(Duration::from_millis(200));
    assert_eq!(appended(session.outputs()), [2], "it was given up");
    store.set(Fault::None);
    session.advance(Duration::from_secs(2));
    session.recall();
    session.send(json!({"tag": "append", "n": 3}));
    assert_eq!(list(&session), [1, 2, 3]);
}

#[test]
fn pages_show_what_the_session_has_after_a_panic_beside_its_first_save() {
    let (_, session) = session(Durability::Relaxed);
    let other = session.tab();
    other.send_unwaited(json!({"tag": "append", "n": 1}));
    session.send_unwaited(json!({"tag": "panic", "n": 2}));
    // The first save is on its way when the handler panics.
    session.recall();
    session.advance(Duration::from_secs(5));
    assert_eq!(list(&session), [1]);
    for mirror in [session.mirror(), other.mirror()] {
        assert_eq!(mirror.get("length"), Some(&json!(1)));
    }
}
