//! Questions of many sessions that are asked together: what comes while one batch is under way makes
//! the next one. There is no timer, so a single question waits for nobody, and batches grow by
//! themselves under load.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use single_state_node::turn::give_way;
use tokio::sync::oneshot;

/// Asks a whole batch; answers come in the order of the questions.
type Ask<Q, A> = Box<dyn Fn(Vec<Q>) -> LocalBoxFuture<'static, Vec<A>>>;

/// Gathers questions `Q`, each of which gets an `A`.
pub(crate) struct Batch<Q, A> {
    ask: Ask<Q, A>,
    most: usize,
    waiting: RefCell<Vec<(Q, oneshot::Sender<A>)>>,
    running: Cell<bool>,
}

impl<Q: 'static, A: 'static> Batch<Q, A> {
    /// Batches of at most so many questions, one batch at a time.
    pub(crate) fn new(
        most: usize,
        ask: impl Fn(Vec<Q>) -> LocalBoxFuture<'static, Vec<A>> + 'static,
    ) -> Rc<Self> {
        let (waiting, running) = Default::default();
        Rc::new(Self { ask: Box::new(ask), most, waiting, running })
    }

    /// Asks; `None` only when the batch was answered with too few answers.
    pub(crate) async fn ask(self: &Rc<Self>, question: Q) -> Option<A> {
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().push((question, sender));
        if !self.running.replace(true) {
            tokio::task::spawn_local(self.clone().run());
        }
        answer.await.ok()
    }

    async fn run(self: Rc<Self>) {
        loop {
            // Who asks in this very turn is part of it.
            give_way().await;
            let batch: Vec<_> = {
                let mut waiting = self.waiting.borrow_mut();
                let count = waiting.len().min(self.most);
                waiting.drain(..count).collect()
            };
            if batch.is_empty() {
                self.running.set(false);
                return;
            }
            let (questions, askers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            for (asker, answer) in askers.into_iter().zip((self.ask)(questions).await) {
                // Who does not wait any more does not want to know.
                let _ = asker.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn questions_of_one_turn_are_asked_together_and_each_gets_its_own_answer() {
        let sizes = Rc::new(RefCell::new(Vec::new()));
        let seen = sizes.clone();
        let batch = Batch::new(4, move |questions: Vec<u32>| {
            seen.borrow_mut().push(questions.len());
            Box::pin(async move { questions.iter().map(|q| q * 10).collect() })
        });
        let answers = LocalSet::new()
            .run_until(join_all((0..10).map(|n| {
                let batch = batch.clone();
                async move { batch.ask(n).await }
            })))
            .await;
        assert_eq!(answers, (0..10).map(|n| Some(n * 10)).collect::<Vec<_>>());
        assert_eq!(*sizes.borrow(), [4, 4, 2]);
    }
}
