//! The demo app: small messages that show one thing each, and a model that learns to read digits,
//! step by step, while its user watches and interferes.

mod digits;
mod network;
#[cfg(test)]
mod tests;
mod training;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use single_state_worker::{Context, Result, Saved, Session, bail, ensure};
use tokio::time::Instant;

pub(crate) use self::digits::Digits;
use self::network::Score;
use self::training::{Settings, Training, rounded};

/// Between two steps of a training users are heard.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// What is long to say (the curve, the matrix) is said once in so many steps.
const STEPS_A_PICTURE: u32 = 4;
/// The keys that a training assigns.
const TRAINING_KEYS: [&str; 7] =
    ["training", "progress", "loss", "test_loss", "accuracy", "curve", "confusion"];

/// One user's state.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Demo {
    items: Vec<String>,
    settings: Settings,
    /// Boxed: most sessions train nothing.
    training: Option<Box<Training>>,
    /// Names the first question of who owns the session. A page that hears another name than before
    /// knows that the session has started from nothing: had this message been saved, or sent again,
    /// the name would be the same.
    born: Option<String>,
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
    /// Trains a new model, with other settings than before if some are given.
    Train {
        #[serde(default = "default_steps")]
        steps: u32,
        #[serde(flatten)]
        change: Change,
    },
    /// Stops training for a while.
    Pause,
    /// Goes on training.
    Continue,
    /// Forgets the training.
    Reset,
    /// Changes settings, also while the model trains.
    Set(Change),
    /// One step of the training.
    #[serde(rename = "_step")]
    Step,
}

/// New values of some settings.
#[derive(Serialize, Deserialize)]
pub(crate) struct Change {
    rate: Option<f64>,
    decay: Option<f64>,
    batch: Option<u32>,
}

fn default_steps() -> u32 {
    300
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

    const VERSION: u32 = 2;

    /// Version 1 trained another model, which nobody misses.
    fn migrate(_from: u32, saved: &Saved) -> Result<Self> {
        #[derive(Deserialize)]
        struct Demo1 {
            items: Vec<String>,
            born: Option<String>,
        }
        let Demo1 { items, born } = saved.read()?;
        Ok(Self { items, born, ..Self::default() })
    }

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
            Message::Train { steps, change } => self.train(steps, &change, ctx).await,
            Message::Pause => self.pause(true, ctx),
            Message::Continue => self.pause(false, ctx),
            Message::Reset => self.reset(ctx),
            Message::Set(change) => self.set(&change, ctx),
            Message::Step => self.step(ctx).await,
        }
    }
}

impl Demo {
    async fn train(&mut self, steps: u32, change: &Change, ctx: &mut Context) -> Result<()> {
        ensure!((1..=100_000).contains(&steps), "steps must be 1 to 100,000, not {steps}");
        self.set(change, ctx)?;
        self.reset(ctx)?;
        let training = self.training.insert(Box::new(Training::new(steps)));
        let digits = ctx.shared::<Digits>();
        let score = ctx.compute(&mut training.learner, move |model| model.test(&digits)).await;
        // Who knows nothing has read nothing: both losses are the same but for chance.
        show(training, score.loss, &score, ctx)?;
        ctx.schedule("step", Duration::ZERO, &Message::Step)
    }

    fn pause(&mut self, paused: bool, ctx: &mut Context) -> Result<()> {
        let Some(training) = self.training.as_mut().filter(|training| !training.is_done()) else {
            bail!("nothing is being trained");
        };
        training.pause(paused);
        if paused {
            ctx.unschedule("step");
            // Steps between two pictures are not to be missing for as long as nothing moves.
            ctx.assign("curve", &training.curve)?;
        } else {
            ctx.schedule("step", Duration::ZERO, &Message::Step)?;
        }
        ctx.assign("training", training.state())
    }

    fn reset(&mut self, ctx: &mut Context) -> Result<()> {
        ctx.unschedule("step");
        if self.training.take().is_some() {
            for key in TRAINING_KEYS {
                ctx.assign(key, &())?;
            }
        }
        Ok(())
    }

    fn set(&mut self, change: &Change, ctx: &Context) -> Result<()> {
        let Settings { rate, decay, batch } = self.settings;
        let settings = Settings {
            rate: change.rate.unwrap_or(rate),
            decay: change.decay.unwrap_or(decay),
            batch: change.batch.unwrap_or(batch),
        };
        self.settings = settings.check()?;
        ctx.assign("settings", &self.settings)
    }

    async fn step(&mut self, ctx: &mut Context) -> Result<()> {
        let Some(training) = self.training.as_mut().filter(|t| !t.paused && !t.is_done()) else {
            return Ok(());
        };
        let (settings, digits) = (self.settings, ctx.shared::<Digits>());
        let work = training::step(digits, settings);
        let (train, score) = ctx.compute(&mut training.learner, work).await;
        training.stepped(train, &score, Instant::now());
        if !training.is_done() {
            ctx.schedule("step", STEP_PAUSE, &Message::Step)?;
        }
        show(training, train, &score, ctx)
    }
}

/// Shows how far the training is; `train` is the loss over what it has just learned from.
fn show(training: &Training, train: f64, score: &Score, ctx: &Context) -> Result<()> {
    ctx.assign("training", training.state())?;
    ctx.assign("loss", &rounded(train))?;
    ctx.assign("test_loss", &rounded(score.loss))?;
    ctx.assign("accuracy", &rounded(score.accuracy))?;
    if training.done.is_multiple_of(STEPS_A_PICTURE) || training.is_done() {
        ctx.assign("curve", &training.curve)?;
        ctx.assign("confusion", &score.confusion)?;
    }
    let left = training.left().map(|left| left.as_millis());
    let progress = json!({"done": training.done, "total": training.total, "left_ms": left});
    ctx.progress("progress", &progress)
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
