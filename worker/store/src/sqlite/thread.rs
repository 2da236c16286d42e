//! The one thread that owns a worker's connection, and the way to it: a queue of jobs with their
//! answers. Knows no statements.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::database::Database;
use crate::StoreError;

/// Jobs that wait for the thread, at most. When there are more, their callers wait for room, and
/// are told that the database is away when their time is over. A job holds what its call brought:
/// a batch of saves is cut at 4 MiB by its caller, so this is at most 64 MiB beside single
/// snapshots that are longer.
const QUEUE: usize = 16;

type Job = Box<dyn FnOnce(&mut Database) + Send>;

/// The way to the thread. The thread ends when this is dropped and the queue is empty.
#[derive(Debug)]
pub(super) struct Thread {
    jobs: mpsc::Sender<Job>,
    timeout: Duration,
}

impl Thread {
    pub(super) fn start(mut database: Database, timeout: Duration) -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let work = move || {
            while let Some(job) = queue.blocking_recv() {
                // A panic is a bug, but the sessions in memory are worth more than this call: its
                // caller finds that there is no answer, and the next job opens the file again.
                if catch_unwind(AssertUnwindSafe(|| job(&mut database))).is_err() {
                    database.close();
                }
            }
        };
        std::thread::Builder::new().name("sqlite".to_owned()).spawn(work)?;
        Ok(Self { jobs, timeout })
    }

    /// Does `work` on the thread. When the answer does not come in time the work may still be done
    /// later: what it does is guarded by epoch and version.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |database| {
            // Nobody waits any more, and who gave up will ask again.
            if !sender.is_closed() {
                let _ = sender.send(work(database));
            }
        });
        let done = async {
            self.jobs.send(job).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(self.timeout, done).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(StoreError::Away("the database's thread gave no answer".to_owned())),
            Err(_) => Err(StoreError::Away(format!(
                "the database did not answer within {:?}",
                self.timeout
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn with_thread(timeout: Duration, test: impl AsyncFnOnce(&Thread)) {
        let nowhere = Database::new("/nonexistent/sessions.db".into(), timeout);
        let thread = Thread::start(nowhere, timeout).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(test(&thread));
    }

    fn is_away<T>(result: Result<T, StoreError>) -> bool {
        matches!(result, Err(StoreError::Away(_)))
    }

    #[test]
    fn a_panic_fails_its_own_call_only() {
        with_thread(Duration::from_secs(60), async |thread| {
            let panicked = thread.call(|_| -> Result<(), _> { panic!("shown by a test") });
            assert!(is_away(panicked.await));
            assert_eq!(thread.call(|_| Ok(5)).await, Ok(5));
        });
    }

    #[test]
    fn who_waits_too_long_is_told_so_and_the_thread_goes_on() {
        with_thread(Duration::from_millis(50), async |thread| {
            let (finish, finished) = channel::<()>();
            let (tell, told) = channel();
            let slow = thread.call(move |_| {
                let _ = finished.recv();
                Ok(tell.send("done late"))
            });
            assert!(is_away(slow.await));
            // More than the queue has room for; nobody waits for them when their turn comes.
            for _ in 0..QUEUE + 1 {
                let given_up = thread.call(|_| -> Result<(), _> { panic!("nobody waits") });
                assert!(is_away(given_up.await));
            }
            drop(finish);
            assert_eq!(told.recv(), Ok("done late"));
            let mut answer = thread.call(|_| Ok(5)).await;
            while answer.is_err() {
                answer = thread.call(|_| Ok(5)).await;
            }
            assert_eq!(answer, Ok(5));
        });
    }
}
