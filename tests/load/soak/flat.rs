//! Whether figures that were taken at equal distances rise. Knows no processes.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};

/// What a process held at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) resident_kib: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    /// Sessions in a worker's memory, connections of a gateway.
    pub(crate) held: u64,
    /// Streams to workers.
    pub(crate) streams: u64,
}

/// All samples, by process and figure.
#[derive(Debug, Default)]
pub(crate) struct Watch(BTreeMap<(String, &'static str), Vec<f64>>);

/// What became of one figure of one process.
#[derive(Debug)]
pub(crate) struct Verdict {
    name: String,
    figure: &'static str,
    first: f64,
    last: f64,
    /// Growth from one sample to the next, of the line that fits best.
    slope: f64,
    pub(crate) is_flat: bool,
}

/// The first part of the samples is how a process becomes warm: one in so many.
const WARM: usize = 4;
/// Growth over all the rest that is none: of the mean …
const SHARE: f64 = 0.10;

/// … and of each figure, what comes and goes anyway.
fn slack(figure: &str) -> f64 {
    match figure {
        "KiB resident" => 4096.0,
        "threads" => 4.0,
        // A look may come before or after the last of a crowd has left.
        _ => 50.0,
    }
}

impl Sample {
    pub(crate) const HEAD: &str =
        "round  process       KiB resident  descriptors  threads  sessions or connections  streams";

    fn figures(&self) -> [(&'static str, u64); 5] {
        [
            ("KiB resident", self.resident_kib),
            ("descriptors", self.descriptors),
            ("threads", self.threads),
            ("held", self.held),
            ("streams", self.streams),
        ]
    }
}

impl Display for Sample {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { name, resident_kib, descriptors, threads, held, streams } = self;
        write!(
            f,
            "{name:<12} {resident_kib:>13} {descriptors:>12} {threads:>8} {held:>24} {streams:>8}"
        )
    }
}

impl Watch {
    pub(crate) fn add(&mut self, sample: Sample) {
        for (figure, value) in sample.figures() {
            self.0.entry((sample.name.clone(), figure)).or_default().push(value as f64);
        }
    }

    /// One for each figure of each process.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let judge = |((name, figure), values): (&(String, &'static str), &Vec<f64>)| {
            let values = &values[values.len() / WARM..];
            let slope = slope(values);
            let growth = slope * (values.len().max(1) - 1) as f64;
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            Verdict {
                name: name.clone(),
                figure,
                first: values.first().copied().unwrap_or(0.0),
                last: values.last().copied().unwrap_or(0.0),
                slope,
                is_flat: growth <= (SHARE * mean).max(slack(figure)),
            }
        };
        self.0.iter().map(judge).collect()
    }
}

impl Verdict {
    pub(crate) const HEAD: &str = "process      figure              first       last    a round";
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { name, figure, first, last, slope, is_flat } = self;
        let judged = if *is_flat { "" } else { "  RISES" };
        write!(f, "{name:<12} {figure:<13} {first:>11.0} {last:>10.0} {slope:>+10.1}{judged}")
    }
}

/// The slope of the line with the least squares.
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = values.iter().sum::<f64>() / count;
    let (mut over, mut under) = (0.0, 0.0);
    for (at, value) in values.iter().enumerate() {
        let x = at as f64 - middle;
        over += x * (value - mean);
        under += x * x;
    }
    if under == 0.0 { 0.0 } else { over / under }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_flat(kib: impl Fn(u64) -> u64) -> bool {
        let mut watch = Watch::default();
        for at in 0..60 {
            let resident_kib = kib(at);
            let (name, descriptors) = ("worker 0".to_owned(), 20);
            watch.add(Sample {
                name,
                resident_kib,
                descriptors,
                threads: 4,
                held: 100,
                streams: 0,
            });
        }
        watch.verdicts().iter().all(|verdict| verdict.is_flat)
    }

    #[test]
    fn what_goes_up_and_down_or_becomes_warm_is_flat_and_what_rises_is_not() {
        assert!(is_flat(|at| 100_000 + at % 7 * 900));
        assert!(is_flat(|at| 100_000 - 50_000 / (at * at + 1)));
        assert!(is_flat(|at| 200_000 - at * 1000));
        assert!(!is_flat(|at| 100_000 + at * 400));
    }

    #[test]
    fn a_slope_is_that_of_the_line_between() {
        assert_eq!(slope(&[1.0, 3.0, 5.0]), 2.0);
        assert_eq!(slope(&[7.0]), 0.0);
    }
}
