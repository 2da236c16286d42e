//! What an app author implements: [`Session`].

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Result;
use crate::context::Context;
use crate::snapshot::Saved;

/// One user's session: its whole state, and what it does with each message.
///
/// A worker runs one coroutine for each session. It calls these functions one at a time, so they
/// never race: whatever a handler awaits, no other function of the *same* session runs meanwhile,
/// and all *other* sessions go on. Work that keeps a CPU busy belongs in [`Context::compute`].
///
/// The state is saved between handlers, as serde writes it; `#[serde(skip)]` leaves out what
/// [`Session::started`] can make again. So a session outlives its worker: whoever has it next goes
/// on from the last save, and messages that are not in it are handled again.
///
/// An `Err` is shown to the user as `{"tag":"error","error":…,"details":…}` and the session goes on
/// with whatever the handler had changed; check first, then change. A panic takes the session back
/// to its last save, the messages since then are handled again, and the one that panicked is
/// reported instead. (In the durability mode `memory` the session stays as it is.)
///
/// ```
/// use single_state_worker::{Context, Result, Session};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter { count: i64 }
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(tag = "tag", rename_all = "snake_case")]
/// enum Message { Add { n: i64 } }
///
/// impl Session for Counter {
///     type Message = Message;
///
///     async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
///         match message {
///             Message::Add { n } => self.count += n,
///         }
///         ctx.assign("count", &self.count)
///     }
/// }
/// ```
pub trait Session: Default + Serialize + DeserializeOwned + 'static {
    /// What browsers may send, and what the session may [`schedule`](Context::schedule) or
    /// [`post`](crate::Poster::post) to itself. An enum with `#[serde(tag = "tag")]`; also
    /// `serde_json::Value`. Tags that begin with `_` are refused from browsers.
    type Message: DeserializeOwned + 'static;

    /// Version of the saved state. To be raised when the type changes such that serde cannot read
    /// what the version before has written; then [`Session::migrate`] reads it. A worker leaves
    /// alone what a higher version has saved: workers of two versions may run side by side.
    const VERSION: u32 = 1;

    /// Reads state that the lower version `from` of the app has saved. Unless overridden, what
    /// serde can read fits: fields with a default may have been added, others dropped.
    ///
    /// ```
    /// # use single_state_worker::{Context, Result, Saved, Session};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Counter { counts: Vec<i64> }
    ///
    /// impl Session for Counter {
    ///     const VERSION: u32 = 2;
    ///
    ///     fn migrate(_from: u32, saved: &Saved) -> Result<Self> {
    ///         #[derive(Deserialize)]
    ///         struct Counter1 { count: i64 }
    ///         let Counter1 { count } = saved.read()?;
    ///         Ok(Counter { counts: vec![count] })
    ///     }
    /// #   type Message = serde_json::Value;
    /// #   async fn handle(&mut self, _: serde_json::Value, _: &mut Context) -> Result<()> { Ok(()) }
    /// }
    /// ```
    ///
    /// # Errors
    /// When the state cannot be read: the session is quarantined, and its state kept as it is
    /// (`--on-unreadable`).
    fn migrate(from: u32, saved: &Saved) -> Result<Self> {
        let _ = from;
        saved.read()
    }

    /// Handles one message: of a tab, or of the session to itself. Messages of one tab come in the
    /// order in which it sent them.
    ///
    /// A message whose tag or fields do not fit [`Session::Message`] never gets here: its sender is
    /// told what is wrong with it.
    ///
    /// # Errors
    /// What the user is to be told: `bail!("…")`, `ensure!(…, "…")`, or any error with `?`. Its first
    /// sentence is `error`, its causes are in `details`.
    fn handle(
        &mut self,
        message: Self::Message,
        ctx: &mut Context,
    ) -> impl Future<Output = Result<()>>;

    /// The session has come into memory: it is new, or was loaded by this worker, after a restart, a
    /// move or a long pause. Rebuild what serde skips, assign what tabs shall see, and
    /// [`spawn`](Context::spawn) again what shall go on. What was scheduled is there already.
    ///
    /// # Errors
    /// They are shown as those of a handler are, and the session goes on.
    fn started(&mut self, ctx: &mut Context) -> impl Future<Output = Result<()>> {
        let _ = ctx;
        async { Ok(()) }
    }

    /// A tab has connected, or has come back. It gets all assigned keys by itself; this is for what
    /// goes beyond, such as counting [`Context::tabs`].
    ///
    /// # Errors
    /// They are shown as those of a handler are, and the tab stays.
    fn attached(&mut self, ctx: &mut Context) -> impl Future<Output = Result<()>> {
        let _ = ctx;
        async { Ok(()) }
    }

    /// A tab sent `{"tag":"assign","key":…,"value":…}`. Unless overridden,
    /// [accepts](Context::accept) it into the mirrored state, which all tabs then show. Override it to
    /// check values, or to keep pages from setting what is the session's to say:
    ///
    /// ```
    /// # use serde_json::{Value, json};
    /// # use single_state_worker::{Context, Result, Session, bail, testing::TestSession};
    /// # #[derive(Default, serde::Serialize, serde::Deserialize)] struct Training { rate: f64 }
    /// impl Session for Training {
    ///     async fn assign(&mut self, key: String, value: Value, ctx: &mut Context) -> Result<()> {
    ///         match (key.as_str(), value.as_f64()) {
    ///             ("rate", Some(rate)) if rate > 0.0 => self.rate = rate,
    ///             _ => bail!("only a positive rate may be set"),
    ///         }
    ///         ctx.accept(&key, &value)
    ///     }
    /// #   type Message = Value;
    /// #   async fn handle(&mut self, _: Value, _: &mut Context) -> Result<()> { Ok(()) }
    /// }
    /// # let session = TestSession::<Training>::new();
    /// # session.send(json!({"tag": "assign", "key": "rate", "value": 0.5}));
    /// # session.send(json!({"tag": "assign", "key": "loss", "value": 0}));
    /// # assert_eq!(session.mirror()["rate"], 0.5);
    /// # assert!(!session.mirror().contains_key("loss"));
    /// ```
    ///
    /// # Errors
    /// As for [`Session::handle`]; the tab then shows again what the session has.
    fn assign(
        &mut self,
        key: String,
        value: Value,
        ctx: &mut Context,
    ) -> impl Future<Output = Result<()>> {
        async move { ctx.accept(&key, &value) }
    }

    /// A tab sent a binary message: its bytes, as they were given to `publish()` or to a websocket's
    /// `send()`. Refused unless overridden. What is large and shall stay belongs in
    /// [`Context::keep`].
    ///
    /// # Errors
    /// As for [`Session::handle`].
    fn binary(&mut self, bytes: Bytes, ctx: &mut Context) -> impl Future<Output = Result<()>> {
        let _ = (bytes, ctx);
        async { anyhow::bail!("this app takes no binary messages") }
    }
}
