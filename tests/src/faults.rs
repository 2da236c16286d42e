//! What processes of a cluster are told to do wrong: where they die, and which mistake they make.
//! Test builds only: all programs are built with `--features single-state-tests/faults`.

use anyhow::{Context, Result};
use single_state_faults::{ANNOUNCED, CRASH_AT, MUTANT, Mutant, Point};
use tokio::process::Command;

use crate::process::Process;

/// One of a cluster's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Each gateway.
    Gateway,
    /// The worker with this index.
    Worker(usize),
}

/// What becomes of a process at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is killed.
    Killed,
    /// It stops, until somebody lets it go on.
    Stopped,
}

/// Where a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Which process.
    pub victim: Victim,
    /// The point, …
    pub point: Point,
    /// … and which time that it comes there.
    pub nth: u32,
    /// How it ends.
    pub end: End,
}

/// What processes are told when they start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Where one of them ends.
    pub crash: Option<Crash>,
    /// The mistake that all of them make.
    pub mutant: Option<Mutant>,
}

impl Faults {
    /// The process dies there.
    pub fn kill(victim: Victim, point: Point, nth: u32) -> Self {
        let crash = Some(Crash { victim, point, nth, end: End::Killed });
        Self { crash, mutant: None }
    }

    /// The process stops there.
    pub fn stop(victim: Victim, point: Point, nth: u32) -> Self {
        let crash = Some(Crash { victim, point, nth, end: End::Stopped });
        Self { crash, mutant: None }
    }

    /// All make this mistake, too.
    #[must_use]
    pub fn and(self, mutant: Option<Mutant>) -> Self {
        Self { mutant, ..self }
    }

    /// Tells a process that is about to be started.
    pub(crate) fn tell(&self, victim: Victim, command: &mut Command) {
        if let Some(crash) = self.crash_of(victim) {
            let Crash { point, nth, end, .. } = crash;
            let stop = if end == End::Stopped { ":stop" } else { "" };
            command.env(CRASH_AT, format!("{}:{nth}{stop}", point.name()));
        }
        if let Some(mutant) = self.mutant {
            command.env(MUTANT, mutant.name());
        }
    }

    /// A process that was told something says so, unless it was built without faults.
    pub(crate) async fn must_be_known(&self, victim: Victim, process: &Process) -> Result<()> {
        if self.crash_of(victim).is_none() && self.mutant.is_none() {
            return Ok(());
        }
        let announced = process.wait_for_line(|line| line.starts_with(ANNOUNCED).then_some(()));
        announced.await.context("is it built with --features single-state-tests/faults?")
    }

    fn crash_of(&self, victim: Victim) -> Option<Crash> {
        self.crash.filter(|crash| crash.victim == victim)
    }
}
