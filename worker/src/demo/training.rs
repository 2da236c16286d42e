//! A training in steps: the model, its settings, how far it is, and the curve of its losses. All of
//! it is saved, so that the next owner goes on from here. Knows nothing of browsers.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use single_state_worker::{Result, ensure};
use tokio::time::Instant;

use super::digits::{Digit, Digits};
use super::network::{Network, Random, Score};

/// Images that one step learns from, whatever the size of its batches: so all steps take as long.
const IMAGES: u32 = 128;
/// How much the newest step counts for the pace.
const NEWEST: f64 = 0.1;

/// What a user may change while the model trains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// How far each batch moves the weights.
    pub(crate) rate: f64,
    /// How strongly weights are pulled to 0.
    pub(crate) decay: f64,
    /// Images whose mean gradient is followed at once.
    pub(crate) batch: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rate: 0.2, decay: 0.0, batch: 32 }
    }
}

impl Settings {
    /// Within these bounds no weight ever grows beyond all numbers.
    pub(crate) fn check(self) -> Result<Self> {
        let Self { rate, decay, batch } = self;
        ensure!(rate > 0.0 && rate <= 10.0, "rate must be above 0 and at most 10, not {rate}");
        ensure!((0.0..=0.1).contains(&decay), "decay must be 0 to 0.1, not {decay}");
        ensure!((1..=IMAGES).contains(&batch), "batch must be 1 to {IMAGES}, not {batch}");
        Ok(self)
    }
}

/// What learns: the part of a training that another thread has during a step.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Learner {
    network: Network,
    /// Which images come next.
    random: Random,
}

impl Learner {
    /// Knows nothing yet.
    fn new() -> Self {
        let mut random = Random::new(2020);
        Self { network: Network::new(&mut random), random }
    }

    /// Learns from some images of `digits`, a batch at a time; the mean loss over them.
    pub(crate) fn step(&mut self, digits: &Digits, settings: Settings) -> f64 {
        let Settings { rate, decay, batch } = settings;
        let mut loss = 0.0;
        let mut left = IMAGES;
        while left > 0 {
            let size = batch.min(left);
            let images: Vec<&Digit> =
                (0..size).map(|_| &digits.train[self.random.below(digits.train.len())]).collect();
            loss += self.network.descend(&images, rate as f32, decay as f32);
            left -= size;
        }
        loss / f64::from(IMAGES)
    }

    /// How well it reads what it has not learned from.
    pub(crate) fn test(&self, digits: &Digits) -> Score {
        self.network.score(&digits.test)
    }
}

/// A training that has begun.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Training {
    pub(crate) learner: Learner,
    /// Steps.
    pub(crate) done: u32,
    /// Steps.
    pub(crate) total: u32,
    pub(crate) paused: bool,
    pub(crate) curve: Curve,
    /// How long a step takes, its rest included, in ms; 0 until that is known.
    pace: f64,
    /// When the last step was done, by this owner.
    #[serde(skip)]
    stepped: Option<Instant>,
}

impl Training {
    /// Of a model that knows nothing.
    pub(crate) fn new(total: u32) -> Self {
        let learner = Learner::new();
        let curve = Curve::default();
        Self { learner, done: 0, total, paused: false, curve, pace: 0.0, stepped: None }
    }

    pub(crate) fn state(&self) -> &'static str {
        match (self.is_done(), self.paused) {
            (true, _) => "done",
            (_, true) => "paused",
            (_, false) => "running",
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done >= self.total
    }

    /// Stops for a while, or goes on.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.stepped = None;
    }

    /// A step was done.
    pub(crate) fn stepped(&mut self, train: f64, score: &Score, now: Instant) {
        self.done += 1;
        self.curve.add(self.done, [train, score.loss, score.accuracy]);
        if let Some(last) = self.stepped.replace(now) {
            let took = now.duration_since(last).as_secs_f64() * 1000.0;
            let known = self.pace > 0.0;
            self.pace = if known { self.pace + (took - self.pace) * NEWEST } else { took };
        }
    }

    /// How long the rest may take, once that is known.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = f64::from(self.total - self.done) * self.pace;
        (self.pace > 0.0).then(|| Duration::from_secs_f64(left / 1000.0))
    }
}

/// The losses so far, thinned out: of a long training every other point is left out, and again,
/// so that its length stays bounded. Point `i` is of step `(i + 1) * every`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Curve {
    every: u32,
    train: Vec<f64>,
    test: Vec<f64>,
    accuracy: Vec<f64>,
}

impl Default for Curve {
    fn default() -> Self {
        Self { every: 1, train: Vec::new(), test: Vec::new(), accuracy: Vec::new() }
    }
}

impl Curve {
    const LONGEST: usize = 200;

    fn add(&mut self, step: u32, values: [f64; 3]) {
        if !step.is_multiple_of(self.every) {
            return;
        }
        for (line, value) in self.lines().into_iter().zip(values) {
            line.push(rounded(value));
        }
        if self.train.len() >= Self::LONGEST {
            self.every *= 2;
            self.lines().into_iter().for_each(thin_out);
        }
    }

    fn lines(&mut self) -> [&mut Vec<f64>; 3] {
        [&mut self.train, &mut self.test, &mut self.accuracy]
    }
}

/// Keeps the second of each two.
fn thin_out(line: &mut Vec<f64>) {
    let mut second = [false, true].into_iter().cycle();
    line.retain(|_| second.next().unwrap_or_default());
}

/// What can be seen of a number; it makes messages short.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Work for another thread: a step, and what it came to, in training and in the test.
pub(crate) fn step(
    digits: Arc<Digits>,
    settings: Settings,
) -> impl FnOnce(&mut Learner) -> (f64, Score) + Send + 'static {
    move |learner| (learner.step(&digits, settings), learner.test(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_learns_to_read_digits_that_it_has_never_seen() {
        let digits = Digits::load();
        let mut learner = Learner::new();
        let before = learner.test(&digits);
        assert!((before.loss - 10_f64.ln()).abs() < 0.3, "it guesses: {}", before.loss);
        for _ in 0..80 {
            learner.step(&digits, Settings::default());
        }
        let after = learner.test(&digits);
        assert!(after.accuracy > 0.9 && after.loss < 0.4, "{} {}", after.accuracy, after.loss);
    }

    #[test]
    fn the_wildest_settings_give_no_infinite_numbers() {
        let digits = Digits::load();
        for (decay, batch) in [(0.0, 1), (0.1, 1), (0.0, IMAGES), (0.1, IMAGES)] {
            let settings = Settings { rate: 10.0, decay, batch }.check().unwrap();
            let mut learner = Learner::new();
            for _ in 0..5 {
                assert!(learner.step(&digits, settings).is_finite());
            }
            assert!(learner.test(&digits).loss.is_finite());
        }
    }

    #[test]
    fn a_learner_that_was_saved_goes_on_as_if_nothing_had_been() {
        let digits = Digits::load();
        let mut learner = Learner::new();
        learner.step(&digits, Settings::default());
        let mut restored = learner.clone();
        learner.step(&digits, Settings::default());
        restored.step(&digits, Settings::default());
        assert_eq!(learner, restored);
    }

    #[test]
    fn a_curve_stays_short_and_covers_the_whole_training() {
        let mut curve = Curve::default();
        for step in 1..=100_000 {
            curve.add(step, [f64::from(step), 0.0, 0.0]);
            assert!(curve.train.len() < Curve::LONGEST);
        }
        assert!(curve.train.len() >= Curve::LONGEST / 2 - 1);
        for (i, step) in curve.train.iter().enumerate() {
            assert_eq!(*step, (i as f64 + 1.0) * f64::from(curve.every));
        }
        assert_eq!(curve.train.len(), curve.test.len());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_left_follows_from_the_pace_of_the_steps() {
        let mut training = Training::new(10);
        assert_eq!(training.left(), None);
        for _ in 0..4 {
            training.stepped(1.0, &Score::default(), Instant::now());
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert_eq!(training.left(), Some(Duration::from_millis(300)));
        // A pause is no slow step.
        training.pause(true);
        tokio::time::advance(Duration::from_secs(100)).await;
        training.pause(false);
        training.stepped(1.0, &Score::default(), Instant::now());
        assert_eq!(training.left(), Some(Duration::from_millis(250)));
    }
}
