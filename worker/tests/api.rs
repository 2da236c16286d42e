//! What the library promises to authors, seen through `TestSession`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use single_state_worker::testing::TestSession;
use single_state_worker::{Bytes, Context, Result, Session};

const SECOND: Duration = Duration::from_secs(1);

/// An app with one message for each thing that the library can do.
#[derive(Default, Serialize, Deserialize)]
struct Sample {
    model: Vec<f64>,
    log: Vec<String>,
    #[serde(skip)]
    keys: Rc<RefCell<Vec<String>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    Later {
        key: String,
        ms: u64,
        note: String,
    },
    Forget {
        key: String,
    },
    Compute,
    ComputePanics,
    Panic,
    Fail,
    Job {
        name: String,
        notes: u64,
    },
    FailingJob,
    PanickingJob,
    Cancel {
        name: String,
    },
    Shared,
    WrongShared,
    Tabs,
    Many,
    Wait {
        ms: u64,
    },
    Repeat,
    NotANumber,
    Assigned,
    Keys,
    #[serde(rename = "_note")]
    Note {
        note: String,
    },
    #[serde(rename = "_not_a_number")]
    GotNotANumber {
        x: f64,
    },
    #[serde(rename = "_repeat")]
    RepeatAgain,
}

impl Session for Sample {
    type Message = Message;

    async fn started(&mut self, ctx: &mut Context) -> Result<()> {
        ctx.assign("started", &true)
    }

    async fn attached(&mut self, ctx: &mut Context) -> Result<()> {
        ctx.assign("tabs", &ctx.tabs())
    }

    async fn assign(&mut self, key: String, value: Value, ctx: &mut Context) -> Result<()> {
        anyhow::ensure!(key != "tabs", "tabs are counted, not assigned");
        ctx.accept(&key, &value)
    }

    async fn binary(&mut self, bytes: Bytes, ctx: &mut Context) -> Result<()> {
        ctx.send_binary(bytes.iter().rev().copied().collect::<Vec<_>>())
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        self.keys.borrow_mut().push(ctx.idempotency_key());
        match message {
            Message::Later { key, ms, note } => {
                ctx.schedule(&key, Duration::from_millis(ms), &Message::Note { note })
            }
            Message::Forget { key } => {
                let forgotten = ctx.unschedule(&key);
                ctx.assign("forgotten", &forgotten)
            }
            Message::Compute => {
                self.model = vec![1.0, 2.0];
                let sum = ctx.compute(&mut self.model, |model| {
                    model.push(3.0);
                    model.iter().sum::<f64>()
                });
                let sum = sum.await;
                ctx.assign("sum", &(sum, &self.model))
            }
            Message::ComputePanics => {
                self.model = vec![1.0];
                ctx.compute(&mut self.model, |_| panic!("in the pool")).await
            }
            Message::Panic => panic!("on purpose"),
            Message::Fail => Err(anyhow::Error::msg("the disk").context("read the weights")),
            Message::Job { name, notes } => {
                let session = ctx.poster();
                ctx.spawn(&name, async move {
                    for n in 0..notes {
                        tokio::time::sleep(SECOND).await;
                        session.post(&Message::Note { note: n.to_string() }).await?;
                    }
                    Ok(())
                });
                Ok(())
            }
            Message::FailingJob => {
                ctx.spawn("fails", async { anyhow::bail!("the service is away") });
                Ok(())
            }
            Message::PanickingJob => {
                ctx.spawn("panics", async { panic!("beside the session") });
                Ok(())
            }
            Message::Cancel { name } => {
                let cancelled = ctx.cancel(&name);
                ctx.assign("cancelled", &cancelled)
            }
            Message::Shared => ctx.assign("shared", &*ctx.shared::<String>()),
            Message::WrongShared => ctx.assign("shared", &*ctx.shared::<u8>()),
            Message::Tabs => ctx.assign("tabs", &ctx.tabs()),
            Message::Many => (0..100).try_for_each(|n| ctx.assign("many", &n)),
            Message::Wait { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.note("waited", ctx)
            }
            Message::Repeat | Message::RepeatAgain => {
                ctx.schedule("repeat", Duration::ZERO, &Message::RepeatAgain)
            }
            Message::NotANumber => {
                ctx.schedule("nan", Duration::ZERO, &Message::GotNotANumber { x: f64::NAN })
            }
            Message::GotNotANumber { x } => ctx.assign("is_nan", &x.is_nan()),
            Message::Assigned => {
                let value = ctx.assigned::<Vec<u8>>("mine")?;
                ctx.assign("found", &value)
            }
            Message::Keys => ctx.assign("keys", &*self.keys.borrow()),
            Message::Note { note } => self.note(&note, ctx),
        }
    }
}

impl Sample {
    fn note(&mut self, note: &str, ctx: &Context) -> Result<()> {
        self.log.push(note.to_owned());
        ctx.assign("log", &self.log)
    }
}

fn session() -> TestSession<Sample> {
    TestSession::with_shared("a large model".to_owned())
}

fn send(session: &TestSession<Sample>, tag: &str) {
    session.send(json!({"tag": tag}));
}

fn error_of(session: &TestSession<Sample>) -> Value {
    let outputs = session.outputs();
    outputs.iter().find(|output| output["tag"] == "error").expect("an error").clone()
}

#[test]
fn started_runs_before_the_first_tab_is_told_anything_else() {
    let session = session();
    session.advance(SECOND);
    let keys: Vec<Value> = session.outputs().iter().map(|output| output["key"].clone()).collect();
    assert_eq!(keys, ["started", "tabs"]);
}

#[test]
fn attached_runs_for_each_tab_and_tabs_counts_them() {
    let session = session();
    let other = session.tab();
    session.advance(SECOND);
    assert_eq!(session.mirror()["tabs"], 2);
    other.close();
    send(&session, "tabs");
    assert_eq!(session.mirror()["tabs"], 1);
}

#[test]
fn what_one_handler_assigns_many_times_goes_out_once() {
    let session = session();
    session.outputs();
    send(&session, "many");
    let many = session.outputs().into_iter().filter(|output| output["key"] == "many");
    assert_eq!(many.collect::<Vec<_>>(), [json!({"tag": "assign", "key": "many", "value": 99})]);
}

#[test]
fn a_scheduled_message_comes_when_it_is_due_and_the_same_key_replaces_it() {
    let session = session();
    session.send(json!({"tag": "later", "key": "a", "ms": 1000, "note": "old"}));
    session.send(json!({"tag": "later", "key": "a", "ms": 2000, "note": "new"}));
    session.send(json!({"tag": "later", "key": "b", "ms": 3000, "note": "other"}));
    session.send(json!({"tag": "forget", "key": "b"}));
    session.advance(Duration::from_millis(1500));
    assert_eq!(session.mirror().get("log"), None);
    session.advance(10 * SECOND);
    assert_eq!(session.mirror()["log"], json!(["new"]));
    assert_eq!(session.mirror()["forgotten"], true);
}

#[test]
fn a_chain_of_steps_without_a_pause_leaves_room_for_the_user() {
    let session = session();
    send(&session, "repeat");
    send(&session, "tabs");
    assert_eq!(session.mirror()["tabs"], 1);
}

#[test]
fn what_a_session_schedules_keeps_numbers_that_json_cannot_write() {
    let session = session();
    send(&session, "not_a_number");
    session.advance(SECOND);
    assert_eq!(session.mirror()["is_nan"], true);
}

#[test]
fn computed_values_come_back_changed_with_the_result() {
    let session = session();
    send(&session, "compute");
    assert_eq!(session.mirror()["sum"], json!([6.0, [1.0, 2.0, 3.0]]));
}

#[test]
fn a_panic_in_a_computation_is_reported_and_the_session_goes_on() {
    let session = session();
    send(&session, "compute_panics");
    assert_eq!(error_of(&session)["error"], "the app panicked: in the pool");
    send(&session, "compute");
    assert_eq!(session.mirror()["sum"][0], 6.0);
}

#[test]
fn an_error_is_told_with_its_causes_and_a_panic_with_its_text() {
    let session = session();
    send(&session, "fail");
    let error = error_of(&session);
    assert_eq!(error["error"], "read the weights");
    assert_eq!(error["details"], "while handling \"fail\"; because the disk");
    // Once it is committed, a panic does not bring it again.
    session.advance(2 * SECOND);
    session.outputs();
    send(&session, "panic");
    assert_eq!(error_of(&session)["error"], "the app panicked: on purpose");
    send(&session, "tabs");
    assert_eq!(session.mirror()["tabs"], 1);
}

#[test]
fn work_beside_the_session_posts_to_it_while_it_handles_other_messages() {
    let session = session();
    session.send(json!({"tag": "job", "name": "j", "notes": 3}));
    session.advance(Duration::from_millis(1500));
    session.send(json!({"tag": "wait", "ms": 10}));
    session.advance(10 * SECOND);
    assert_eq!(session.mirror()["log"], json!(["0", "waited", "1", "2"]));
}

#[test]
fn cancelled_work_stops_and_work_of_the_same_name_replaces_it() {
    let session = session();
    session.send(json!({"tag": "job", "name": "j", "notes": 5}));
    session.advance(Duration::from_millis(1500));
    session.send(json!({"tag": "job", "name": "j", "notes": 2}));
    session.advance(Duration::from_millis(1500));
    session.send(json!({"tag": "cancel", "name": "j"}));
    session.send(json!({"tag": "cancel", "name": "unheard of"}));
    assert_eq!(session.mirror()["cancelled"], false);
    session.advance(10 * SECOND);
    assert_eq!(session.mirror()["log"], json!(["0", "0"]));
}

#[test]
fn work_that_fails_or_panics_is_told_like_a_handler() {
    let session = session();
    send(&session, "failing_job");
    session.advance(SECOND);
    assert_eq!(error_of(&session)["error"], "the service is away");
    send(&session, "panicking_job");
    session.advance(SECOND);
    assert_eq!(error_of(&session)["error"], "the app panicked: beside the session");
}

#[test]
fn what_the_app_was_given_is_shared_and_asking_for_another_type_says_so() {
    let session = session();
    send(&session, "shared");
    assert_eq!(session.mirror()["shared"], "a large model");
    send(&session, "wrong_shared");
    assert_eq!(error_of(&session)["error"], "the app panicked: App::new was not given a u8");
}

#[test]
fn a_tabs_assign_goes_through_the_apps_hook_to_all_tabs_and_back_to_the_app() {
    let session = session();
    let other = session.tab();
    other.send(json!({"tag": "assign", "key": "mine", "value": [1, 2]}));
    assert_eq!(session.mirror()["mine"], json!([1, 2]));
    assert_eq!(other.mirror()["mine"], json!([1, 2]));
    send(&session, "assigned");
    assert_eq!(session.mirror()["found"], json!([1, 2]));
    session.send(json!({"tag": "assign", "key": "tabs", "value": 99}));
    assert_eq!(error_of(&session)["error"], "tabs are counted, not assigned");
    assert_eq!(session.mirror()["tabs"], 2);
}

#[test]
fn tabs_cannot_mirror_more_than_1024_keys() {
    let session = session();
    for i in 0..1022 {
        session.send(json!({"tag": "assign", "key": format!("k{i}"), "value": i}));
    }
    session.outputs();
    session.send(json!({"tag": "assign", "key": "one more", "value": 0}));
    let error = error_of(&session);
    assert_eq!(error["error"], "assign \"one more\": a session mirrors at most 1024 keys");
    session.send(json!({"tag": "assign", "key": "k0", "value": "changed"}));
    assert_eq!(session.mirror()["k0"], "changed");
}

#[test]
fn tabs_cannot_mirror_more_than_4_mib() {
    let session = session();
    for i in 0..4 {
        session
            .send(json!({"tag": "assign", "key": format!("k{i}"), "value": "x".repeat(1_000_000)}));
    }
    session.outputs();
    session.send(json!({"tag": "assign", "key": "k4", "value": "x".repeat(1_000_000)}));
    assert!(error_of(&session)["error"].as_str().unwrap().contains("at most 4194304 bytes"));
}

#[test]
fn bytes_go_to_the_binary_hook() {
    let session = session();
    session.outputs();
    session.send_binary(vec![1, 2, 3]);
    assert!(session.outputs().contains(&json!([3, 2, 1])));
}

#[test]
fn each_message_has_an_idempotency_key_of_its_own() {
    let session = session();
    session.send(json!({"tag": "later", "key": "a", "ms": 10, "note": "n"}));
    session.advance(SECOND);
    session.tab().send(json!({"tag": "tabs"}));
    send(&session, "keys");
    let keys = session.mirror()["keys"].clone();
    let keys: Vec<&str> = keys.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut unique = keys.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!((keys.len(), unique.len()), (4, 4), "{keys:?}");
}
