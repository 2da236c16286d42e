//! Turns of the event loop.

use std::task::Poll;

/// Goes to the end of the queue of tasks that are ready, without waiting for anything. Unlike
/// tokio's `yield_now` it does not ask the kernel for news each time, which costs more than most
/// turns.
pub async fn give_way() {
    let mut given = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
