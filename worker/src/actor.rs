//! The coroutine of one session: waits for one thing to do, does it, and never dies of it.
//!
//! ```text
//!   started ──▶ wait for: a tab · an input · a post · a timer ──▶ handler ──┐
//!                 ▲                                                         │ outputs leave whenever
//!                 └─────────────────────────────────────────────────────────┘ the coroutine pauses
//! ```
//!
//! The only place where app code is called.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use single_state_node::turn::give_way;
use single_state_proto::channel::Input;
use single_state_proto::frame::CloseCode;
use tokio::time::Instant;

use crate::context::{Cause, Context};
use crate::host::Host;
use crate::message::{self, FromBrowser};
use crate::resident::{ChannelKey, Resident, Work};
use crate::running::What;
use crate::session::Session;
use crate::{Error, Result};

/// What a call of app code came to: its result, or what it panicked with.
pub(crate) type Outcome = std::result::Result<Result<()>, Box<dyn Any + Send>>;

/// How a session left memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was not needed any more.
    Stopped,
    /// The app has ended it: it is deleted.
    Deleted,
}

/// Runs a session until it leaves memory. Outputs leave whenever the coroutine pauses, so what one
/// handler assigns many times goes out once.
pub(crate) async fn run<S: Session>(resident: Rc<Resident>, host: Rc<Host>) -> End {
    let mut coroutine = Box::pin(live::<S>(resident.clone(), host));
    std::future::poll_fn(move |context| {
        let progress = coroutine.as_mut().poll(context);
        resident.pump_all();
        progress
    })
    .await
}

async fn live<S: Session>(resident: Rc<Resident>, host: Rc<Host>) -> End {
    let mut app = S::default();
    let mut ctx = Context::new(resident.clone(), host);
    resident.begin_call();
    call(&mut ctx, &What::started(), async |ctx| app.started(ctx).await).await;
    resident.end_call();
    loop {
        if ctx.ended {
            resident.close_channels(CloseCode::SessionEnded);
            return End::Deleted;
        }
        let todo = next(&resident, &mut ctx).await;
        if !matches!(todo, Todo::Work(Work::Attached)) {
            // What a hook sends counts as sent by the call before it: a tab that comes back must
            // not be too slow for what it is about to be sent again.
            resident.begin_call();
        }
        match todo {
            Todo::Timer(number, message) => {
                ctx.cause = Cause::Timer(number);
                to_itself(&mut app, &mut ctx, message).await;
            }
            Todo::Work(Work::Post(number, message)) => {
                ctx.cause = Cause::Post(number);
                to_itself(&mut app, &mut ctx, message).await;
            }
            Todo::Work(Work::Attached) => {
                ctx.cause = Cause::Hook;
                call(&mut ctx, &What::attached(), async |ctx| app.attached(ctx).await).await;
            }
            Todo::Work(Work::Input(channel, input)) => {
                let number = input.number;
                apply(&mut app, &mut ctx, channel, input).await;
                resident.applied(channel, number);
            }
            Todo::Work(Work::Stop) => return End::Stopped,
        }
        resident.end_call();
        if resident.has_work() || ctx.timers.is_due(Instant::now().into_std()) {
            give_way().await;
        }
    }
}

enum Todo {
    Work(Work),
    Timer(u64, Bytes),
}

/// Waits for the next thing to do. A due timer comes before new work, but the chain of timers that
/// schedule each other lets one piece of work pass between any two.
async fn next(resident: &Resident, ctx: &mut Context) -> Todo {
    let work = std::future::poll_fn(|context| resident.poll_work(context));
    let Some(due) = ctx.timers.next_due() else { return Todo::Work(work.await) };
    let timers = &mut ctx.timers;
    let passed = ctx.timer_had_its_turn;
    tokio::select! {
        biased;
        work = work, if passed || due > Instant::now().into_std() => {
            ctx.timer_had_its_turn = false;
            Todo::Work(work)
        }
        () = tokio::time::sleep_until(due.into()) => {
            ctx.timer_had_its_turn = true;
            // Due by the time the sleep ends; an empty message would only be reported.
            let (number, message) = timers.pop_due(Instant::now().into_std()).unwrap_or_default();
            Todo::Timer(number, message)
        }
    }
}

async fn apply<S: Session>(app: &mut S, ctx: &mut Context, channel: ChannelKey, input: Input) {
    ctx.cause = Cause::Input(channel, input.number);
    ctx.host.metrics.handled.inc();
    let body = input.body;
    if input.binary {
        return call(ctx, &What::binary(), async |ctx| app.binary(body, ctx).await).await;
    }
    let what = What::message(body);
    call(ctx, &what, async |ctx| match message::from_browser(&what.text)? {
        FromBrowser::App(message) => app.handle(message, ctx).await,
        FromBrowser::Assign { key, value } => app.assign(key, value, ctx).await,
    })
    .await;
}

async fn to_itself<S: Session>(app: &mut S, ctx: &mut Context, message: Bytes) {
    ctx.host.metrics.handled.inc();
    let what = What::to_itself(message);
    call(ctx, &what, async |ctx| app.handle(message::from_itself(&what.text)?, ctx).await).await;
}

/// Calls app code; its errors and panics become messages to the user and end nothing.
async fn call(ctx: &mut Context, what: &What, code: impl AsyncFnOnce(&mut Context) -> Result<()>) {
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
    report(&resident, what, outcome);
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
            let details = format!("in the handler of {what}; the message was given up");
            (format!("the app panicked: {text}"), details)
        }
    };
    let body = message::error(&error, &details);
    resident.with_log(|log| log.event(false, body));
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
