//! What the event loop runs now, for the watchdog to read from its own thread. Knows no limits and
//! no clock: each message pays for it with one lock that nobody else wants and a short copy.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use single_state_proto::id::SessionId;

use crate::message;

/// Messages up to this length are noted by a copy, which is cheaper than to count who holds them.
const COPIED: usize = 256;

/// A piece of app code as errors and logs call it; its name is made when somebody asks for it.
#[derive(Debug, Clone)]
pub(crate) struct What {
    kind: Kind,
    /// The message itself, or the name of the work.
    pub(crate) text: Bytes,
}

#[derive(Debug, Clone, Copy, Default)]
enum Kind {
    #[default]
    Started,
    Attached,
    Message,
    Binary,
    ToItself,
    Work,
}

impl What {
    /// The hook for a session that came into memory.
    pub(crate) fn started() -> Self {
        Self { kind: Kind::Started, text: Bytes::new() }
    }

    /// The hook for a tab that connected.
    pub(crate) fn attached() -> Self {
        Self { kind: Kind::Attached, text: Bytes::new() }
    }

    /// A browser's message.
    pub(crate) fn message(text: Bytes) -> Self {
        Self { kind: Kind::Message, text }
    }

    /// A browser's binary message.
    pub(crate) fn binary() -> Self {
        Self { kind: Kind::Binary, text: Bytes::new() }
    }

    /// A message that the session has scheduled or posted.
    pub(crate) fn to_itself(text: Bytes) -> Self {
        Self { kind: Kind::ToItself, text }
    }

    /// Work beside the session, by its name.
    pub(crate) fn work(name: &str) -> Self {
        Self { kind: Kind::Work, text: Bytes::copy_from_slice(name.as_bytes()) }
    }
}

impl Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[derive(Deserialize)]
        struct Tagged {
            tag: String,
        }
        match self.kind {
            Kind::Started => f.write_str("started"),
            Kind::Attached => f.write_str("attached"),
            Kind::Message => f.write_str(&message::label(&self.text)),
            Kind::Binary => f.write_str("a binary message"),
            Kind::ToItself => match rmp_serde::from_slice::<Tagged>(&self.text) {
                Ok(Tagged { tag }) => write!(f, "{tag:?} to itself"),
                Err(_) => f.write_str("a message to itself"),
            },
            Kind::Work => write!(f, "the work {:?}", String::from_utf8_lossy(&self.text)),
        }
    }
}

/// The event loop's side of the watchdog. Only the loop's thread changes it.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Rises whenever app code is entered or left, and with each beat; odd within app code.
    turn: AtomicU64,
    noted: Mutex<Noted>,
}

/// Who was entered last. Its buffers are used again and again.
#[derive(Debug, Default)]
struct Noted {
    session: String,
    kind: Kind,
    copied: Vec<u8>,
    /// In place of a copy; empty when there is one.
    long: Bytes,
}

/// App code runs until this is dropped.
struct Inside<'a> {
    running: &'a Running,
    long: bool,
}

impl Running {
    /// Runs app code to its end; while it waits for something, nothing of it counts as running.
    pub(crate) fn watch<'a, F: Future>(
        &'a self,
        session: &'a SessionId,
        what: &'a What,
        mut code: Pin<&'a mut F>,
    ) -> impl Future<Output = F::Output> + use<'a, F> {
        std::future::poll_fn(move |context| {
            let _inside = self.enter(session, what);
            code.as_mut().poll(context)
        })
    }

    fn enter(&self, session: &SessionId, what: &What) -> Inside<'_> {
        let long = what.text.len() > COPIED;
        self.noted().note(session, what, long);
        self.next_turn(1);
        Inside { running: self, long }
    }

    /// Nothing runs, and the event loop turns.
    pub(crate) fn beat(&self) {
        self.next_turn(2);
    }

    /// There is one writer, so this need not be one indivisible step.
    fn next_turn(&self, step: u64) {
        self.turn.store(self.turn.load(Ordering::Relaxed) + step, Ordering::Release);
    }

    /// A number that stays the same only while the loop does one and the same thing.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Whether app code runs in this turn.
    pub(crate) fn is_app(turn: u64) -> bool {
        turn % 2 == 1
    }

    /// Whose code runs in this turn; `None` when the turn is over or nobody's does.
    pub(crate) fn who(&self, turn: u64) -> Option<(String, What)> {
        let who = self.noted().read();
        // What is read here was written before the turn began, if that is still the turn.
        (Self::is_app(turn) && self.turn() == turn).then_some(who)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn note(&mut self, session: &SessionId, what: &What, long: bool) {
        self.session.clear();
        self.session.push_str(session.as_str());
        self.kind = what.kind;
        self.copied.clear();
        if long {
            self.long = what.text.clone();
        } else {
            self.copied.extend_from_slice(&what.text);
        }
    }

    fn read(&self) -> (String, What) {
        let copied = || Bytes::copy_from_slice(&self.copied);
        let text = if self.long.is_empty() { copied() } else { self.long.clone() };
        (self.session.clone(), What { kind: self.kind, text })
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.running.next_turn(1);
        if self.long {
            // It holds the buffer of the read that brought it.
            self.running.noted().long = Bytes::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn session() -> SessionId {
        "anna".parse().unwrap()
    }

    #[test]
    fn app_code_runs_while_it_is_polled_and_not_while_it_waits() {
        let (running, session) = (Running::default(), session());
        let what = What::message(Bytes::from_static(br#"{"tag":"train"}"#));
        let mut polls = 0;
        let code = std::pin::pin!(std::future::poll_fn(|_| {
            let turn = running.turn();
            let (who, what) = running.who(turn).unwrap();
            assert_eq!((who.as_str(), what.to_string().as_str()), ("anna", "\"train\""));
            assert!(running.who(turn + 2).is_none(), "another turn is not known");
            polls += 1;
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        }));
        let mut watched = std::pin::pin!(running.watch(&session, &what, code));
        let mut context = Context::from_waker(Waker::noop());
        let mut seen = running.turn();
        for expected in [Poll::Pending, Poll::Ready(())] {
            assert_eq!(watched.as_mut().poll(&mut context), expected);
            assert!(!Running::is_app(running.turn()) && running.who(running.turn()).is_none());
            assert_ne!(std::mem::replace(&mut seen, running.turn()), running.turn());
        }
    }

    #[test]
    fn a_message_of_any_length_is_known_and_not_kept() {
        let (running, session) = (Running::default(), session());
        for padding in [0, 1_000_000, 0] {
            let text = format!(r#"{{"padding":"{}","tag":"train"}}"#, "x".repeat(padding));
            let what = What::message(text.into());
            let inside = running.enter(&session, &what);
            let (_, seen) = running.who(running.turn()).unwrap();
            assert_eq!((seen.to_string(), &seen.text), ("\"train\"".to_owned(), &what.text));
            drop((inside, seen));
            assert!(what.text.is_unique(), "the read's buffer can be used again");
        }
    }

    #[test]
    fn app_code_that_panics_runs_no_more() {
        let (running, session) = (Running::default(), session());
        let code = std::pin::pin!(async { panic!("asked to") });
        let what = What::started();
        let mut watched = Box::pin(running.watch(&session, &what, code));
        let mut context = Context::from_waker(Waker::noop());
        let poll = std::panic::AssertUnwindSafe(|| watched.as_mut().poll(&mut context));
        assert!(std::panic::catch_unwind(poll).is_err());
        assert!(!Running::is_app(running.turn()));
        running.beat();
        assert!(!Running::is_app(running.turn()));
    }

    #[test]
    fn every_piece_of_app_code_has_a_name() {
        let step = message::to_itself(&serde_json::json!({"tag": "_step", "n": 1})).unwrap();
        for (what, name) in [
            (What::started(), "started"),
            (What::attached(), "attached"),
            (What::message(Bytes::from_static(b"{")), "a message"),
            (What::binary(), "a binary message"),
            (What::to_itself(step), "\"_step\" to itself"),
            (What::to_itself(Bytes::new()), "a message to itself"),
            (What::work("upload"), "the work \"upload\""),
        ] {
            assert_eq!(what.to_string(), name);
        }
    }
}
