//! The app without a cluster, and in virtual time.

use serde_json::json;
use single_state_worker::testing::TestSession;

use @crate@::Samples;

#[test]
fn what_one_tab_adds_every_tab_sees_also_after_a_crash() {
    let session = TestSession::<Samples>::new();
    session.send(json!({"tag": "add", "value": 2.0}));
    let other = session.tab();
    other.send(json!({"tag": "add", "value": 4.0}));
    session.crash(); // the worker dies, another one has the session
    for mirror in [session.mirror(), other.mirror()] {
        assert_eq!(mirror["values"], json!([2.0, 4.0]));
        assert_eq!(mirror["mean"], json!(3.0));
    }
}

#[test]
fn what_is_no_message_is_an_error_and_changes_nothing() {
    let session = TestSession::<Samples>::new();
    session.send(json!({"tag": "add", "value": "much"}));
    assert_eq!(session.outputs().pop().unwrap()["tag"], "error");
    assert_eq!(session.mirror()["values"], json!([]));
}
