//! A small neural network that reads digits, and how it learns: one hidden layer, cross-entropy,
//! gradient descent over small batches. Pure arithmetic; knows nothing of sessions.
//!
//! ```text
//!   64 pixels ──▶ 24 × tanh ──▶ 10 × softmax = how likely each digit is
//! ```

use serde::{Deserialize, Serialize};

use super::digits::{CLASSES, Digit, PIXELS};

const HIDDEN: usize = 24;
/// Weights that lead to one hidden unit: one a pixel, and the offset.
const IN: usize = PIXELS + 1;
/// Weights that lead to one class: one a hidden unit, and the offset.
const OUT: usize = HIDDEN + 1;

/// The weights. The default has none, and is only there for as long as another thread has them.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    /// [`IN`] for each hidden unit.
    hidden: Vec<f32>,
    /// [`OUT`] for each class.
    output: Vec<f32>,
}

/// How well images are read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Score {
    /// Mean cross-entropy, in nats: 2.3 for who guesses, 0 for who is certain and right.
    pub(crate) loss: f64,
    /// Share that was read right, 0 to 1.
    pub(crate) accuracy: f64,
    /// How many images of a digit (outer index) were read as which (inner index).
    pub(crate) confusion: [[u32; CLASSES]; CLASSES],
}

/// A small, fast and repeatable source of random numbers: xorshift64*.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Random(u64);

/// What one image does to the units.
struct Activity {
    hidden: [f32; HIDDEN],
    /// How likely each class is; the sum is 1.
    classes: [f32; CLASSES],
}

impl Network {
    /// One that knows nothing: small random weights, so that its units become different.
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut layer = |units: usize, inputs: usize| {
            let spread = 1.0 / (inputs as f32).sqrt();
            (0..units * inputs).map(|_| (random.share() * 2.0 - 1.0) * spread).collect()
        };
        Self { hidden: layer(HIDDEN, IN), output: layer(CLASSES, OUT) }
    }

    /// Goes one step of `rate` against the gradient of the mean loss over a batch, while `decay`
    /// pulls all weights but the offsets to 0. Returns the sum of the losses before.
    pub(crate) fn descend(&mut self, batch: &[&Digit], rate: f32, decay: f32) -> f64 {
        let mut slope =
            Self { hidden: vec![0.0; self.hidden.len()], output: vec![0.0; self.output.len()] };
        let mut loss = 0.0;
        for digit in batch {
            let activity = self.read(&digit.pixels);
            loss += activity.loss(digit.label);
            self.add_slope(&mut slope, digit, &activity);
        }
        let rate_each = rate / batch.len() as f32;
        let keep = 1.0 - rate * decay;
        follow(&mut self.hidden, &slope.hidden, IN, rate_each, keep);
        follow(&mut self.output, &slope.output, OUT, rate_each, keep);
        loss
    }

    /// How well it reads these images.
    pub(crate) fn score(&self, digits: &[Digit]) -> Score {
        let mut score = Score::default();
        for digit in digits {
            let activity = self.read(&digit.pixels);
            let read_as = activity.likeliest();
            score.loss += activity.loss(digit.label);
            score.accuracy += f64::from(u8::from(read_as == digit.label));
            score.confusion[digit.label][read_as] += 1;
        }
        let count = digits.len().max(1) as f64;
        Score { loss: score.loss / count, accuracy: score.accuracy / count, ..score }
    }

    fn read(&self, pixels: &[f32; PIXELS]) -> Activity {
        let mut hidden = [0.0; HIDDEN];
        for (unit, weights) in hidden.iter_mut().zip(self.hidden.chunks_exact(IN)) {
            *unit = weigh(weights, pixels).tanh();
        }
        let mut classes = [0.0; CLASSES];
        for (class, weights) in classes.iter_mut().zip(self.output.chunks_exact(OUT)) {
            *class = weigh(weights, &hidden);
        }
        softmax(&mut classes);
        Activity { hidden, classes }
    }

    /// Adds what one image says about where the loss grows.
    fn add_slope(&self, slope: &mut Self, digit: &Digit, activity: &Activity) {
        let mut blame = [0.0_f32; HIDDEN];
        let layers = self.output.chunks_exact(OUT).zip(slope.output.chunks_exact_mut(OUT));
        for (class, (weights, slopes)) in layers.enumerate() {
            let wanted = if class == digit.label { 1.0 } else { 0.0 };
            let error = activity.classes[class] - wanted;
            add(slopes, &activity.hidden, error);
            for (blame, weight) in blame.iter_mut().zip(weights) {
                *blame += error * weight;
            }
        }
        let units = blame.iter().zip(&activity.hidden).zip(slope.hidden.chunks_exact_mut(IN));
        for ((blame, unit), slopes) in units {
            add(slopes, &digit.pixels, blame * (1.0 - unit * unit));
        }
    }
}

impl Activity {
    fn loss(&self, label: usize) -> f64 {
        -f64::from(self.classes[label].max(f32::MIN_POSITIVE)).ln()
    }

    fn likeliest(&self) -> usize {
        let mut best = 0;
        for (class, likelihood) in self.classes.iter().enumerate() {
            if *likelihood > self.classes[best] {
                best = class;
            }
        }
        best
    }
}

impl Random {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// From 0 up to 1.
    fn share(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// The weighted sum of the inputs; the last weight is the offset.
fn weigh(weights: &[f32], inputs: &[f32]) -> f32 {
    let (offset, weights) = weights.split_last().expect("a unit has an offset");
    weights.iter().zip(inputs).fold(*offset, |sum, (weight, input)| sum + weight * input)
}

/// Adds the inputs, and 1 for the offset, times `factor`.
fn add(slopes: &mut [f32], inputs: &[f32], factor: f32) {
    for (slope, input) in slopes.iter_mut().zip(inputs.iter().chain([&1.0])) {
        *slope += factor * input;
    }
}

/// Moves the weights of a layer whose units have `inputs` weights each.
fn follow(weights: &mut [f32], slopes: &[f32], inputs: usize, rate: f32, keep: f32) {
    let units = weights.chunks_exact_mut(inputs).zip(slopes.chunks_exact(inputs));
    for (weights, slopes) in units {
        for (i, (weight, slope)) in weights.iter_mut().zip(slopes).enumerate() {
            let keep = if i + 1 == inputs { 1.0 } else { keep };
            *weight = *weight * keep - rate * slope;
        }
    }
}

fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = (*value - largest).exp();
        sum += *value;
    }
    values.iter_mut().for_each(|value| *value /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A digit of random pixels.
    fn digit(random: &mut Random, label: usize) -> Digit {
        Digit { pixels: std::array::from_fn(|_| random.share()), label }
    }

    #[test]
    fn the_gradient_is_what_small_changes_of_the_weights_do_to_the_loss() {
        let mut random = Random::new(3);
        let network = Network::new(&mut random);
        let digit = digit(&mut random, 4);
        // With a rate of 1 over a batch of one, the change is the gradient.
        let mut moved = network.clone();
        moved.descend(&[&digit], 1.0, 0.0);
        let loss = |network: &Network| network.read(&digit.pixels).loss(digit.label);
        let h = 1e-2_f32;
        let check = |layer: fn(&mut Network) -> &mut Vec<f32>, i: usize| {
            let slope = layer(&mut network.clone())[i] - layer(&mut moved.clone())[i];
            let near = |by: f32| {
                let mut near = network.clone();
                layer(&mut near)[i] += by;
                loss(&near)
            };
            let seen = (near(h) - near(-h)) / f64::from(2.0 * h);
            assert!((f64::from(slope) - seen).abs() < 1e-3, "weight {i}: {slope}, seen {seen}");
        };
        for i in (0..HIDDEN * IN).step_by(53).chain([IN - 1]) {
            check(|network| &mut network.hidden, i);
        }
        for i in (0..CLASSES * OUT).step_by(7).chain([OUT - 1]) {
            check(|network| &mut network.output, i);
        }
    }

    #[test]
    fn decay_shrinks_all_weights_but_the_offsets() {
        let with_decay = |decay| {
            let mut network = Network::new(&mut Random::new(3));
            network.descend(&[&Digit { pixels: [0.0; PIXELS], label: 0 }], 0.5, decay);
            network
        };
        // Of a white image nothing is to be learned about what pixels mean.
        let (without, with) = (with_decay(0.0), with_decay(0.1));
        for pixel in 0..PIXELS {
            assert!((with.hidden[pixel] - without.hidden[pixel] * 0.95).abs() < 1e-6);
        }
        assert_eq!(with.hidden[PIXELS], without.hidden[PIXELS], "the offset");
    }

    #[test]
    fn a_score_counts_what_was_read_as_what() {
        let mut random = Random::new(3);
        let network = Network::new(&mut random);
        let digits: Vec<_> = (0..50).map(|i| digit(&mut random, i % CLASSES)).collect();
        let score = network.score(&digits);
        let right: u32 = (0..CLASSES).map(|label| score.confusion[label][label]).sum();
        assert_eq!(score.accuracy, f64::from(right) / 50.0);
        assert!(score.confusion.iter().all(|row| row.iter().sum::<u32>() == 5));
    }
}
