//! What the library promises about saved state, seen through `TestSession`.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use single_state_worker::testing::TestSession;
use single_state_worker::{Context, Durability, Result, Saved, Session};

const SECOND: Duration = Duration::from_secs(1);

/// An app that writes down what happens to it.
#[derive(Default, Serialize, Deserialize)]
struct Diary {
    items: Vec<String>,
    tuples: HashMap<(u8, u8), f64>,
    /// How often it came into memory, which is not saved by itself.
    #[serde(skip)]
    starts: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    Append {
        item: String,
    },
    Panic {
        item: String,
    },
    Tell {
        text: String,
    },
    Report,
    Progress,
    Slow,
    Keep {
        name: String,
        text: String,
    },
    Forget {
        name: String,
    },
    Kept {
        name: String,
    },
    Plan {
        item: String,
        seconds: u64,
    },
    PlanPanic,
    End,
    #[serde(rename = "_append")]
    Planned {
        item: String,
    },
    #[serde(rename = "_panic")]
    PlannedPanic,
}

impl Session for Diary {
    type Message = Message;

    async fn started(&mut self, ctx: &mut Context) -> Result<()> {
        self.starts += 1;
        ctx.assign("starts", &self.starts)
    }

    async fn attached(&mut self, ctx: &mut Context) -> Result<()> {
        ctx.send(&json!({"tag": "welcome", "tabs": ctx.tabs()}))
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Append { item } | Message::Planned { item } => {
                self.items.push(item);
                self.tuples.insert((1, 2), f64::INFINITY);
                ctx.assign("items", &self.items)
            }
            Message::Panic { item } => {
                self.items.push(item);
                panic!("in the middle of it")
            }
            Message::PlannedPanic => panic!("by itself"),
            Message::Tell { text } => ctx.send(&json!({"tag": "told", "text": text})),
            Message::Report => {
                let Self { items, starts, .. } = self;
                let key = ctx.idempotency_key();
                ctx.send(&json!({"tag": "report", "items": items, "starts": starts, "key": key}))
            }
            Message::Progress => {
                ctx.assign("state", "running")?;
                ctx.progress("done", &1)?;
                tokio::time::sleep(10 * SECOND).await;
                ctx.progress("done", &2)
            }
            Message::Slow => {
                ctx.assign("state", "slow")?;
                tokio::time::sleep(10 * SECOND).await;
                Ok(())
            }
            Message::Keep { name, text } => ctx.keep(&name, text),
            Message::Forget { name } => {
                ctx.forget(&name);
                Ok(())
            }
            Message::Kept { name } => {
                let kept = ctx.kept(&name).await;
                let text = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                ctx.send(&json!({"tag": "kept", "text": text}))
            }
            Message::Plan { item, seconds } => {
                let after = Duration::from_secs(seconds);
                ctx.schedule(&item.clone(), after, &Message::Planned { item })
            }
            Message::PlanPanic => ctx.schedule("panic", SECOND, &Message::PlannedPanic),
            Message::End => {
                ctx.send(&json!({"tag": "told", "text": "farewell"}))?;
                ctx.end();
                Ok(())
            }
        }
    }
}

fn append(session: &TestSession<Diary>, item: &str) {
    session.send(json!({"tag": "append", "item": item}));
}

fn report(session: &TestSession<Diary>) -> Value {
    session.send(json!({"tag": "report"}));
    let report = find(&session.outputs(), "report");
    report.expect("a report")
}

fn find(outputs: &[Value], tag: &str) -> Option<Value> {
    outputs.iter().rfind(|output| output["tag"] == tag).cloned()
}

#[test]
fn a_crash_takes_the_session_back_to_its_last_commit_and_what_came_after_is_handled_again() {
    for durability in [Durability::Relaxed, Durability::Durable] {
        let session = TestSession::<Diary>::with_durability(durability);
        append(&session, "a");
        append(&session, "b");
        session.advance(2 * SECOND);
        append(&session, "c");
        session.crash();
        append(&session, "d");
        let report = report(&session);
        assert_eq!(report["items"], json!(["a", "b", "c", "d"]), "{durability:?}");
        assert_eq!(report["starts"], 1, "it is another memory");
        assert_eq!(session.mirror()["items"], json!(["a", "b", "c", "d"]));
    }
}

#[test]
fn a_session_that_was_never_committed_is_replayed_from_its_beginning() {
    let session = TestSession::<Diary>::new();
    append(&session, "a");
    append(&session, "b");
    session.crash();
    session.crash();
    assert_eq!(report(&session)["items"], json!(["a", "b"]));
}

#[test]
fn in_memory_mode_a_crash_costs_the_session() {
    let session = TestSession::<Diary>::with_durability(Durability::Memory);
    append(&session, "a");
    session.advance(100 * SECOND);
    session.crash();
    assert_eq!(report(&session)["items"], json!([]));
}

#[test]
fn a_panic_takes_back_what_its_handler_changed_and_is_told_instead_of_called_again() {
    let session = TestSession::<Diary>::new();
    append(&session, "a");
    session.advance(2 * SECOND);
    append(&session, "b");
    session.send(json!({"tag": "panic", "item": "half"}));
    append(&session, "c");
    let outputs = session.outputs();
    let error = find(&outputs, "error").expect("the user is told");
    assert_eq!(error["error"], "the app panicked: in the middle of it");
    assert_eq!(error["details"], "in the handler of \"panic\"; the message was given up");
    assert_eq!(report(&session)["items"], json!(["a", "b", "c"]));
    session.crash();
    let report = report(&session);
    assert_eq!(report["items"], json!(["a", "b", "c"]), "and it does not come again");
}

#[test]
fn two_tabs_survive_the_panic_of_one() {
    let session = TestSession::<Diary>::new();
    let other = session.tab();
    append(&session, "a");
    other.send(json!({"tag": "append", "item": "b"}));
    session.send(json!({"tag": "panic", "item": "half"}));
    session.send(json!({"tag": "panic", "item": "half"}));
    other.send(json!({"tag": "append", "item": "c"}));
    assert_eq!(other.mirror()["items"].as_array().unwrap().len(), 3);
    assert_eq!(session.mirror(), other.mirror());
}

#[test]
fn a_scheduled_message_that_panics_is_given_up_even_when_nobody_waits() {
    let session = TestSession::<Diary>::new();
    append(&session, "a");
    session.send(json!({"tag": "plan_panic"}));
    session.send(json!({"tag": "plan", "item": "later", "seconds": 5}));
    session.advance(3 * SECOND);
    let error = find(&session.outputs(), "error").expect("the user is told");
    assert_eq!(error["error"], "the app panicked: by itself");
    session.advance(5 * SECOND);
    assert_eq!(report(&session)["items"], json!(["a", "later"]));
}

#[test]
fn what_is_scheduled_survives_and_comes_when_it_is_due() {
    let session = TestSession::<Diary>::new();
    session.send(json!({"tag": "plan", "item": "late", "seconds": 100}));
    session.send(json!({"tag": "plan", "item": "soon", "seconds": 10}));
    session.advance(2 * SECOND);
    session.crash();
    session.advance(5 * SECOND);
    assert_eq!(report(&session)["items"], json!([]));
    session.advance(5 * SECOND);
    assert_eq!(report(&session)["items"], json!(["soon"]));
    session.crash();
    session.advance(100 * SECOND);
    assert_eq!(report(&session)["items"], json!(["soon", "late"]));
}

#[test]
fn durable_outputs_leave_with_their_commit_and_progress_before_it() {
    let session = TestSession::<Diary>::with_durability(Durability::Durable);
    let tab = session.tab();
    session.send(json!({"tag": "progress"}));
    session.advance(SECOND);
    let keys: Vec<_> = tab.outputs().iter().map(|output| output["key"].clone()).collect();
    let position = |key: &str| keys.iter().position(|k| k == key).expect("it came");
    assert!(position("done") < position("state"), "{keys:?}");
    assert_eq!((&tab.mirror()["state"], &tab.mirror()["done"]), (&json!("running"), &json!(2)));
}

#[test]
fn what_a_hook_says_is_shown_at_once_in_every_mode() {
    for durability in [Durability::Relaxed, Durability::Durable, Durability::Memory] {
        let session = TestSession::<Diary>::with_durability(durability);
        session.advance(SECOND / 10);
        assert_eq!(session.mirror()["starts"], 1, "{durability:?}");
        append(&session, "a");
        let other = session.tab();
        session.advance(2 * SECOND);
        assert!(find(&other.outputs(), "welcome").is_some(), "{durability:?}");
    }
}

#[test]
fn durable_events_are_shown_once_whatever_crashes() {
    let session = TestSession::<Diary>::with_durability(Durability::Durable);
    let mut told = Vec::new();
    for n in 0..20 {
        session.send(json!({"tag": "tell", "text": n.to_string()}));
        if n % 3 == 0 {
            session.crash();
        }
        if n % 5 == 0 {
            session.advance(SECOND);
        }
        let outputs = session.outputs();
        told.extend(outputs.into_iter().filter(|output| output["tag"] == "told"));
    }
    session.advance(SECOND);
    told.extend(session.outputs());
    let texts: Vec<_> = told.iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(texts, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_large_input_is_kept_beside_the_state_and_forgotten_on_demand() {
    let session = TestSession::<Diary>::new();
    let kept = |name: &str| {
        session.send(json!({"tag": "kept", "name": name}));
        find(&session.outputs(), "kept").expect("an answer")["text"].clone()
    };
    assert_eq!(kept("upload"), Value::Null);
    session.send(json!({"tag": "keep", "name": "upload", "text": "one"}));
    assert_eq!(kept("upload"), "one", "before it is saved");
    session.advance(2 * SECOND);
    assert_eq!(kept("upload"), "one", "and after");
    session.send(json!({"tag": "keep", "name": "upload", "text": "two"}));
    session.crash();
    assert_eq!(kept("upload"), "two", "what was not committed was handled again");
    session.advance(2 * SECOND);
    session.crash();
    session.send(json!({"tag": "forget", "name": "upload"}));
    assert_eq!(kept("upload"), Value::Null);
    session.advance(2 * SECOND);
    session.crash();
    assert_eq!(kept("upload"), Value::Null);
    session.send(json!({"tag": "keep", "name": "", "text": "x"}));
    let error = find(&session.outputs(), "error").expect("the name is refused");
    assert_eq!(error["error"], "keep: a name has 1 to 200 bytes and no NUL");
}

#[test]
fn an_ended_session_says_its_last_words_and_is_gone() {
    for durability in [Durability::Relaxed, Durability::Durable] {
        let session = TestSession::<Diary>::with_durability(durability);
        append(&session, "a");
        session.advance(2 * SECOND);
        session.send(json!({"tag": "end"}));
        session.advance(SECOND);
        assert!(find(&session.outputs(), "told").is_some(), "{durability:?}");
        assert!(!session.is_open());
        let next = session.tab();
        next.send(json!({"tag": "report"}));
        assert_eq!(find(&next.outputs(), "report").unwrap()["items"], json!([]));
    }
}

#[test]
fn the_key_of_an_input_is_the_same_when_it_is_handled_again() {
    let session = TestSession::<Diary>::new();
    session.send(json!({"tag": "report"}));
    let first = find(&session.outputs(), "report").unwrap()["key"].clone();
    session.crash();
    session.advance(Duration::ZERO);
    let again = find(&session.outputs(), "report").expect("it was not committed")["key"].clone();
    assert_eq!(first, again);
    assert_ne!(report(&session)["key"], first);
}

/// The diary as its next version has it: one text.
#[derive(Default, Serialize, Deserialize)]
struct Diary2 {
    text: String,
}

impl Session for Diary2 {
    type Message = Message;
    const VERSION: u32 = 2;

    fn migrate(from: u32, saved: &Saved) -> Result<Self> {
        assert_eq!(from, 1);
        let Diary { items, tuples, .. } = saved.read()?;
        assert_eq!(tuples[&(1, 2)], f64::INFINITY);
        Ok(Self { text: items.join(",") })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        if let Message::Append { item } = message {
            self.text.push_str(&item);
        }
        ctx.assign("text", &self.text)
    }
}

#[test]
fn a_new_version_of_the_app_reads_what_the_old_one_saved() {
    let session = TestSession::<Diary>::new();
    append(&session, "a");
    append(&session, "b");
    session.advance(2 * SECOND);
    append(&session, "c");
    let session = session.upgrade::<Diary2>();
    session.send(json!({"tag": "append", "item": "!"}));
    assert_eq!(session.mirror()["text"], "a,bc!");
    assert_eq!(session.mirror()["items"], json!(["a", "b"]), "mirrored keys stay");
}
