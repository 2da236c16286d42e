//! The demo app as its browsers see it.

use super::*;
use single_state_worker::Durability;
use single_state_worker::testing::TestSession;

fn session() -> TestSession<Demo> {
    TestSession::with_shared(Digits::load())
}

#[test]
fn axpy_assigns_its_result() {
    let session = session();
    session.send(json!({"tag": "axpy", "a": 2, "x": [1, 2], "y": [10, 20]}));
    assert_eq!(
        session.outputs(),
        [json!({"tag": "assign", "key": "result_vector", "value": [12.0, 24.0]})]
    );
}

#[test]
fn vectors_of_different_lengths_are_an_error_that_says_what_to_do() {
    let session = session();
    session.send(json!({"tag": "axpy", "a": 2, "x": [1], "y": []}));
    let [error] = &session.outputs()[..] else { panic!("one message") };
    assert_eq!(error["tag"], "error");
    assert_eq!(error["error"], "x has 1 elements and y has 0: give two vectors of one length");
}

#[test]
fn a_broken_handler_is_an_error_and_the_session_goes_on() {
    let session = session();
    session.send(json!({"tag": "broken"}));
    session.send(json!({"tag": "append", "item": "a"}));
    let outputs = session.outputs();
    assert_eq!(outputs[0]["tag"], "error");
    assert_eq!(outputs[0]["details"], "while handling \"broken\"");
    assert_eq!(session.mirror()["count"], 1);
}

#[test]
fn items_are_told_in_the_order_in_which_they_came() {
    let session = session();
    for item in ["a", "b", "c"] {
        session.send(json!({"tag": "append", "item": item}));
    }
    session.outputs();
    session.send(json!({"tag": "items"}));
    assert_eq!(session.outputs(), [json!({"tag": "items", "items": ["a", "b", "c"]})]);
}

#[test]
fn a_training_reports_progress_and_a_falling_loss_until_it_is_done() {
    let session = session();
    session.send(json!({"tag": "train", "steps": 20}));
    let first = session.mirror();
    assert_eq!(first["training"], "running");
    session.advance(Duration::from_secs(10));
    let last = session.mirror();
    assert_eq!((&last["training"], &last["progress"]["done"]), (&json!("done"), &json!(20)));
    assert_eq!(last["progress"]["left_ms"], 0);
    for loss in ["loss", "test_loss"] {
        assert!(last[loss].as_f64().unwrap() < first[loss].as_f64().unwrap() / 2.0);
    }
    assert!(last["accuracy"].as_f64().unwrap() > 0.7);
    assert_eq!(last["curve"]["test"].as_array().unwrap().len(), 20);
    assert_eq!(last["curve"]["test"][19], last["test_loss"]);
    assert_eq!(last["confusion"].as_array().unwrap().len(), 10);
}

#[test]
fn a_training_can_be_paused_changed_and_continued() {
    let session = session();
    session.send(json!({"tag": "train", "steps": 100}));
    session.advance(Duration::from_secs(1));
    session.send(json!({"tag": "pause"}));
    let paused = session.mirror();
    assert_eq!(paused["training"], "paused");
    session.advance(Duration::from_secs(100));
    assert_eq!(session.mirror()["progress"], paused["progress"]);
    session.send(json!({"tag": "set", "rate": 0.1}));
    session.send(json!({"tag": "continue"}));
    session.advance(Duration::from_secs(100));
    assert_eq!(session.mirror()["training"], "done");
}

#[test]
fn settings_change_one_at_a_time_and_every_tab_sees_them() {
    let session = session();
    session.send(json!({"tag": "set", "rate": 0.5}));
    session.send(json!({"tag": "set", "decay": 0.01}));
    session.send(json!({"tag": "train", "steps": 1, "batch": 8}));
    let wanted = json!({"rate": 0.5, "decay": 0.01, "batch": 8});
    assert_eq!(session.tab().mirror()["settings"], wanted);
    session.outputs();
    for (wrong, what) in [
        (json!({"tag": "set", "rate": 0}), "rate must be above 0 and at most 10, not 0"),
        (json!({"tag": "set", "decay": 1}), "decay must be 0 to 0.1, not 1"),
        (json!({"tag": "train", "batch": 129}), "batch must be 1 to 128, not 129"),
    ] {
        session.send(wrong);
        assert_eq!(session.outputs()[0]["error"], what);
    }
    assert_eq!(session.mirror()["settings"], wanted);
}

#[test]
fn what_changes_while_a_model_trains_changes_how_it_trains() {
    let loss = |rate: f64| {
        let session = session();
        session.send(json!({"tag": "train", "steps": 20}));
        session.advance(Duration::from_millis(100));
        session.send(json!({"tag": "set", "rate": rate}));
        session.advance(Duration::from_secs(10));
        session.mirror()["loss"].as_f64().unwrap()
    };
    // So small a rate that the model stays where it was.
    assert!(loss(1e-6) > loss(0.2) * 2.0);
}

#[test]
fn a_training_that_is_reset_is_forgotten_by_all() {
    let session = session();
    session.send(json!({"tag": "train", "steps": 1000}));
    session.advance(Duration::from_secs(1));
    session.send(json!({"tag": "reset"}));
    session.outputs();
    session.advance(Duration::from_secs(10));
    assert_eq!(session.outputs(), [json!(null); 0], "no step is left");
    let mirror = session.mirror();
    assert!(TRAINING_KEYS.iter().all(|key| mirror[*key].is_null()), "{mirror:?}");
}

#[test]
fn a_training_goes_on_from_its_last_save_when_its_worker_crashes() {
    let session = session();
    session.send(json!({"tag": "train", "steps": 80}));
    session.advance(Duration::from_millis(1500));
    session.crash();
    session.advance(Duration::from_millis(1));
    let done = session.mirror()["progress"]["done"].as_u64().unwrap();
    assert!((40..70).contains(&done), "it saves each second, and a step takes 20 ms: {done}");
    session.advance(Duration::from_secs(10));
    let mirror = session.mirror();
    assert_eq!(mirror["training"], "done");
    assert!(mirror["accuracy"].as_f64().unwrap() > 0.9);
}

#[test]
fn notes_of_the_demo_before_this_one_are_kept() {
    /// As it was saved then.
    #[derive(Default, Serialize, Deserialize)]
    struct Demo1 {
        items: Vec<String>,
        training: Option<(Vec<f64>, u32)>,
        born: Option<String>,
    }
    impl Session for Demo1 {
        type Message = serde_json::Value;
        async fn handle(&mut self, item: serde_json::Value, _: &mut Context) -> Result<()> {
            self.training = Some((vec![1.0], 3));
            self.items.push(item["item"].to_string());
            Ok(())
        }
    }
    let old = TestSession::<Demo1>::with_shared(Digits::load());
    old.send(json!({"tag": "append", "item": 1}));
    old.advance(Duration::from_secs(2));
    let session = old.upgrade::<Demo>();
    session.send(json!({"tag": "items"}));
    assert_eq!(session.outputs().last(), Some(&json!({"tag": "items", "items": ["1"]})));
}

#[test]
fn a_page_cannot_make_a_step_itself() {
    let session = session();
    session.send(json!({"tag": "_step"}));
    assert_eq!(
        session.outputs()[0]["error"],
        "the tag \"_step\" is reserved for the session itself"
    );
}

#[test]
fn what_a_session_was_born_with_stays_with_every_later_owner() {
    let session = session();
    let ask = || {
        session.send(json!({"tag": "where"}));
        session.outputs().pop().unwrap()
    };
    let first = ask();
    // Before anything was committed, and after that.
    for wait in [Duration::ZERO, Duration::from_secs(10)] {
        session.advance(wait);
        session.crash();
        let next = ask();
        assert!(next["epoch"].as_u64() > first["epoch"].as_u64(), "{first} {next}");
        assert_eq!(next["born"], first["born"]);
    }
}

#[test]
fn a_session_that_was_lost_is_born_anew() {
    let session = TestSession::<Demo>::with_durability(Durability::Memory);
    session.send(json!({"tag": "where"}));
    let first = session.outputs().pop().unwrap();
    session.crash();
    session.send(json!({"tag": "where"}));
    assert_ne!(session.outputs().pop().unwrap()["born"], first["born"]);
}
