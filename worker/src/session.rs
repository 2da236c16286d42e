//! What an app author implements: [`Session`].

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Result;
use crate::context::Context;

/// One user's session: its whole state, and what it does with each message.
///
/// A worker runs one coroutine for each session. It calls these functions one at a time, so they
/// never race: whatever a handler awaits, no other function of the *same* session runs meanwhile,
/// and all *other* sessions go on. Work that keeps a CPU busy belongs in [`Context::compute`].
///
/// An `Err` is shown to the user as `{"tag":"error","error":…,"details":…}` and the session goes on
/// with whatever the handler had changed; check first, then change. A panic is reported in the same
/// way.
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
