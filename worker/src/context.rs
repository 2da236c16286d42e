//! What a handler can do: [`Context`], and [`Poster`] for work beside the session.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use single_state_proto::id::{Epoch, InputNumber};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::Result;
use crate::host::Host;
use crate::jobs::Jobs;
use crate::message;
use crate::output::Leaves;
use crate::resident::{ChannelKey, Plans, Resident};
use crate::timers::Timers;

/// Keys that browsers may assign …
const MAX_KEYS: usize = 1024;
/// … and bytes of all mirrored values together.
const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// While the store is away, what is kept there is asked for again so often.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Longest large input, in bytes.
const MAX_KEPT: usize = 64 * 1024 * 1024;
/// Longest name of one, in bytes.
const MAX_KEPT_NAME: usize = 200;

/// A session's view of its tabs, its time and its worker; every handler gets one.
pub struct Context {
    pub(crate) resident: Rc<Resident>,
    pub(crate) host: Rc<Host>,
    pub(crate) timers: Timers,
    jobs: Jobs,
    /// Why the current handler runs.
    pub(crate) cause: Cause,
    /// The last handler was a timer's: other work comes next.
    pub(crate) timer_had_its_turn: bool,
    /// The session has killed owners: while it holds this, no other such session is fed (R10).
    pub(crate) suspect: Option<OwnedSemaphorePermit>,
    pub(crate) ended: bool,
}

/// Why a handler runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cause {
    /// The session came into memory, or a tab connected.
    Hook,
    Input(ChannelKey, InputNumber),
    /// The so many-th scheduled message, and the epoch in which it was scheduled.
    Timer(u64, Epoch),
    /// The so many-th posted message.
    Post(u64),
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("session", &self.resident.id).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(resident: Rc<Resident>, host: Rc<Host>, timers: Timers) -> Self {
        let (jobs, cause) = (Jobs::default(), Cause::Hook);
        let (timer_had_its_turn, suspect, ended) = (false, None, false);
        Self { resident, host, timers, jobs, cause, timer_had_its_turn, suspect, ended }
    }

    /// What the session will do by itself.
    pub(crate) fn plans(&self) -> Plans {
        Plans { next_due: self.timers.next_due(), jobs: self.jobs.are_running() }
    }

    // --- what users see -------------------------------------------------------------------------

    /// Sets `key` of the mirrored state to whatever serde makes of `value`: every tab gets
    /// `{"tag":"assign","key":…,"value":…}`, now or as soon as it can take it, and every later tab when it connects. A tab that is slow gets
    /// the newest value only. NaN and infinities become `null`, as JSON has none.
    ///
    /// Mirrored values are saved with the session, beside its state, and count towards its size.
    ///
    /// # Errors
    /// When `value` has no JSON form, or its message is longer than `--max-output-bytes` (16 MiB).
    pub fn assign(&self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.set(key, &value, self.resident.leaves())
    }

    fn set(&self, key: &str, value: &impl Serialize, leaves: Leaves) -> Result<()> {
        let (body, value_at) = message::assign(key, value)?;
        self.check_length(&body, || format!("assign {key:?}"))?;
        self.resident.with_log(|log| log.assign(key, body, value_at, leaves));
        Ok(())
    }

    /// Like [`Context::assign`] for values that merely report how far something is: they leave at
    /// once in every durability mode, before what they report is committed.
    ///
    /// Pages may show any form; the gateway's own page draws `{"done": …, "total": …}` as a bar with
    /// the time that is left.
    ///
    /// # Errors
    /// As for [`Context::assign`].
    pub fn progress(&self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.set(key, &value, Leaves::Unconfirmed)
    }

    /// Sends an event to every tab that is connected, or was within the last two minutes: a message
    /// with a `tag` of the app's own. Unlike an assigned key, tabs that connect later do not get it.
    /// A tab sees it once in the mode `durable`; in `relaxed` it may come again when the worker died
    /// before its cause was saved.
    ///
    /// # Errors
    /// When `message` is not a JSON object with a string `tag`, when the tag is reserved (it begins
    /// with `_`), or when it is longer than `--max-output-bytes`.
    pub fn send(&self, message: &(impl Serialize + ?Sized)) -> Result<()> {
        let body = message::event(&message)?;
        self.check_length(&body, || "send".to_owned())?;
        let leaves = self.resident.leaves();
        self.resident.with_log(|log| log.event(false, body, leaves));
        Ok(())
    }

    /// Sends bytes to every tab that is connected, as a binary message.
    ///
    /// # Errors
    /// When they are more than `--max-output-bytes`.
    pub fn send_binary(&self, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        self.check_length(&bytes, || "send_binary".to_owned())?;
        let leaves = self.resident.leaves();
        self.resident.with_log(|log| log.event(true, bytes, leaves));
        Ok(())
    }

    /// The current value of a mirrored key, whoever has set it; `None` if nobody has.
    ///
    /// # Errors
    /// When the value is no `T`.
    pub fn assigned<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.resident.with_log(|log| log.value(key));
        value
            .map(|json| serde_json::from_slice(&json))
            .transpose()
            .map_err(|error| anyhow!("the value of {key:?}: {error}"))
    }

    /// Takes a tab's value into the mirrored state, which is what [`Session::assign`] does unless
    /// the app has its own. A value that changes nothing goes nowhere.
    ///
    /// [`Session::assign`]: crate::Session::assign
    ///
    /// # Errors
    /// When there are more than 1,024 keys, or more than 4 MiB of values.
    pub fn accept(&self, key: &str, value: &Value) -> Result<()> {
        let (body, value_at) = message::assign(key, value)?;
        let new = &body[value_at..body.len() - 1];
        let old = self.resident.with_log(|log| log.value(key));
        if old.as_deref() == Some(new) {
            return Ok(());
        }
        let (keys, bytes) = self.resident.with_log(|log| log.values());
        if old.is_none() && keys >= MAX_KEYS {
            bail!("assign {key:?}: a session mirrors at most {MAX_KEYS} keys");
        }
        if bytes + body.len() - old.map_or(0, |old| old.len()) > MAX_VALUE_BYTES {
            bail!("assign {key:?}: a session mirrors at most {MAX_VALUE_BYTES} bytes");
        }
        let leaves = self.resident.leaves();
        self.resident.with_log(|log| log.assign(key, body, value_at, leaves));
        Ok(())
    }

    fn check_length(&self, body: &Bytes, what: impl Fn() -> String) -> Result<()> {
        let (length, limit) = (body.len(), self.host.rules.max_output_bytes);
        if length > limit {
            bail!("{}: {length} bytes are too long for one message, allowed are {limit}", what());
        }
        Ok(())
    }

    // --- time and work --------------------------------------------------------------------------

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

    // --- large inputs ---------------------------------------------------------------------------

    /// Keeps a large input, an upload for instance, under `name`: it is stored once, together with
    /// the next save, and not in each. Up to 64 MiB; what was kept under the name is replaced. It
    /// goes when the session does.
    ///
    /// ```
    /// # use serde_json::{Value, json};
    /// # use single_state_worker::{Bytes, Context, Result, Session, testing::TestSession};
    /// #[derive(Default, serde::Serialize, serde::Deserialize)]
    /// struct Reader {
    ///     #[serde(skip)] // read again in `started`
    ///     lines: Vec<String>,
    /// }
    ///
    /// # fn read(upload: &[u8]) -> Vec<String> {
    /// #     String::from_utf8_lossy(upload).lines().map(str::to_owned).collect()
    /// # }
    /// impl Session for Reader {
    ///     async fn started(&mut self, ctx: &mut Context) -> Result<()> {
    ///         if let Some(upload) = ctx.kept("upload").await {
    ///             self.lines = read(&upload);
    ///         }
    ///         ctx.assign("lines", &self.lines.len())
    ///     }
    ///
    ///     async fn binary(&mut self, upload: Bytes, ctx: &mut Context) -> Result<()> {
    ///         self.lines = read(&upload);
    ///         ctx.keep("upload", upload)?;
    ///         ctx.assign("lines", &self.lines.len())
    ///     }
    /// #   type Message = Value;
    /// #   async fn handle(&mut self, _: Value, _: &mut Context) -> Result<()> { Ok(()) }
    /// }
    /// # let session = TestSession::<Reader>::new();
    /// # session.send_binary("one\ntwo");
    /// # session.crash();
    /// # assert_eq!(session.mirror()["lines"], 2);
    /// ```
    ///
    /// # Errors
    /// When the bytes, or the name (200 bytes, no NUL), are too long.
    pub fn keep(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        check_kept_name(name)?;
        if bytes.len() > MAX_KEPT {
            bail!("keep {name:?}: {} bytes are too long, allowed are {MAX_KEPT}", bytes.len());
        }
        self.resident.keep(name, Some(bytes));
        Ok(())
    }

    /// What is kept under `name`; `None` if nothing is. While the store is away it waits.
    pub async fn kept(&self, name: &str) -> Option<Bytes> {
        if let Some(unsaved) = self.resident.unsaved_input(name) {
            return unsaved;
        }
        if !self.resident.has_row() || check_kept_name(name).is_err() {
            return None;
        }
        loop {
            match self.host.store.kept(&self.resident.id, name).await {
                Ok(kept) => return kept,
                Err(error) => {
                    tracing::debug!(session.id = self.session_id(), %error, "read what is kept");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// Forgets what is kept under `name`.
    pub fn forget(&self, name: &str) {
        if check_kept_name(name).is_ok() {
            self.resident.keep(name, None);
        }
    }

    // --- who and where --------------------------------------------------------------------------

    /// The session's id.
    pub fn session_id(&self) -> &str {
        self.resident.id.as_str()
    }

    /// Number of tabs that are connected to the session now, to whichever gateway.
    pub fn tabs(&self) -> usize {
        self.resident.tabs()
    }

    /// Index of the worker that owns the session now, from 0 on.
    pub fn worker_index(&self) -> u16 {
        self.host.index.0
    }

    /// Number of this ownership of the session; rises whenever it is taken over.
    pub fn epoch(&self) -> u64 {
        let Epoch(epoch) = self.resident.epoch;
        epoch
    }

    /// What [`App::new`](crate::App::new) got: loaded once, shared by all sessions of the worker.
    /// Cheap: it is counted, not copied. In tests:
    /// [`TestSession::with_shared`](crate::testing::TestSession::with_shared).
    ///
    /// ```
    /// # use serde_json::{Value, json};
    /// # use single_state_worker::{Context, Result, Session, testing::TestSession};
    /// struct Model { slope: f64 }
    ///
    /// # #[derive(Default, serde::Serialize, serde::Deserialize)] struct Predictor;
    /// # #[derive(serde::Deserialize)]
    /// # #[serde(tag = "tag", rename_all = "snake_case")]
    /// # enum Message { Predict { x: f64 } }
    /// # impl Session for Predictor {
    /// #     type Message = Message;
    /// async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
    ///     let model = ctx.shared::<Model>(); // of App::new(Model { … })
    ///     let Message::Predict { x } = message;
    ///     ctx.assign("y", &(model.slope * x))
    /// }
    /// # }
    /// # let session = TestSession::<Predictor>::with_shared(Model { slope: 2.0 });
    /// # session.send(json!({"tag": "predict", "x": 3.0}));
    /// # assert_eq!(session.mirror()["y"], 6.0);
    /// ```
    ///
    /// # Panics
    /// When that is no `T`.
    pub fn shared<T: Send + Sync + 'static>(&self) -> Arc<T> {
        match self.host.shared.clone().downcast::<T>() {
            Ok(shared) => shared,
            Err(_) => panic!("App::new was not given a {}", std::any::type_name::<T>()),
        }
    }

    /// A text for calls to the outside that must take effect once: the same whenever a browser's
    /// input is handled again, after a crash for instance, and different for every other input.
    /// Messages of the session to itself have one each; all hooks of one ownership share one.
    pub fn idempotency_key(&self) -> String {
        let session = &self.resident.id;
        match self.cause {
            Cause::Hook => format!("{session}/epoch/{}", self.resident.epoch),
            Cause::Input(key, number) => match self.resident.channel_id(key) {
                Some(channel) => format!("{session}/input/{channel}/{number}"),
                None => format!("{session}/input/{}/{key:?}/{number}", self.resident.epoch),
            },
            Cause::Timer(number, epoch) => format!("{session}/timer/{epoch}/{number}"),
            Cause::Post(number) => format!("{session}/post/{}/{number}", self.resident.epoch),
        }
    }

    /// Ends the session after this handler: its state is deleted and its tabs are closed. Whoever
    /// comes back with its id starts from nothing.
    pub fn end(&mut self) {
        self.ended = true;
    }
}

fn check_kept_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_KEPT_NAME || name.contains('\0') {
        bail!("keep: a name has 1 to {MAX_KEPT_NAME} bytes and no NUL");
    }
    Ok(())
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
