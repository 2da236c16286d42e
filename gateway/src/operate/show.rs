//! `topology show`: the workers, and who owns a session and why.

use std::io::{self, Write};

use serde::Serialize;
use single_state_proto::id::{SessionId, WorkerIndex};
use single_state_proto::placement::{Placement, PlacementKey};
use single_state_proto::topology::Topology;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    generation: u64,
    placement: String,
    workers: &'a [String],
    down: Vec<u16>,
    sessions: Vec<Session<'a>>,
    #[serde(skip)]
    topology: &'a Topology,
    #[serde(skip)]
    has_default_key: bool,
}

#[derive(Debug, Serialize)]
struct Session<'a> {
    session: &'a str,
    /// `None`: there is no worker that is not down, and the session waits.
    owner: Option<u16>,
    address: Option<&'a str>,
    /// Up to the one that names the owner.
    attempts: Vec<Tried>,
}

#[derive(Debug, Serialize)]
struct Tried {
    attempt: u8,
    /// Decimal digits, because not every reader of JSON has whole numbers of 64 bits.
    hash: String,
    worker: u16,
    down: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn new(
        topology: &'a Topology,
        key: &PlacementKey,
        sessions: &'a [SessionId],
        down: &[WorkerIndex],
    ) -> Self {
        let sessions = sessions.iter().map(|id| Session::new(topology, key, id, down));
        Self {
            generation: topology.generation().0,
            placement: topology.placement().to_string(),
            workers: topology.workers(),
            down: down.iter().map(|index| index.0).collect(),
            sessions: sessions.collect(),
            topology,
            has_default_key: key.is_default(),
        }
    }

    /// For people.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", super::summary(self.topology))?;
        for (index, address) in (0..).zip(self.workers) {
            let down = if self.down.contains(&index) { "  down" } else { "" };
            writeln!(out, "  worker {index}  {address}{down}")?;
        }
        if self.has_default_key && !self.sessions.is_empty() {
            writeln!(out, "with the public default key; a cluster's own is --placement-key")?;
        }
        let workers = self.workers.len();
        let function = match self.topology.placement() {
            Placement::Modulo => format!("mod {workers}"),
            Placement::Jump => format!("jump {workers}"),
        };
        self.sessions.iter().try_for_each(|session| session.write(&function, out))
    }
}

impl<'a> Session<'a> {
    fn new(
        topology: &'a Topology,
        key: &PlacementKey,
        id: &'a SessionId,
        down: &[WorkerIndex],
    ) -> Self {
        let owner = topology.owner(key, id, |index| down.contains(&index));
        let mut attempts = Vec::new();
        for attempt in topology.placement().attempts(key, id, topology.workers().len()) {
            // Without an owner the home is all there is to say.
            if owner.is_none() && attempt.number > 0 {
                break;
            }
            let (number, hash, worker) = (attempt.number, attempt.hash, attempt.worker);
            let down = down.contains(&worker);
            let hash = hash.to_string();
            attempts.push(Tried { attempt: number, hash, worker: worker.0, down });
            if !down {
                break;
            }
        }
        let address = owner.and_then(|index| topology.workers().get(usize::from(index.0)));
        Self {
            session: id.as_str(),
            owner: owner.map(|index| index.0),
            address: address.map(String::as_str),
            attempts,
        }
    }

    fn write(&self, function: &str, out: &mut impl Write) -> io::Result<()> {
        match (self.owner, self.address) {
            (Some(owner), Some(address)) => {
                writeln!(out, "session {}: worker {owner}, {address}", self.session)?;
            }
            _ => writeln!(out, "session {}: no worker, it waits until there is one", self.session)?,
        }
        for Tried { attempt, hash, worker, down } in &self.attempts {
            let down = if *down { ", down" } else { "" };
            writeln!(out, "  attempt {attempt}: hash {hash} {function} = {worker}{down}")?;
        }
        if self.owner.is_some() && self.attempts.last().is_some_and(|last| last.down) {
            writeln!(out, "  after all attempts: the lowest index that is not down")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use single_state_proto::id::Generation;

    use super::*;

    fn topology(placement: Placement, workers: u16) -> Topology {
        let workers = (0..workers).map(|index| format!("w{index}:7000")).collect();
        Topology::new(Generation(2), placement, workers).unwrap()
    }

    fn shown(topology: &Topology, sessions: &[&str], down: &[u16]) -> (String, Value) {
        let sessions: Vec<_> = sessions.iter().map(|id| id.parse().unwrap()).collect();
        let down: Vec<_> = down.iter().copied().map(WorkerIndex).collect();
        let key = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let shown = Shown::new(topology, &key, &sessions, &down);
        let mut text = Vec::new();
        shown.write(&mut text).unwrap();
        (String::from_utf8(text).unwrap(), serde_json::to_value(&shown).unwrap())
    }

    #[test]
    fn a_session_has_the_owner_that_the_arithmetic_of_its_last_attempt_gives() {
        let topology = topology(Placement::Modulo, 3);
        let (text, document) = shown(&topology, &["alice"], &[]);
        let session = &document["sessions"][0];
        let hash: u64 = session["attempts"][0]["hash"].as_str().unwrap().parse().unwrap();
        assert_eq!(session["owner"], hash % 3);
        let owner = hash % 3;
        let expected = format!(
            "generation 2, placement modulo, 3 workers\n  worker 0  w0:7000\n  worker 1  w1:7000\n  \
             worker 2  w2:7000\nsession alice: worker {owner}, w{owner}:7000\n  \
             attempt 0: hash {hash} mod 3 = {owner}\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn attempts_whose_worker_is_down_are_passed_over() {
        let topology = topology(Placement::Jump, 3);
        let home = shown(&topology, &["alice"], &[]).1["sessions"][0]["owner"].clone();
        let down = home.as_u64().unwrap() as u16;
        let (text, document) = shown(&topology, &["alice"], &[down]);
        let session = &document["sessions"][0];
        let attempts = session["attempts"].as_array().unwrap();
        assert!(attempts.len() > 1, "{document}");
        assert_eq!((&attempts[0]["worker"], &attempts[0]["down"]), (&home, &json!(true)));
        let last = attempts.last().unwrap();
        assert_eq!((&last["worker"], &last["down"]), (&session["owner"], &json!(false)));
        assert_ne!(session["owner"], home);
        assert!(text.contains(&format!(" jump 3 = {home}, down\n")), "{text}");
    }

    #[test]
    fn without_a_worker_that_is_up_a_session_waits() {
        for (workers, down) in [(0, &[][..]), (2, &[0, 1])] {
            let (text, document) = shown(&topology(Placement::Modulo, workers), &["a"], down);
            assert!(text.contains("session a: no worker, it waits"), "{text}");
            let session = &document["sessions"][0];
            assert_eq!((&session["owner"], &session["address"]), (&Value::Null, &Value::Null));
        }
    }
}
