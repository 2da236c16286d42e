//! What a handler can do: [`Context`]. What users see and who asks is here, time and work in `work.rs`,
//! large inputs in `kept.rs`.

mod kept;
mod work;

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use single_state_proto::id::{Epoch, InputNumber};

use crate::host::Host;
use crate::jobs::Jobs;
use crate::metrics::Arrival;
use crate::output::Leaves;
use crate::resident::{ChannelKey, Plans, Resident};
use crate::timers::Timers;
use crate::{Result, message};

pub use self::work::Poster;

/// Keys that browsers may assign …
const MAX_KEYS: usize = 1024;
/// … and bytes of all mirrored values together.
const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// A session's view of its tabs, its time and its worker; every handler gets one.
pub struct Context {
    pub(crate) resident: Rc<Resident>,
    pub(crate) host: Rc<Host>,
    pub(crate) timers: Timers,
    jobs: Jobs,
    /// Why the current handler runs.
    pub(crate) cause: Cause,
    /// When the newest input came; here it takes room that is there anyway.
    pub(crate) arrival: Arrival,
    /// The last handler was a timer's: other work comes next.
    pub(crate) timer_had_its_turn: bool,
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
        let (jobs, cause, arrival) = (Jobs::default(), Cause::Hook, Arrival::default());
        let (timer_had_its_turn, ended) = (false, false);
        Self { resident, host, timers, jobs, cause, arrival, timer_had_its_turn, ended }
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
