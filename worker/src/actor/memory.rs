//! The app's state on its way to a snapshot and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use single_state_faults::{self as faults, Point};

use super::call::panic_text;
use super::{End, STORE_RETRY};
use crate::context::Context;
use crate::message;
use crate::output::Leaves;
use crate::resident::{Leave, Resident};
use crate::session::Session;
use crate::snapshot::{self, Saved, Unreadable};

/// Authors hear of states that are longer than this; each save writes them whole.
const LARGE_STATE: usize = 1024 * 1024;

/// Reads an app's state, which any version of it may have written.
pub(super) fn read<S: Session>(saved: &Saved, from: u32) -> std::result::Result<S, Unreadable> {
    let migrate = || {
        faults::follow(Point::Upgrading, Point::SaveSent);
        S::migrate(from, saved)
    };
    let read = || if from == S::VERSION { saved.read() } else { migrate() };
    let wrong = |error| match S::VERSION {
        to if to == from => Unreadable::Changed(error),
        to => Unreadable::App { from, to, error },
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(app) => app.map_err(|error| wrong(format!("{error:#}"))),
        Err(panic) => Err(wrong(format!("reading it panicked: {}", panic_text(&*panic)))),
    }
}

/// Takes a snapshot and hands it to the committer.
pub(super) fn save<S: Session>(app: &S, ctx: &Context) {
    let (resident, host) = (&ctx.resident, &ctx.host);
    let taking = || resident.snapshot(app, &ctx.timers, host.clock, host.index);
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
        // It was written just now by the very same app.
        let error = match error {
            Unreadable::Changed(error) => error,
            other => other.to_string(),
        };
        let session = resident.id.as_str();
        tracing::error!(session.id = session, error, "a saved state cannot be read back");
        let text = "this session's state was saved, but it cannot be read back";
        let body = message::error(text, &error);
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
pub(super) async fn sleep<S: Session>(app: S, ctx: &Context) -> std::result::Result<S, End> {
    let (resident, host) = (&ctx.resident, &ctx.host);
    drop(app);
    resident.fall_asleep();
    host.metrics.passivated(Leave::Memory);
    let awake = std::future::poll_fn(|context| resident.poll_awake(context));
    match ctx.timers.next_due() {
        Some(due) => tokio::select! {
            () = awake => {}
            () = tokio::time::sleep_until(due.into()) => {}
        },
        None => awake.await,
    }
    if resident.has_left() {
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
