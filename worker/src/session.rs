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

    /// Handles one message.
    fn handle(
        &mut self,
        message: Self::Message,
        ctx: &mut Context,
    ) -> impl Future<Output = Result<()>>;

    /// The session has come into memory, new or loaded: rebuild what is not saved.
    fn started(&mut self, ctx: &mut Context) -> impl Future<Output = Result<()>> {
        let _ = ctx;
        async { Ok(()) }
    }

    /// A tab has connected. It gets all assigned keys by itself.
    fn attached(&mut self, ctx: &mut Context) -> impl Future<Output = Result<()>> {
        let _ = ctx;
        async { Ok(()) }
    }

    /// A tab sent `{"tag":"assign","key":…,"value":…}`. Accepts it into the mirrored state unless
    /// overridden.
    fn assign(
        &mut self,
        key: String,
        value: Value,
        ctx: &mut Context,
    ) -> impl Future<Output = Result<()>> {
        async move { ctx.accept(&key, &value) }
    }

    /// A tab sent a binary message. Refused unless overridden.
    fn binary(&mut self, bytes: Bytes, ctx: &mut Context) -> impl Future<Output = Result<()>> {
        let _ = (bytes, ctx);
        async { anyhow::bail!("this app takes no binary messages") }
    }
}
