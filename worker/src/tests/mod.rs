//! The whole worker in virtual time, with a store that fails, and crashes and handovers in between:
//! what users have sent is in the state exactly once, whatever happens.

mod faulty;
mod handover;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use single_state_proto::frame::Durability;

use self::faulty::{Fault, FaultyStore};
use crate::testing::{TestSession, TestTab};
use crate::{Context, Result, Session};

/// An app that writes down what it is sent.
#[derive(Default, Serialize, Deserialize)]
struct Journal {
    items: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    Append {
        n: u64,
    },
    Slow {
        n: u64,
        ms: u64,
    },
    Panic {
        n: u64,
    },
    Later {
        n: u64,
        ms: u64,
    },
    #[serde(rename = "_append")]
    Due {
        n: u64,
    },
    List,
}

impl Session for Journal {
    type Message = Message;

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Append { n } | Message::Due { n } => {
                self.items.push(n);
                ctx.assign("length", &self.items.len())?;
                ctx.send(&json!({"tag": "appended", "n": n}))
            }
            Message::Slow { n, ms } => {
                self.items.push(n);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                ctx.assign("length", &self.items.len())?;
                ctx.send(&json!({"tag": "appended", "n": n}))
            }
            Message::Panic { n } => {
                self.items.push(n);
                panic!("a panic on purpose, with {n}")
            }
            Message::Later { n, ms } => {
                ctx.schedule(&n.to_string(), Duration::from_millis(ms), &Message::Due { n })
            }
            Message::List => ctx.send(&json!({"tag": "list", "items": self.items})),
        }
    }
}

/// One thing that a test does.
#[derive(Debug, Clone, Copy)]
enum Step {
    Append { second_tab: bool },
    Slow(u64),
    Recall,
    Panic,
    Later(u64),
    Advance(u64),
    Crash,
    Store(Fault),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        Just(Fault::None),
        Just(Fault::Refuses),
        Just(Fault::LosesAnswers),
        Just(Fault::AnswersLate),
        Just(Fault::LosesAnswersAndIsLate),
    ];
    let step = prop_oneof![
        8 => any::<bool>().prop_map(|second_tab| Step::Append { second_tab }),
        1 => (0_u64..4000).prop_map(Step::Slow),
        2 => Just(Step::Recall),
        1 => Just(Step::Panic),
        1 => (0_u64..3000).prop_map(Step::Later),
        4 => (0_u64..3000).prop_map(Step::Advance),
        2 => Just(Step::Crash),
        3 => fault.prop_map(Step::Store),
    ];
    prop::collection::vec(step, 1..60)
}

/// What was sent from each tab in order, and what was scheduled.
#[derive(Default)]
struct Sent {
    by_tab: [Vec<u64>; 2],
    later: Vec<u64>,
    last: u64,
}

impl Sent {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

fn list(session: &TestSession<Journal>) -> Vec<u64> {
    session.send(json!({"tag": "list"}));
    session.advance(Duration::from_secs(5));
    let outputs = session.outputs();
    let list = outputs.iter().rfind(|output| output["tag"] == "list").expect("a list");
    list["items"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

fn appended(outputs: Vec<Value>) -> Vec<u64> {
    let events = outputs.iter().filter(|output| output["tag"] == "appended");
    events.map(|event| event["n"].as_u64().unwrap()).collect()
}

fn run(
    session: &TestSession<Journal>,
    other: &TestTab,
    store: &FaultyStore,
    steps: &[Step],
) -> (Sent, Vec<u64>) {
    let (mut sent, mut shown) = (Sent::default(), Vec::new());
    for step in steps {
        match *step {
            Step::Append { second_tab } => {
                let n = sent.next();
                let message = json!({"tag": "append", "n": n});
                if second_tab {
                    other.send_unwaited(message);
                } else {
                    session.send_unwaited(message);
                }
                sent.by_tab[usize::from(second_tab)].push(n);
            }
            Step::Slow(ms) => {
                let n = sent.next();
                session.send_unwaited(json!({"tag": "slow", "n": n, "ms": ms}));
                sent.by_tab[0].push(n);
            }
            Step::Recall => session.recall(),
            Step::Panic => session.send_unwaited(json!({"tag": "panic", "n": sent.next()})),
            Step::Later(ms) => {
                let n = sent.next();
                session.send_unwaited(json!({"tag": "later", "n": n, "ms": ms}));
                sent.later.push(n);
            }
            Step::Advance(ms) => session.advance(Duration::from_millis(ms)),
            Step::Crash => session.crash(),
            Step::Store(fault) => store.set(fault),
        }
        shown.extend(appended(session.outputs()));
    }
    store.set(Fault::None);
    session.advance(Duration::from_secs(600));
    shown.extend(appended(session.outputs()));
    (sent, shown)
}

fn check(durability: Durability, steps: &[Step]) -> std::result::Result<(), TestCaseError> {
    let store = Rc::new(FaultyStore::default());
    let session = TestSession::<Journal>::with_store(Arc::new(()), durability, store.clone());
    let other = session.tab();
    let (sent, shown) = run(&session, &other, &store, steps);
    let items = list(&session);
    let mut once = items.clone();
    once.sort_unstable();
    let mut expected = [&sent.by_tab[0][..], &sent.by_tab[1], &sent.later].concat();
    expected.sort_unstable();
    prop_assert_eq!(&once, &expected, "each item once");
    for tab in &sent.by_tab {
        let order: Vec<_> = items.iter().copied().filter(|n| tab.contains(n)).collect();
        prop_assert_eq!(&order, tab, "in the order of its tab");
    }
    let length = if items.is_empty() { Value::Null } else { json!(items.len()) };
    for mirror in [session.mirror(), other.mirror()] {
        let mirrored = mirror.get("length").cloned().unwrap_or_default();
        prop_assert_eq!(&mirrored, &length, "what a page shows is what the session has");
    }
    if durability == Durability::Durable {
        prop_assert_eq!(&shown, &items, "each event once, and in order");
    }
    Ok(())
}

#[test]
fn test_sessions_leave_no_descriptor_open() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let sessions = 50;
    for _ in 0..sessions {
        let session = TestSession::<Journal>::new();
        session.send(json!({"tag": "append", "n": 1}));
        session.crash();
        session.advance(Duration::from_secs(5));
    }
    // Other tests have theirs beside this one.
    assert!(open() < before + sessions, "{} were open, and now {} are", before, open());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn relaxed_sessions_apply_everything_exactly_once(steps in steps()) {
        check(Durability::Relaxed, &steps)?;
    }

    #[test]
    fn durable_sessions_apply_and_show_everything_exactly_once(steps in steps()) {
        check(Durability::Durable, &steps)?;
    }
}
