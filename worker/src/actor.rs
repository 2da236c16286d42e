//! The coroutine of one session: waits for one thing to do, does it, and never dies of it.
//!
//! ```text
//!   started ──▶ wait for: a tab · an input · a post · a timer ──▶ handler ──┐
//!                 ▲      · a snapshot is wanted                             │ outputs leave whenever
//!                 └─────────────────────────────────────────────────────────┘ the coroutine pauses
//! ```
//!
//! The only place where app code is called. A handler that panics may leave half of a change: then
//! the memory is given up, and the session is loaded again as it was last committed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use single_state_node::turn::give_way;
use single_state_proto::channel::Input;
use single_state_proto::frame::Durability;
use single_state_store::Standing;
use tokio::time::Instant;

use crate::context::{Cause, Context};
use crate::host::Host;
use crate::message::{self, FromBrowser};
use crate::output::Leaves;
use crate::resident::{ChannelKey, Poison, PoisonKind, Resident, Work};
use crate::running::What;
use crate::session::Session;
use crate::snapshot::{self, Saved, Unreadable};
use crate::timers::{Planned, Timers};
use crate::{Error, Result};

/// While the store is away, what depends on it is tried again so often.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Authors hear of states that are longer than this; each save writes them whole.
const LARGE_STATE: usize = 1024 * 1024;

/// What a call of app code came to: its result, or what it panicked with.
pub(crate) type Outcome = std::result::Result<Result<()>, Box<dyn Any + Send>>;

/// A session's life in memory.
pub(crate) type Coroutine = Pin<Box<dyn Future<Output = End>>>;

/// How a session left memory.
#[derive(Debug)]
pub(crate) enum End {
    /// It was not needed any more, and the store has everything.
    Stopped,
    /// The app has ended it: it is to be deleted.
    Deleted,
    /// A handler panicked: memory is to be thrown away.
    Panicked(Poison),
    /// A later owner has it.
    Fenced,
    /// Its state could not be read back.
    Unreadable(Unreadable),
}

/// A session's own part of its snapshot.
pub(crate) struct Loaded {
    pub(crate) app: Saved,
    pub(crate) app_version: u32,
    pub(crate) timers: Timers,
}

/// Makes the coroutine of a session, which outputs leave whenever it pauses, so that what one
/// handler assigns many times goes out once.
pub(crate) fn start<S: Session>(
    resident: Rc<Resident>,
    host: Rc<Host>,
    loaded: Option<Loaded>,
) -> std::result::Result<Coroutine, Unreadable> {
    let (app, timers) = match loaded {
        Some(Loaded { app, app_version, timers }) => (read::<S>(&app, app_version)?, timers),
        None => (S::default(), Timers::default()),
    };
    let mut coroutine = Box::pin(live(app, timers, resident.clone(), host));
    Ok(Box::pin(std::future::poll_fn(move |context| {
        let progress = coroutine.as_mut().poll(context);
        resident.pump_all();
        progress
    })))
}

/// Reads an app's state, which any version of it may have written.
fn read<S: Session>(saved: &Saved, from: u32) -> std::result::Result<S, Unreadable> {
    let read = || if from == S::VERSION { saved.read() } else { S::migrate(from, saved) };
    let wrong = |error| Unreadable::App { from, to: S::VERSION, error };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(app) => app.map_err(|error| wrong(format!("{error:#}"))),
        Err(panic) => Err(wrong(format!("reading it panicked: {}", panic_text(&*panic)))),
    }
}

async fn live<S: Session>(
    mut app: S,
    timers: Timers,
    resident: Rc<Resident>,
    host: Rc<Host>,
) -> End {
    let mut ctx = Context::new(resident.clone(), host, timers);
    if let Some(poison) = resident.take_poison(&PoisonKind::Post) {
        tell(&resident, &poison.error, &poison.details);
    }
    started(&mut app, &mut ctx).await;
    loop {
        if ctx.ended {
            std::future::poll_fn(|context| resident.poll_settled(context)).await;
            return End::Deleted;
        }
        if ctx.suspect.is_some() && !resident.is_careful() {
            ctx.suspect = None;
        }
        resident.set_plans(ctx.plans());
        let message = match next(&resident, &mut ctx).await {
            Todo::Snapshot => {
                save(&app, &ctx);
                continue;
            }
            Todo::Attached => {
                ctx.cause = Cause::Hook;
                // What a hook sends counts as sent by the call before it: a tab that comes back
                // must not be too slow for what it is about to be sent again.
                hook(&mut ctx, &What::attached(), async |ctx| app.attached(ctx).await).await;
                resident.end_call();
                continue;
            }
            Todo::Sleep => {
                app = match sleep(app, &ctx).await {
                    Ok(app) => app,
                    Err(end) => return end,
                };
                started(&mut app, &mut ctx).await;
                continue;
            }
            Todo::Stop => return End::Stopped,
            Todo::Message(message) => message,
        };
        if let Err(end) = prepare(&mut ctx).await {
            return end;
        }
        resident.begin_call();
        if let Err(poison) = handle(&mut app, &mut ctx, message).await {
            return End::Panicked(poison);
        }
        resident.end_call();
        if let Some(due) = resident.handled() {
            ctx.host.committer.schedule(&resident, due);
        }
        if resident.has_work() || ctx.timers.is_due(Instant::now().into_std()) {
            give_way().await;
        }
    }
}

enum Todo {
    Message(Message),
    Attached,
    Snapshot,
    Sleep,
    Stop,
}

/// What a handler is called for.
enum Message {
    Input(ChannelKey, Input),
    Timer(Planned),
    Post(u64, Bytes),
}

impl From<Work> for Todo {
    fn from(work: Work) -> Self {
        match work {
            Work::Attached => Self::Attached,
            Work::Input(channel, input) => Self::Message(Message::Input(channel, input)),
            Work::Post(number, message) => Self::Message(Message::Post(number, message)),
            Work::Snapshot => Self::Snapshot,
            Work::Sleep => Self::Sleep,
            Work::Stop => Self::Stop,
        }
    }
}

/// Waits for the next thing to do. A due timer comes before new work, but the chain of timers that
/// schedule each other lets one piece of work pass between any two.
async fn next(resident: &Resident, ctx: &mut Context) -> Todo {
    let Some(due) = ctx.timers.next_due() else {
        return std::future::poll_fn(|context| resident.poll_work(context)).await.into();
    };
    let mut sleep = std::pin::pin!(tokio::time::sleep_until(due.into()));
    let passed = ctx.timer_had_its_turn;
    let work = std::future::poll_fn(|context| {
        let is_due = sleep.is_elapsed() || sleep.as_mut().poll(context).is_ready();
        let timer = is_due && resident.takes_timers();
        if timer && !passed {
            return Poll::Ready(None);
        }
        match resident.poll_work(context) {
            Poll::Ready(work) => Poll::Ready(Some(work)),
            Poll::Pending if timer => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let work = work.await;
    ctx.timer_had_its_turn = work.is_none();
    match work {
        Some(work) => work.into(),
        // Due by the time the sleep ends; an empty message would only be reported.
        None => Todo::Message(Message::Timer(
            ctx.timers.pop_due(Instant::now().into_std()).unwrap_or_default(),
        )),
    }
}

/// What must be done before a message may be handled.
async fn prepare(ctx: &mut Context) -> std::result::Result<(), End> {
    let (resident, host) = (ctx.resident.clone(), ctx.host.clone());
    if host.has_been_away_since(resident.confirmed()) {
        confirm(&resident, &host).await?;
    }
    if resident.take_strike() {
        while let Err(error) = host.ownership.strike(&resident.id, resident.epoch).await {
            tracing::debug!(session.id = resident.id.as_str(), %error, "count a strike");
            tokio::time::sleep(STORE_RETRY).await;
        }
        if resident.strikes() > 1 {
            // Never closed, so the permit always comes.
            ctx.suspect = host.suspects.clone().acquire_owned().await.ok();
        }
    }
    Ok(())
}

/// The process stood still for a while: somebody may have taken the session (R5).
async fn confirm(resident: &Resident, host: &Host) -> std::result::Result<(), End> {
    loop {
        match host.ownership.confirm(&resident.id, resident.epoch).await {
            Ok(Standing::Fenced) => return Err(End::Fenced),
            // A row that is absent is written again with the next save.
            Ok(Standing::Owned | Standing::Absent) => {
                resident.confirm();
                return Ok(());
            }
            Err(error) => {
                tracing::debug!(session.id = resident.id.as_str(), %error, "confirm a session");
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    }
}

/// Calls the handler of a message. `Err` when it panicked and memory is to be given up.
async fn handle<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    message: Message,
) -> std::result::Result<(), Poison> {
    ctx.host.metrics.handled.inc();
    let resident = ctx.resident.clone();
    match message {
        Message::Input(channel, input) => {
            let (number, bytes) = (input.number, input.body.len());
            let name = || resident.poison_of(channel, number);
            match resident.has_poison().then(|| resident.take_poison(&name())).flatten() {
                Some(poison) => tell_poison(&resident, &poison),
                None => apply(app, ctx, channel, input).await.map_err(|p| p.named(name()))?,
            }
            resident.applied(channel, number, bytes);
        }
        Message::Timer(Planned { number, epoch, message }) => {
            let name = PoisonKind::Timer(number, epoch.0);
            if let Some(poison) = resident.take_poison(&name) {
                tell_poison(&resident, &poison);
                return Ok(());
            }
            ctx.cause = Cause::Timer(number, epoch);
            to_itself(app, ctx, message).await.map_err(|panic| panic.named(name))?;
        }
        Message::Post(number, message) => {
            ctx.cause = Cause::Post(number);
            let panicked = to_itself(app, ctx, message).await;
            panicked.map_err(|panic| panic.named(PoisonKind::Post))?;
        }
    }
    Ok(())
}

/// Reports what panicked before, in place of calling it. Nothing follows before that is committed:
/// it must not come again.
fn tell_poison(resident: &Resident, poison: &Poison) {
    tell(resident, &poison.error, &poison.details);
    resident.be_careful();
}

/// A handler panicked, and what is in memory cannot be trusted.
struct Panicked {
    error: String,
    details: String,
}

impl Panicked {
    fn named(self, kind: PoisonKind) -> Poison {
        let Self { error, details } = self;
        Poison { kind, error, details }
    }
}

// --- in and out of memory -----------------------------------------------------------------------

/// Takes a snapshot and hands it to the committer.
fn save<S: Session>(app: &S, ctx: &Context) {
    let (resident, host) = (&ctx.resident, &ctx.host);
    let taking = || resident.snapshot(app, &ctx.timers, host.clock);
    let snapshot = match catch_unwind(AssertUnwindSafe(taking)) {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(error)) => return not_saved(resident, &error.to_string()),
        Err(panic) => {
            resident.snapshot_failed();
            let error =
                format!("its state cannot be written: it panicked: {}", panic_text(&*panic));
            return not_saved(resident, &error);
        }
    };
    resident.is_first_unsaveable(false);
    if host.rules.check_snapshots {
        check::<S>(resident, &snapshot.save.state);
    }
    host.committer.submit(resident.clone(), snapshot);
}

fn not_saved(resident: &Resident, error: &str) {
    if resident.is_first_unsaveable(true) {
        let session = resident.id.as_str();
        tracing::error!(session.id = session, error, "a session is not saved");
        let details = "what it does from now on is lost when its worker ends";
        let body = message::error(&format!("this session is not saved: {error}"), details);
        resident.with_log(|log| log.event(false, body, Leaves::Unconfirmed));
    }
}

/// Reads a snapshot back at once, so that its author hears of it before it is needed.
fn check<S: Session>(resident: &Resident, bytes: &Bytes) {
    let read_back = || {
        let (_, app) = snapshot::decode(snapshot::CODEC, bytes)?;
        read::<S>(&Saved::new(bytes.slice_ref(app)), S::VERSION).map(drop)
    };
    if let Err(error) = read_back() {
        let session = resident.id.as_str();
        tracing::error!(session.id = session, %error, "a saved state cannot be read back");
        let text = "this session's state was saved, but it cannot be read back";
        let body = message::error(text, &error.to_string());
        resident.with_log(|log| log.event(false, body, Leaves::Unconfirmed));
    } else if bytes.len() > LARGE_STATE && resident.is_first_large() {
        tracing::warn!(
            session.id = resident.id.as_str(),
            bytes = bytes.len(),
            "a large state is written whole with each save: large inputs belong in ctx.keep"
        );
    }
}

/// Gives the app's memory back until there is work for it.
async fn sleep<S: Session>(app: S, ctx: &Context) -> std::result::Result<S, End> {
    let (resident, host) = (&ctx.resident, &ctx.host);
    drop(app);
    resident.fall_asleep();
    host.metrics.passivated("memory");
    let awake = std::future::poll_fn(|context| resident.poll_awake(context));
    match ctx.timers.next_due() {
        Some(due) => tokio::select! {
            () = awake => {}
            () = tokio::time::sleep_until(due.into()) => {}
        },
        None => awake.await,
    }
    if resident.is_leaving() {
        return Err(End::Stopped);
    }
    let row = loop {
        match host.store.load(&resident.id, resident.epoch).await {
            Ok(row) => break row.ok_or(End::Fenced)?,
            Err(error) => {
                tracing::debug!(session.id = resident.id.as_str(), %error, "load a session again");
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    };
    resident.confirm();
    let bytes = row.state.unwrap_or_default();
    let (kept, app) = snapshot::decode(row.codec, &bytes).map_err(End::Unreadable)?;
    resident.refill(&kept);
    read(&Saved::new(bytes.slice_ref(app)), row.app_version).map_err(End::Unreadable)
}

// --- app code -----------------------------------------------------------------------------------

async fn started<S: Session>(app: &mut S, ctx: &mut Context) {
    ctx.cause = Cause::Hook;
    ctx.resident.begin_call();
    hook(ctx, &What::started(), async |ctx| app.started(ctx).await).await;
    ctx.resident.end_call();
}

/// Calls a hook. One that panics is reported and skipped: it would panic again after a reload.
async fn hook(ctx: &mut Context, what: &What, code: impl AsyncFnOnce(&mut Context) -> Result<()>) {
    let outcome = call(ctx, what, code).await;
    report(&ctx.resident, what, outcome);
    ctx.resident.hinted();
}

async fn apply<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    channel: ChannelKey,
    input: Input,
) -> std::result::Result<(), Panicked> {
    ctx.cause = Cause::Input(channel, input.number);
    let body = input.body;
    if input.binary {
        let what = What::binary();
        let outcome = call(ctx, &what, async |ctx| app.binary(body, ctx).await).await;
        return finish(ctx, &what, outcome);
    }
    let what = What::message(body);
    let outcome = call(ctx, &what, async |ctx| match message::from_browser(&what.text)? {
        FromBrowser::App(message) => app.handle(message, ctx).await,
        FromBrowser::Assign { key, value } => app.assign(key, value, ctx).await,
    });
    let outcome = outcome.await;
    finish(ctx, &what, outcome)
}

async fn to_itself<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    message: Bytes,
) -> std::result::Result<(), Panicked> {
    let what = What::to_itself(message);
    let code = async |ctx: &mut Context| app.handle(message::from_itself(&what.text)?, ctx).await;
    let outcome = call(ctx, &what, code).await;
    finish(ctx, &what, outcome)
}

/// Reports what a handler came to. Where there is a commit to go back to, a panic is reported when
/// the session is there again.
fn finish(ctx: &Context, what: &What, outcome: Outcome) -> std::result::Result<(), Panicked> {
    let stays = ctx.host.rules.policy.durability == Durability::Memory;
    match outcome {
        Err(panic) if !stays => {
            let session = ctx.resident.id.as_str();
            let text = panic_text(&*panic);
            tracing::error!(session.id = session, handler = %what, panic = text, "handler panicked");
            let (error, details) = panic_report(text, what);
            Err(Panicked { error, details })
        }
        outcome => {
            report(&ctx.resident, what, outcome);
            Ok(())
        }
    }
}

/// Calls app code and contains its panics.
async fn call(
    ctx: &mut Context,
    what: &What,
    code: impl AsyncFnOnce(&mut Context) -> Result<()>,
) -> Outcome {
    let (resident, host) = (ctx.resident.clone(), ctx.host.clone());
    let metrics = &host.metrics;
    let began = std::time::Instant::now();
    // On the heap for as long as it runs: a session that waits does not hold room for its largest
    // handler.
    let mut code = Box::pin(AssertUnwindSafe(code(ctx)).catch_unwind());
    let outcome = host.running.watch(&resident.id, what, code.as_mut()).await;
    metrics.handle_seconds.observe(began.elapsed().as_secs_f64());
    match &outcome {
        Ok(Ok(())) => {}
        Ok(Err(_)) => {
            metrics.errors.inc();
        }
        Err(_) => {
            metrics.panics.inc();
        }
    }
    outcome
}

/// Tells the user, and the log, what went wrong.
pub(crate) fn report(resident: &Resident, what: &What, outcome: Outcome) {
    let session = resident.id.as_str();
    let (error, details) = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => {
            tracing::info!(session.id = session, handler = %what, "message rejected");
            (error.to_string(), causes(&error, what))
        }
        Err(panic) => {
            let text = panic_text(&*panic);
            tracing::error!(session.id = session, handler = %what, panic = text, "handler panicked");
            panic_report(text, what)
        }
    };
    tell(resident, &error, &details);
}

fn panic_report(text: &str, what: &What) -> (String, String) {
    let details = format!("in the handler of {what}; the message was given up");
    (format!("the app panicked: {text}"), details)
}

fn tell(resident: &Resident, error: &str, details: &str) {
    let body = message::error(error, details);
    resident.with_log(|log| log.event(false, body, Leaves::WithItsCause));
}

fn causes(error: &Error, what: &What) -> String {
    let mut details = format!("while handling {what}");
    for cause in error.chain().skip(1) {
        details.push_str(&format!("; because {cause}"));
    }
    details
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}
