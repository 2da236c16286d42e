//! Calls of app code: contained, timed, and reported to the user when they fail.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use single_state_proto::channel::Input;
use single_state_proto::frame::Durability;

use crate::context::{Cause, Context};
use crate::message::{self, FromBrowser};
use crate::resident::{ChannelKey, Poison, PoisonKind, Resident};
use crate::running::What;
use crate::session::Session;
use crate::{Error, Result};

/// The log lines that tell what handlers have answered to browsers; `gateway dev` asks for them.
const HANDLER_ERRORS: &str = "single_state_worker::handler_errors";

/// What a call of app code came to: its result, or what it panicked with.
pub(crate) type Outcome = std::result::Result<Result<()>, Box<dyn Any + Send>>;

pub(super) async fn started<S: Session>(app: &mut S, ctx: &mut Context) {
    ctx.cause = Cause::Hook;
    ctx.resident.begin_call();
    hook(ctx, &What::started(), async |ctx| app.started(ctx).await).await;
    ctx.resident.end_call();
}

/// What this hook sends counts as sent by the call before it: a tab that comes back must not be too
/// slow for what it is about to be sent again.
pub(super) async fn attached<S: Session>(app: &mut S, ctx: &mut Context) {
    ctx.cause = Cause::Hook;
    hook(ctx, &What::attached(), async |ctx| app.attached(ctx).await).await;
    ctx.resident.end_call();
}

/// Calls a hook. One that panics is reported and skipped: it would panic again after a reload.
async fn hook(ctx: &mut Context, what: &What, code: impl AsyncFnOnce(&mut Context) -> Result<()>) {
    ctx.resident.begin_hook();
    let outcome = call(ctx, what, Instant::now(), code).await;
    report(&ctx.resident, what, outcome);
    ctx.resident.hinted();
}

pub(super) async fn apply<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    channel: ChannelKey,
    input: Input,
) -> std::result::Result<(), Panicked> {
    let began = Instant::now();
    ctx.host.metrics.begins(ctx.arrival, began);
    ctx.cause = Cause::Input(channel, input.number);
    let body = input.body;
    if input.binary {
        let what = What::binary();
        let outcome = call(ctx, &what, began, async |ctx| app.binary(body, ctx).await).await;
        return finish(ctx, &what, outcome);
    }
    let what = What::message(body);
    let outcome = call(ctx, &what, began, async |ctx| match message::from_browser(&what.text)? {
        FromBrowser::App(message) => app.handle(message, ctx).await,
        FromBrowser::Assign { key, value } => app.assign(key, value, ctx).await,
    });
    let outcome = outcome.await;
    finish(ctx, &what, outcome)
}

pub(super) async fn to_itself<S: Session>(
    app: &mut S,
    ctx: &mut Context,
    message: Bytes,
) -> std::result::Result<(), Panicked> {
    let what = What::to_itself(message);
    let code = async |ctx: &mut Context| app.handle(message::from_itself(&what.text)?, ctx).await;
    let outcome = call(ctx, &what, Instant::now(), code).await;
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
    began: Instant,
    code: impl AsyncFnOnce(&mut Context) -> Result<()>,
) -> Outcome {
    let (resident, host) = (ctx.resident.clone(), ctx.host.clone());
    let metrics = &host.metrics;
    let code = std::pin::pin!(AssertUnwindSafe(code(ctx)).catch_unwind());
    let outcome = host.running.watch(&resident.id, what, code).await;
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
            let (error, details) = (error.to_string(), causes(&error, what));
            // The sentence may hold what a browser has sent, so only those read it who ask for it;
            // escaped, since it may end up in a terminal.
            tracing::debug!(
                target: HANDLER_ERRORS,
                { session.id = session, ?error, ?details },
                "handler failed"
            );
            (error, details)
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

pub(super) fn tell(resident: &Resident, error: &str, details: &str) {
    let body = message::error(error, details);
    let leaves = resident.leaves();
    resident.with_log(|log| log.event(false, body, leaves));
}

fn causes(error: &Error, what: &What) -> String {
    let mut details = format!("while handling {what}");
    for cause in error.chain().skip(1) {
        details.push_str(&format!("; because {cause}"));
    }
    details
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}

/// Reports what panicked before, in place of calling it. Nothing follows before that is committed:
/// it must not come again.
pub(super) fn tell_poison(resident: &Resident, poison: &Poison) {
    tell(resident, &poison.error, &poison.details);
    resident.be_careful();
}

/// A handler panicked, and what is in memory cannot be trusted.
pub(super) struct Panicked {
    error: String,
    details: String,
}

impl Panicked {
    pub(super) fn named(self, kind: PoisonKind) -> Poison {
        let Self { error, details } = self;
        Poison { kind, error, details }
    }
}
