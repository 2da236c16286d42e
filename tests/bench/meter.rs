//! CPU time of servers, with that of their children where they have some.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::table::Cell;
use crate::usage::Watched;

/// CPU time by name of meter.
pub(crate) type Cpu = Vec<(&'static str, Duration)>;

/// Ticks of a CPU clock in `/proc/PID/stat`, a second.
const TICKS: u64 = 100;

/// One server whose CPU time is read.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    pub(crate) name: &'static str,
    process: u32,
    has_children: bool,
}

/// What several servers had used at one moment.
#[derive(Debug)]
pub(crate) struct Reading(Cpu);

/// Fields of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    /// CPU time of children that have ended.
    reaped: Duration,
}

impl Meter {
    /// Counts one process.
    pub(crate) fn of(name: &'static str, process: u32) -> Self {
        Self { name, process, has_children: false }
    }

    /// Counts a process and its children, those that have ended too.
    pub(crate) fn of_family(name: &'static str, process: u32) -> Self {
        Self { name, process, has_children: true }
    }

    fn cpu(&self) -> Result<Duration> {
        let own = cpu(self.process).with_context(|| format!("{} has ended", self.name))?;
        if !self.has_children {
            return Ok(own);
        }
        let reaped = stat(self.process).map_or(Duration::ZERO, |stat| stat.reaped);
        let numbers = fs::read_dir("/proc")?.flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = numbers
            .filter(|child: &u32| stat(*child).is_some_and(|stat| stat.parent == self.process));
        Ok(own + reaped + children.filter_map(cpu).sum::<Duration>())
    }
}

impl Reading {
    pub(crate) fn take(meters: &[Meter]) -> Result<Self> {
        let one = |meter: &Meter| Ok((meter.name, meter.cpu()?));
        Ok(Self(meters.iter().map(one).collect::<Result<_>>()?))
    }

    /// CPU time of each name since `before`, which read the same meters.
    pub(crate) fn since(&self, before: &Self) -> Cpu {
        let pairs = self.0.iter().zip(&before.0);
        pairs.map(|((name, now), (_, then))| (*name, now.saturating_sub(*then))).collect()
    }
}

/// The process that is a process's parent.
pub(crate) fn parent(process: u32) -> Result<u32> {
    Ok(stat(process).context("the process has ended")?.parent)
}

/// CPU µs of the meter at this place for each of `count`; a dash when there is none.
pub(crate) fn each(cpu: &Cpu, place: usize, count: f64) -> Cell {
    match cpu.get(place) {
        Some((_, cpu)) => (cpu.as_secs_f64() * 1e6 / count).into(),
        None => "–".into(),
    }
}

/// A process that runs.
pub(crate) fn watch(process: u32) -> Option<Watched> {
    format!("process={process}").parse().ok()
}

fn cpu(process: u32) -> Option<Duration> {
    watch(process)?.cpu()
}

fn stat(process: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Names of programs may have spaces and brackets in them; the rest has not.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let reaped = Duration::from_millis((ticks(13)? + ticks(14)?) * 1000 / TICKS);
    Some(Stat { parent: fields.get(1)?.parse().ok()?, reaped })
}
