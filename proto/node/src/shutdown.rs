//! Signals become a phase: the first one drains, the second one stops at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far a process is with ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It works.
    Running,
    /// It takes nothing new and finishes what it has.
    Draining,
    /// It stops now.
    Stopping,
}

/// Follows SIGTERM and SIGINT for as long as the receiver is used. Needs a `LocalSet`.
pub fn on_signals() -> std::io::Result<watch::Receiver<Phase>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(Phase::Running);
    tokio::task::spawn_local(async move {
        for phase in [Phase::Draining, Phase::Stopping] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(phase = ?phase, "signal received");
            if sender.send(phase).is_err() {
                return;
            }
        }
        sender.closed().await;
    });
    Ok(receiver)
}

/// Waits until `phase` is reached; for ever if nobody can reach it any more.
pub async fn reached(receiver: &mut watch::Receiver<Phase>, phase: Phase) {
    if receiver.wait_for(|now| *now >= phase).await.is_err() {
        std::future::pending::<()>().await;
    }
}
