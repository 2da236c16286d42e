//! What a client mirrors is what the session has, and what it says arrives once, whatever breaks:
//! random orders of things, beside a model of gateway and session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use single_state_proto::browser::{self, FromClient, Hello, Limits, ResetReason, Welcome};
use single_state_proto::channel::{ClientHalf, Input, Relayed, SessionHalf, Verdict};
use single_state_proto::frame::Durability;

use super::core::{Core, Heard};

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    /// The client says what it has to say.
    Say,
    /// The session assigns one of a few keys by itself.
    Assign(u8),
    Commit,
    /// The next thing reaches the client.
    Hear,
    /// The connection breaks: what is under way is lost.
    Break,
    Connect,
    /// The owner dies; the next one begins with what was committed.
    Crash,
}

/// What a session saves.
#[derive(Clone)]
struct State {
    revision: u64,
    /// By key, with its revision.
    mirror: BTreeMap<String, (u64, Value)>,
    /// Events by revision.
    events: BTreeMap<u64, u64>,
    count: u64,
    half: SessionHalf,
    /// Owners before, and where each of them began.
    owners: Vec<(u64, u64)>,
}

struct Server {
    epoch: u64,
    live: State,
    saved: State,
    /// The connection: what the gateway keeps of it, and what is on its way to the client.
    relay: Option<ClientHalf>,
    down: VecDeque<Bytes>,
    /// A value that is committed is told too, although a newer one that is not has replaced it: else
    /// whoever is told half of the log misses it when the session goes back to it.
    tells_committed: bool,
}

impl Server {
    fn new(tells_committed: bool) -> Self {
        let state = State {
            revision: 0,
            mirror: BTreeMap::new(),
            events: BTreeMap::new(),
            count: 0,
            half: SessionHalf::new(true),
            owners: vec![(7, 0)],
        };
        let (live, saved) = (state.clone(), state);
        Self { epoch: 7, live, saved, relay: None, down: VecDeque::new(), tells_committed }
    }

    fn greet(&mut self, hello: &Hello) {
        self.down.clear();
        let mut relay = ClientHalf::new();
        relay.begin(self.saved.half.last());
        self.relay = Some(relay);
        self.attach(hello.seen.map(|(epoch, revision)| (epoch.0, revision.0)));
    }

    /// Welcomes the client, which has seen that, and tells what it has not.
    fn attach(&mut self, seen: Option<(u64, u64)>) {
        let resumed = seen.filter(|(epoch, revision)| {
            let later = self.live.owners.iter().find(|(owner, _)| owner > epoch);
            later.is_none_or(|(_, base)| revision <= base)
        });
        let limits =
            Limits { message_bytes: 0, frame_bytes: 0, unacked_messages: 0, unacked_bytes: 0 };
        self.down.push_back(browser::welcome(&Welcome {
            session: "s".to_owned(),
            epoch: self.epoch,
            resumed: resumed.is_some(),
            applied: self.saved.half.last().map(|number| number.0),
            durability: Durability::Relaxed.into(),
            limits,
            worker: None,
        }));
        if seen.is_some() && resumed.is_none() {
            self.down.push_back(browser::reset(ResetReason::RolledBack));
        }
        let after = resumed.map_or(0, |(_, revision)| revision);
        let committed = self.saved.mirror.iter().filter(|_| self.tells_committed);
        let assigns = committed.chain(&self.live.mirror).map(|(key, (revision, value))| {
            (*revision, json!({"tag": "assign", "key": key, "value": value}))
        });
        let events = self.live.events.iter().map(|(revision, n)| (*revision, event(*n)));
        let all: BTreeMap<u64, Value> = assigns.chain(events).collect();
        all.range(after + 1..)
            .for_each(|(revision, body)| self.down.push_back(output(*revision, body)));
    }

    fn say(&mut self, body: &Value) -> u64 {
        self.live.revision += 1;
        if self.relay.is_some() {
            self.down.push_back(output(self.live.revision, body));
        }
        self.live.revision
    }

    fn assign(&mut self, key: &str, value: u64) {
        let revision = self.say(&json!({"tag": "assign", "key": key, "value": value}));
        self.live.mirror.insert(key.to_owned(), (revision, json!(value)));
    }

    fn receive(&mut self, text: &str) {
        match browser::parse(&Bytes::copy_from_slice(text.as_bytes())).expect("an envelope") {
            FromClient::Hello(hello) => self.greet(&hello),
            FromClient::Input(number, body) => {
                let Some(relay) = &mut self.relay else { return };
                let relayed = relay.relay(Input { number, binary: false, body });
                assert_ne!(relayed, Relayed::Gap, "the client skips to {number}");
                self.feed();
            }
            FromClient::Ack(epoch, revision) => {
                assert!(epoch.0 != self.epoch || revision.0 <= self.live.revision, "{text}");
            }
        }
    }

    fn feed(&mut self) {
        while let Some(relay) = &mut self.relay
            && let Some(input) = relay.next_to_send().cloned()
        {
            relay.sent();
            match self.live.half.receive(input.number) {
                Verdict::Apply => {
                    self.live.count += 1;
                    self.assign("count", self.live.count);
                    let revision = self.say(&event(input.number.0));
                    self.live.events.insert(revision, input.number.0);
                }
                Verdict::Duplicate => {}
                Verdict::Gap => panic!("{} comes too early", input.number),
            }
        }
    }

    fn commit(&mut self) {
        self.saved = self.live.clone();
        if let (Some(relay), Some(last)) = (&mut self.relay, self.saved.half.last()) {
            relay.acked(last).expect("it was sent");
            self.down.push_back(browser::ack(last));
        }
    }

    /// `seen`: what the gateway knows its client to have been sent.
    fn crash(&mut self) {
        let seen = Some((self.epoch, self.live.revision));
        self.live = self.saved.clone();
        self.epoch += 1;
        self.live.owners.push((self.epoch, self.live.revision));
        let applied = self.saved.half.last();
        if let Some(relay) = &mut self.relay {
            relay.attached(applied).expect("it was sent");
            self.attach(seen);
            self.feed();
        }
    }
}

fn output(revision: u64, body: &Value) -> Bytes {
    format!("[{revision},{body}]").into()
}

fn event(n: u64) -> Value {
    json!({"tag": "event", "n": n})
}

struct World {
    client: Core,
    server: Server,
    heard: BTreeSet<u64>,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Publish => drop(self.client.publish("{}")),
            Step::Say => self.say(),
            Step::Assign(key) => {
                let value = self.server.live.revision;
                self.server.assign(&format!("key-{}", key % 3), value);
            }
            Step::Commit => self.server.commit(),
            Step::Hear => self.hear(),
            Step::Break => {
                self.client.broken();
                self.server.relay = None;
                self.server.down.clear();
            }
            Step::Connect => {
                let hello = self.client.connected();
                self.server.receive(&hello);
            }
            Step::Crash => self.server.crash(),
        }
    }

    fn say(&mut self) {
        while let Some(text) = self.client.next_to_send() {
            self.server.receive(&text);
        }
        if let Some(ack) = self.client.ack() {
            self.server.receive(&ack);
        }
    }

    fn hear(&mut self) {
        let Some(text) = self.server.down.pop_front() else { return };
        let text = std::str::from_utf8(&text).expect("all of it is JSON");
        let heard = self.client.hear(text).unwrap_or_else(|fault| panic!("{fault} at {text}"));
        if let Heard::Output { body, .. } = heard
            && let Some(n) = body["n"].as_u64()
        {
            self.heard.insert(n);
        }
    }

    fn heal(&mut self) {
        self.step(Step::Connect);
        for _ in 0..3 {
            while !self.server.down.is_empty() {
                self.hear();
            }
            self.say();
            self.server.commit();
        }
        let has = self.server.live.mirror.iter();
        let has: BTreeMap<_, _> =
            has.map(|(key, (_, value))| (key.clone(), value.clone())).collect();
        assert_eq!(*self.client.mirror(), has);
        let published = self.client.published();
        assert_eq!((self.server.live.count, self.client.unacked()), (published, 0));
        assert!((1..=published).all(|n| self.heard.contains(&n)), "events are missing");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        4 => Just(Step::Say),
        3 => any::<u8>().prop_map(Step::Assign),
        2 => Just(Step::Commit),
        9 => Just(Step::Hear),
        1 => Just(Step::Break),
        2 => Just(Step::Connect),
        1 => Just(Step::Crash),
    ]
}

fn run(steps: Vec<Step>, tells_committed: bool) {
    let client = Core::new(None, "channel-1".parse().expect("a channel's id"));
    let server = Server::new(tells_committed);
    let mut world = World { client, server, heard: BTreeSet::new() };
    steps.into_iter().for_each(|step| world.step(step));
    world.heal();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_client_mirrors_its_session_and_is_applied_once_whatever_breaks(
        steps in vec(step(), 0..200)
    ) {
        run(steps, true);
    }
}

/// Who has half of a log in which a newer value has replaced a committed one, and then hears that
/// the session went back, misses the committed one.
#[test]
#[should_panic(expected = "left == right")]
fn a_committed_value_that_is_not_told_because_of_a_newer_one_is_missed_when_that_is_lost() {
    use Step::{Assign, Break, Commit, Connect, Crash, Hear, Publish, Say};
    let steps = vec![
        Connect,
        Assign(2),
        Publish,
        Hear,
        Say,
        Commit,
        Break,
        Assign(2),
        Connect,
        Hear,
        Hear,
        Crash,
    ];
    run(steps, false);
}

#[test]
fn a_server_that_breaks_the_protocol_is_at_fault() {
    let welcome = |resumed| {
        let limits =
            r#"{"message_bytes":0,"frame_bytes":0,"unacked_messages":0,"unacked_bytes":0}"#;
        format!(
            r#"["welcome",{{"session":"s","epoch":7,"resumed":{resumed},"applied":0,"durability":"relaxed","limits":{limits}}}]"#
        )
    };
    let told = |texts: &[&str]| {
        let mut client = Core::new(None, "channel-1".parse().expect("a channel's id"));
        client.connected();
        let heard: Result<Vec<_>, _> = texts.iter().map(|text| client.hear(text)).collect();
        heard
    };
    let (fresh, resumed) = (welcome(false), welcome(true));
    assert!(told(&[&fresh, "[1,{}]", "[3,{}]"]).is_ok());
    for texts in [
        &["[1,{}]"][..],
        &[&resumed],
        &[&fresh, "[2,{}]", "[2,{}]"],
        &[&fresh, r#"["ack",1]"#],
        &[&fresh, r#"["wat",1]"#],
        &[&fresh, "{}"],
    ] {
        assert!(told(texts).is_err(), "{texts:?}");
    }
}
