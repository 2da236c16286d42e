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

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use single_state_faults::{self as faults, Point};
use single_state_node::turn::give_way;
use single_state_proto::channel::Input;
use single_state_store::Standing;
use tokio::time::Instant;

use self::call::{apply, attached, started, tell, tell_poison, to_itself};
use self::memory::{read, save, sleep};
use crate::context::{Cause, Context};
use crate::history::Deed;
use crate::host::Host;
use crate::resident::{ChannelKey, Poison, PoisonKind, Resident, Waiting, Work};
use crate::session::Session;
use crate::snapshot::{Saved, Unreadable};
use crate::timers::{Planned, Timers};

mod call;
mod memory;

pub(crate) use self::call::{panic_text, report};

/// While the store is away, what depends on it is tried again so often.
const STORE_RETRY: Duration = Duration::from_millis(500);

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
    /// It was wanted elsewhere in the middle of a handler: what that did is given up.
    Interrupted,
    /// Its state could not be read back.
    Unreadable(Unreadable),
}

/// A session's own part of its snapshot.
pub(crate) struct Loaded {
    pub(crate) app: Saved,
    pub(crate) app_version: u32,
    pub(crate) timers: Timers,
}

/// Makes the coroutine of a session, which leads its life in memory.
pub(crate) fn start<S: Session>(
    resident: Rc<Resident>,
    host: Rc<Host>,
    loaded: Option<Loaded>,
) -> std::result::Result<impl Future<Output = End> + use<S>, Unreadable> {
    let (app, timers) = match loaded {
        Some(Loaded { app, app_version, timers }) => (read::<S>(&app, app_version)?, timers),
        None => (S::default(), Timers::default()),
    };
    Ok(live(app, Context::new(resident, host, timers)))
}

#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
fn live<S: Session>(mut app: S, mut ctx: Context) -> impl Future<Output = End> {
    async move {
        let resident = ctx.resident.clone();
        if let Some(poison) = resident.take_poison(&PoisonKind::Post) {
            tell(&resident, &poison.error, &poison.details);
        }
        // App code runs on the heap: a session that waits does not hold room for its largest handler.
        Box::pin(started(&mut app, &mut ctx)).await;
        loop {
            if ctx.ended {
                std::future::poll_fn(|context| resident.poll_settled(context)).await;
                return End::Deleted;
            }
            resident.set_plans(ctx.plans());
            let sleeps = match next(&resident, &mut ctx).await {
                Todo::Stop => return End::Stopped,
                Todo::Sleep => true,
                // Moved as a whole, so that no room is held for it beside the box.
                todo => {
                    if let Err(end) = Box::pin(act(&mut app, &mut ctx, todo)).await {
                        return end;
                    }
                    false
                }
            };
            if sleeps {
                app = match Box::pin(sleep(app, &ctx)).await {
                    Ok(app) => app,
                    Err(end) => return end,
                };
                Box::pin(started(&mut app, &mut ctx)).await;
            }
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

impl Todo {
    fn of(work: Work, ctx: &mut Context) -> Self {
        match work {
            Work::Attached => Self::Attached,
            Work::Input(Waiting { channel, arrival, input }) => {
                ctx.arrival = arrival;
                Self::Message(Message::Input(channel, input))
            }
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
        let work = std::future::poll_fn(|context| resident.poll_work(context)).await;
        return Todo::of(work, ctx);
    };
    // Few sessions have planned something; the others hold no room for it.
    Box::pin(next_or_timer(resident, ctx, due)).await
}

async fn next_or_timer(resident: &Resident, ctx: &mut Context, due: std::time::Instant) -> Todo {
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
        Some(work) => Todo::of(work, ctx),
        // Due by the time the sleep ends; an empty message would only be reported.
        None => Todo::Message(Message::Timer(
            ctx.timers.pop_due(Instant::now().into_std()).unwrap_or_default(),
        )),
    }
}

/// Does one thing, awake.
async fn act<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    todo: Todo,
) -> std::result::Result<(), End> {
    match todo {
        Todo::Message(message) => {
            feed(app, ctx, message).await?;
            if ctx.resident.has_work() || ctx.timers.is_due(Instant::now().into_std()) {
                give_way().await;
            }
        }
        Todo::Snapshot => save(app, ctx),
        Todo::Attached => attached(app, ctx).await,
        // Those are for the coroutine itself.
        Todo::Sleep | Todo::Stop => {}
    }
    Ok(())
}

/// Has a message handled, once the session is known to be ours and its strikes are counted.
async fn feed<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    message: Message,
) -> std::result::Result<(), End> {
    let (resident, host) = (ctx.resident.clone(), ctx.host.clone());
    if matches!(message, Message::Timer(_)) {
        // It may be the first to notice that the process stood still.
        host.beat();
    }
    if host.has_been_away_since(resident.confirmed()) {
        Box::pin(confirm(&resident, &host)).await?;
    }
    if resident.take_strike() {
        Box::pin(strike(&resident, &host)).await;
    }
    resident.begin_call();
    handle(app, ctx, message).await.map_err(End::Panicked)?;
    resident.end_call();
    if let Some(due) = resident.handled(host.recently()) {
        host.committer.schedule(&resident, due);
    }
    Ok(())
}

/// Counts the death of the owner before, in case the next message is why. Of sessions that are
/// suspected so, one at a time is fed (R10).
async fn strike(resident: &Resident, host: &Host) {
    while let Err(error) = host.ownership.strike(&resident.id, resident.epoch).await {
        tracing::debug!(session.id = resident.id.as_str(), %error, "count a strike");
        tokio::time::sleep(STORE_RETRY).await;
    }
    if resident.strikes() > 1
        // Never closed, so the permit always comes.
        && let Ok(turn) = host.suspects.clone().acquire_owned().await
    {
        resident.begin_turn(turn);
    }
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
            let history = &ctx.host.history;
            if history.is_on()
                && let Some(id) = resident.channel_id(channel)
            {
                let deed = || Deed::Apply { channel: id.as_str(), n: number.0 };
                history.record(&resident.id, resident.epoch, deed);
            }
            resident.applied(channel, number, bytes);
            faults::point(Point::Applied);
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
