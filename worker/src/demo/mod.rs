//! The demo app: small messages that show one thing each, and a model that trains step by step
//! while its user watches and interferes.

mod model;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use single_state_worker::{Context, Result, Session, bail, ensure};

use self::model::Model;

/// Between two steps of a training users are heard.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Passes over the data that one step makes.
const PASSES: u32 = 5;

/// One user's state.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Demo {
    items: Vec<String>,
    training: Option<Training>,
    /// Names the first question of who owns the session. A page that hears another name than before
    /// knows that the session has started from nothing: had this message been saved, or sent again,
    /// the name would be the same.
    born: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Training {
    model: Model,
    rate: f64,
    done: u32,
    total: u32,
    paused: bool,
}

/// What browsers may send; the last one is the session's own.
#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
pub(crate) enum Message {
    /// `a * x + y`
    Axpy { a: f64, x: Vec<f64>, y: Vec<f64> },
    /// Fails.
    Broken,
    /// Adds an item to the list.
    Append { item: String },
    /// Asks for the list.
    Items,
    /// Asks who owns the session.
    Where,
    /// Trains a new model.
    Train {
        #[serde(default = "default_steps")]
        steps: u32,
        #[serde(default = "default_rate")]
        rate: f64,
    },
    /// Stops training for a while.
    Pause,
    /// Goes on training.
    Continue,
    /// Changes the learning rate, also while the model trains.
    Set { rate: f64 },
    /// One step of the training.
    #[serde(rename = "_step")]
    Step,
}

fn default_steps() -> u32 {
    300
}

fn default_rate() -> f64 {
    0.5
}

/// What browsers get as events.
#[derive(Serialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Event<'a> {
    Items { items: &'a [String] },
    Where { session: &'a str, worker: u16, process: u32, epoch: u64, born: &'a str },
}

impl Session for Demo {
    type Message = Message;

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Axpy { a, x, y } => ctx.assign("result_vector", &axpy(a, &x, &y)?),
            Message::Broken => bail!("this handler is broken on purpose"),
            Message::Append { item } => {
                self.items.push(item);
                ctx.assign("count", &self.items.len())
            }
            Message::Items => ctx.send(&Event::Items { items: &self.items }),
            Message::Where => ctx.send(&Event::Where {
                session: ctx.session_id(),
                worker: ctx.worker_index(),
                process: std::process::id(),
                epoch: ctx.epoch(),
                born: self.born.get_or_insert_with(|| ctx.idempotency_key()),
            }),
            Message::Train { steps, rate } => self.train(steps, rate, ctx),
            Message::Pause => self.pause(true, ctx),
            Message::Continue => self.pause(false, ctx),
            Message::Set { rate } => self.set(rate),
            Message::Step => self.step(ctx).await,
        }
    }
}

impl Demo {
    fn train(&mut self, steps: u32, rate: f64, ctx: &mut Context) -> Result<()> {
        ensure!((1..=100_000).contains(&steps), "steps must be 1 to 100,000, not {steps}");
        let rate = check_rate(rate)?;
        let model = Model::default();
        self.training = Some(Training { model, rate, done: 0, total: steps, paused: false });
        self.show(ctx)?;
        ctx.schedule("step", Duration::ZERO, &Message::Step)
    }

    fn pause(&mut self, paused: bool, ctx: &mut Context) -> Result<()> {
        let Some(training) = self.training.as_mut().filter(|t| t.done < t.total) else {
            bail!("nothing is being trained");
        };
        training.paused = paused;
        if paused {
            ctx.unschedule("step");
        } else {
            ctx.schedule("step", Duration::ZERO, &Message::Step)?;
        }
        self.show(ctx)
    }

    fn set(&mut self, rate: f64) -> Result<()> {
        let rate = check_rate(rate)?;
        if let Some(training) = &mut self.training {
            training.rate = rate;
        }
        Ok(())
    }

    async fn step(&mut self, ctx: &mut Context) -> Result<()> {
        let Some(training) = self.training.as_mut().filter(|t| !t.paused) else { return Ok(()) };
        let rate = training.rate;
        ctx.compute(&mut training.model, move |model| model.descend(rate, PASSES)).await;
        training.done += 1;
        if training.done < training.total {
            ctx.schedule("step", STEP_PAUSE, &Message::Step)?;
        }
        self.show(ctx)
    }

    fn show(&self, ctx: &Context) -> Result<()> {
        let Some(training) = &self.training else { return Ok(()) };
        let Training { model, done, total, paused, .. } = training;
        let state = match (done == total, paused) {
            (true, _) => "done",
            (_, true) => "paused",
            (_, false) => "running",
        };
        ctx.assign("training", state)?;
        ctx.assign("loss", &model.loss())?;
        ctx.assign("accuracy", &model.accuracy())?;
        ctx.progress("progress", &serde_json::json!({"done": done, "total": total}))
    }
}

fn axpy(a: f64, x: &[f64], y: &[f64]) -> Result<Vec<f64>> {
    ensure!(
        x.len() == y.len(),
        "x has {} elements and y has {}: give two vectors of one length",
        x.len(),
        y.len()
    );
    Ok(x.iter().zip(y).map(|(x, y)| a * x + y).collect())
}

fn check_rate(rate: f64) -> Result<f64> {
    ensure!(rate > 0.0 && rate <= 100.0, "rate must be above 0 and at most 100, not {rate}");
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use single_state_worker::Durability;
    use single_state_worker::testing::TestSession;

    #[test]
    fn axpy_assigns_its_result() {
        let session = TestSession::<Demo>::new();
        session.send(json!({"tag": "axpy", "a": 2, "x": [1, 2], "y": [10, 20]}));
        assert_eq!(
            session.outputs(),
            [json!({"tag": "assign", "key": "result_vector", "value": [12.0, 24.0]})]
        );
    }

    #[test]
    fn vectors_of_different_lengths_are_an_error_that_says_what_to_do() {
        let session = TestSession::<Demo>::new();
        session.send(json!({"tag": "axpy", "a": 2, "x": [1], "y": []}));
        let [error] = &session.outputs()[..] else { panic!("one message") };
        assert_eq!(error["tag"], "error");
        assert_eq!(error["error"], "x has 1 elements and y has 0: give two vectors of one length");
    }

    #[test]
    fn a_broken_handler_is_an_error_and_the_session_goes_on() {
        let session = TestSession::<Demo>::new();
        session.send(json!({"tag": "broken"}));
        session.send(json!({"tag": "append", "item": "a"}));
        let outputs = session.outputs();
        assert_eq!(outputs[0]["tag"], "error");
        assert_eq!(outputs[0]["details"], "while handling \"broken\"");
        assert_eq!(session.mirror()["count"], 1);
    }

    #[test]
    fn items_are_told_in_the_order_in_which_they_came() {
        let session = TestSession::<Demo>::new();
        for item in ["a", "b", "c"] {
            session.send(json!({"tag": "append", "item": item}));
        }
        session.outputs();
        session.send(json!({"tag": "items"}));
        assert_eq!(session.outputs(), [json!({"tag": "items", "items": ["a", "b", "c"]})]);
    }

    #[test]
    fn a_training_reports_progress_and_a_falling_loss_until_it_is_done() {
        let session = TestSession::<Demo>::new();
        session.send(json!({"tag": "train", "steps": 10}));
        let first = session.mirror();
        assert_eq!(first["training"], "running");
        session.advance(Duration::from_secs(10));
        let last = session.mirror();
        assert_eq!((&last["training"], &last["progress"]["done"]), (&json!("done"), &json!(10)));
        assert!(last["loss"].as_f64().unwrap() < first["loss"].as_f64().unwrap());
        assert!(last["accuracy"].as_f64().unwrap() > 0.9);
    }

    #[test]
    fn a_training_can_be_paused_changed_and_continued() {
        let session = TestSession::<Demo>::new();
        session.send(json!({"tag": "train", "steps": 1000}));
        session.advance(Duration::from_secs(1));
        session.send(json!({"tag": "pause"}));
        let paused = session.mirror();
        assert_eq!(paused["training"], "paused");
        session.advance(Duration::from_secs(100));
        assert_eq!(session.mirror()["progress"], paused["progress"]);
        session.send(json!({"tag": "set", "rate": 0.1}));
        session.send(json!({"tag": "continue"}));
        session.advance(Duration::from_secs(100));
        assert_eq!(session.mirror()["training"], "done");
    }

    #[test]
    fn a_page_cannot_make_a_step_itself() {
        let session = TestSession::<Demo>::new();
        session.send(json!({"tag": "_step"}));
        assert_eq!(
            session.outputs()[0]["error"],
            "the tag \"_step\" is reserved for the session itself"
        );
    }

    #[test]
    fn what_a_session_was_born_with_stays_with_every_later_owner() {
        let session = TestSession::<Demo>::new();
        let ask = || {
            session.send(json!({"tag": "where"}));
            session.outputs().pop().unwrap()
        };
        let first = ask();
        // Before anything was committed, and after that.
        for wait in [Duration::ZERO, Duration::from_secs(10)] {
            session.advance(wait);
            session.crash();
            let next = ask();
            assert!(next["epoch"].as_u64() > first["epoch"].as_u64(), "{first} {next}");
            assert_eq!(next["born"], first["born"]);
        }
    }

    #[test]
    fn a_session_that_was_lost_is_born_anew() {
        let session = TestSession::<Demo>::with_durability(Durability::Memory);
        session.send(json!({"tag": "where"}));
        let first = session.outputs().pop().unwrap();
        session.crash();
        session.send(json!({"tag": "where"}));
        assert_ne!(session.outputs().pop().unwrap()["born"], first["born"]);
    }
}
