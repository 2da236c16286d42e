//! Messages to the session itself, CPU work, and work beside the session with its [`Poster`].

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Context;
use crate::{Result, message};

impl Context {
    /// Sends `message` to this session itself after a while, in place of what was scheduled under
    /// the same `key`. Long work is a chain of such small steps: between any two, users are heard,
    /// and the work can be paused, changed and moved to another worker. What is scheduled is saved
    /// with the session; what comes due while no worker has it happens as soon as one has, and also
    /// when no tab is connected. Handlers of messages that were sent meanwhile come in between.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use serde::{Deserialize, Serialize};
    /// # use serde_json::json;
    /// # use single_state_worker::{Context, Result, Session, testing::TestSession};
    /// # #[derive(Default, Serialize, Deserialize)] struct Work { done: u32 }
    /// #[derive(Serialize, Deserialize)]
    /// #[serde(tag = "tag", rename_all = "snake_case")]
    /// enum Message {
    ///     Begin,
    ///     Pause,
    ///     #[serde(rename = "_step")] // only the session itself may send it
    ///     Step,
    /// }
    ///
    /// impl Session for Work {
    /// #   type Message = Message;
    ///     async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
    ///         match message {
    ///             Message::Begin => ctx.schedule("work", Duration::ZERO, &Message::Step),
    ///             Message::Pause => {
    ///                 ctx.unschedule("work");
    ///                 Ok(())
    ///             }
    ///             Message::Step => {
    ///                 self.done += 1;
    ///                 ctx.progress("progress", &json!({"done": self.done, "total": 100}))?;
    ///                 if self.done < 100 {
    ///                     ctx.schedule("work", Duration::from_millis(10), &Message::Step)?;
    ///                 }
    ///                 Ok(())
    ///             }
    ///         }
    ///     }
    /// }
    /// # let session = TestSession::<Work>::new();
    /// # session.send(json!({"tag": "begin"}));
    /// # session.advance(Duration::from_millis(105));
    /// # session.send(json!({"tag": "pause"}));
    /// # session.advance(Duration::from_secs(10));
    /// # assert_eq!(session.mirror()["progress"]["done"], 11);
    /// ```
    ///
    /// # Errors
    /// When `message` cannot be serialised.
    pub fn schedule(
        &mut self,
        key: &str,
        after: Duration,
        message: &(impl Serialize + ?Sized),
    ) -> Result<()> {
        let message = message::to_itself(&message)?;
        self.resident.touch();
        let due = (Instant::now() + after).into_std();
        self.timers.schedule(key, due, self.resident.epoch, message);
        Ok(())
    }

    /// Forgets what was scheduled under `key`; returns whether something was.
    pub fn unschedule(&mut self, key: &str) -> bool {
        self.timers.cancel(key)
    }

    /// Runs CPU work on a pool with as many threads as there are cores; the worker's event loop,
    /// and with it all other sessions, goes on. `value` is moved to the pool and back, so it need
    /// not be cloned; meanwhile its default stands in its place.
    ///
    /// The session itself hears nothing else until it is done: what users shall interrupt is cut into
    /// steps of [`Context::schedule`], of some 10 ms each. When the worker drains, it waits two seconds
    /// (`--handler-grace`), and then the handler is dropped and its message handled by the next owner.
    ///
    /// ```
    /// # use serde_json::{Value, json};
    /// # use single_state_worker::{Context, Result, Session, testing::TestSession};
    /// # #[derive(Default, serde::Serialize, serde::Deserialize)] struct Sorter { values: Vec<u32> }
    /// # impl Session for Sorter {
    /// #     type Message = Value;
    /// async fn handle(&mut self, _: Value, ctx: &mut Context) -> Result<()> {
    ///     let largest = ctx.compute(&mut self.values, |values| {
    ///         values.sort_unstable();
    ///         values.last().copied()
    ///     });
    ///     let largest = largest.await;
    ///     ctx.assign("largest", &largest)
    /// }
    /// # }
    /// # let session = TestSession::<Sorter>::new();
    /// # session.send(json!({"tag": "sort"}));
    /// # assert_eq!(session.mirror()["largest"], json!(null));
    /// ```
    ///
    /// # Panics
    /// When `work` panics, with the same panic; `value` is as `work` left it.
    pub async fn compute<T, R>(
        &self,
        value: &mut T,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> R
    where
        T: Default + Send + 'static,
        R: Send + 'static,
    {
        let Some(cores) = &self.host.cores else { return work(value) };
        // Never closed, so the permit always comes.
        let permit = cores.clone().acquire_owned().await;
        let mut taken = std::mem::take(value);
        let computation = tokio::task::spawn_blocking(move || {
            // It computes on when its handler is given up, and has its core until then.
            let _permit = permit;
            let result = catch_unwind(AssertUnwindSafe(|| work(&mut taken)));
            (taken, result)
        });
        match computation.await {
            Ok((returned, result)) => {
                *value = returned;
                result.unwrap_or_else(|panic| resume_unwind(panic))
            }
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    /// Runs `work` beside the session, in place of what ran under the same `name`; it reaches the
    /// session with a [`Poster`]. For waiting on something slow while users are heard: it runs on the
    /// worker's event loop, so it must not compute for long. It ends with the session's stay in
    /// memory, and is not saved: [`Session::started`] decides what to do again. An error of `work` is
    /// shown as an error of a handler is.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use serde::{Deserialize, Serialize};
    /// # use serde_json::json;
    /// # use single_state_worker::{Context, Result, Session, testing::TestSession};
    /// # #[derive(Default, Serialize, Deserialize)] struct Caller;
    /// # #[derive(Serialize, Deserialize)]
    /// # #[serde(tag = "tag", rename_all = "snake_case")]
    /// # enum Message { Ask, Cancel, #[serde(rename = "_answer")] Answer { text: String } }
    /// # async fn slow_service() -> Result<String> {
    /// #     tokio::time::sleep(Duration::from_secs(5)).await;
    /// #     Ok("42".to_owned())
    /// # }
    /// # impl Session for Caller {
    /// #     type Message = Message;
    /// async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
    ///     match message {
    ///         Message::Ask => {
    ///             let session = ctx.poster();
    ///             ctx.spawn("asking", async move {
    ///                 let text = slow_service().await?;
    ///                 session.post(&Message::Answer { text }).await
    ///             });
    ///             ctx.assign("state", "asking")
    ///         }
    ///         Message::Cancel => {
    ///             let state = if ctx.cancel("asking") { "cancelled" } else { "too late" };
    ///             ctx.assign("state", state)
    ///         }
    ///         Message::Answer { text } => ctx.assign("state", &text),
    ///     }
    /// }
    /// # }
    /// # let session = TestSession::<Caller>::new();
    /// # session.send(json!({"tag": "ask"}));
    /// # assert_eq!(session.mirror()["state"], "asking");
    /// # session.advance(Duration::from_secs(6));
    /// # assert_eq!(session.mirror()["state"], "42");
    /// # session.send(json!({"tag": "cancel"}));
    /// # assert_eq!(session.mirror()["state"], "too late");
    /// ```
    ///
    /// [`Session::started`]: crate::Session::started
    pub fn spawn(&mut self, name: &str, work: impl Future<Output = Result<()>> + 'static) {
        self.resident.touch();
        self.jobs.spawn(name, work, &self.resident, &self.host.running);
    }

    /// Ends the work that runs under `name` where it awaits; returns whether some did run.
    pub fn cancel(&mut self, name: &str) -> bool {
        self.jobs.cancel(name)
    }

    /// Sends messages to this session, for work that runs beside it.
    pub fn poster(&self) -> Poster {
        Poster { posts: self.resident.poster() }
    }
}

/// Sends messages to a session from work beside it; see [`Context::spawn`].
#[derive(Debug, Clone)]
pub struct Poster {
    posts: mpsc::Sender<Bytes>,
}

impl Poster {
    /// Sends `message`, reserved tags included. Waits while the session has many to handle.
    ///
    /// # Errors
    /// When `message` cannot be serialised, or the session has left memory.
    pub async fn post(&self, message: &(impl Serialize + ?Sized)) -> Result<()> {
        let message = message::to_itself(&message)?;
        self.posts.send(message).await.map_err(|_| anyhow!("the session has left memory"))
    }
}
