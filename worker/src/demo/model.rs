//! A small real model: logistic regression that tells two clouds of points in the plane apart,
//! trained by gradient descent over all of them. Knows nothing of sessions.

use serde::{Deserialize, Serialize};

const POINTS: u32 = 400;

/// Weights of `x`, of `y`, and the offset.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Model {
    weights: [f64; 3],
}

/// A point and the cloud that it belongs to, 0 or 1.
#[derive(Debug, Clone, Copy)]
struct Point {
    features: [f64; 3],
    label: f64,
}

impl Model {
    /// Goes `passes` steps of `rate` against the gradient of the loss.
    pub(crate) fn descend(&mut self, rate: f64, passes: u32) {
        for _ in 0..passes {
            let mut gradient = [0.0; 3];
            for point in points() {
                let error = self.probability(&point) - point.label;
                for (sum, feature) in gradient.iter_mut().zip(point.features) {
                    *sum += error * feature / f64::from(POINTS);
                }
            }
            for (weight, slope) in self.weights.iter_mut().zip(gradient) {
                *weight -= rate * slope;
            }
        }
    }

    /// Mean cross-entropy over the points, in nats.
    pub(crate) fn loss(&self) -> f64 {
        let each = points().map(|point| {
            let p = self.probability(&point).clamp(1e-12, 1.0 - 1e-12);
            -(point.label * p.ln() + (1.0 - point.label) * (1.0 - p).ln())
        });
        each.sum::<f64>() / f64::from(POINTS)
    }

    /// Share of the points that are told right, 0 to 1.
    pub(crate) fn accuracy(&self) -> f64 {
        let right = points().filter(|p| (self.probability(p) > 0.5) == (p.label > 0.5)).count();
        right as f64 / f64::from(POINTS)
    }

    fn probability(&self, point: &Point) -> f64 {
        let sum: f64 = self.weights.iter().zip(point.features).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + (-sum).exp())
    }
}

/// Two clouds that overlap a little; the same at every call.
fn points() -> impl Iterator<Item = Point> {
    let mut state = 1_u64;
    let mut uniform = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..POINTS).map(move |i| {
        let label = f64::from(i % 2);
        // The sum of four uniform numbers is nearly normal.
        let mut spread = || (0..4).map(|_| uniform()).sum::<f64>() - 2.0;
        let centre = 2.0 * label - 1.0;
        Point { features: [centre * 0.7 + spread(), centre * 0.4 + spread(), 1.0], label }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descending_lowers_the_loss_and_tells_most_points_right() {
        let mut model = Model::default();
        assert!((model.loss() - 2_f64.ln()).abs() < 1e-9, "knows nothing at first");
        model.descend(0.5, 200);
        assert!(
            model.loss() < 0.3 && model.accuracy() > 0.85,
            "{} {}",
            model.loss(),
            model.accuracy()
        );
    }
}
