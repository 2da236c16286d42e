//! Processes that die, or stand still, at a named point of their code. Only test builds have these.

use std::time::Duration;

use anyhow::{Result, ensure};
use single_state_faults::{Point, Process as Role};
use single_state_tests::DEADLINE;
use single_state_tests::faults::{Faults, Victim};
use single_state_tests::process::Process;
use tokio::time::{Instant, sleep};

use crate::nemesis::schedule::Fault;
use crate::nemesis::stage::Stage;

/// So long a process may take to come to its point by itself; then it is told to end, as some points
/// are on that way.
const UNTIL_TOLD: Duration = Duration::from_secs(2);
/// A process comes to its point so often at most before it dies there.
const MOST: u64 = 20;
const LOOK: Duration = Duration::from_millis(10);

/// Those that a process comes to while a cluster is in use.
fn points() -> Vec<Point> {
    let elsewhere = [Point::Starting, Point::Upgrading];
    Point::ALL.iter().copied().filter(|point| !elsewhere.contains(point)).collect()
}

/// The point of a fault.
pub(crate) fn point(fault: &Fault) -> Point {
    let points = points();
    points[fault.dice as usize % points.len()]
}

fn is_gateway(fault: &Fault) -> bool {
    point(fault).process() == Role::Gateway
}

/// What a process has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Ended,
    Stopped,
    Runs,
}

/// Restarts the process such that it has a point, and waits until it has come there, or has ended.
pub(crate) async fn begin(stage: &mut Stage, fault: &Fault) -> Result<String> {
    let point = point(fault);
    let nth = 1 + ((fault.dice >> 8) % MOST) as u32;
    let is_stop = (fault.dice >> 16).is_multiple_of(3);
    let victim = if is_gateway(fault) { Victim::Gateway } else { Victim::Worker(fault.worker) };
    let faults = if is_stop { Faults::stop } else { Faults::kill };
    end_in_order(process(stage, fault)).await?;
    stage.fleet.set_faults(faults(victim, point, nth));
    let started = start(stage, fault).await;
    stage.fleet.set_faults(Faults::default());
    started?;
    let process = process(stage, fault);
    let mut seen = watch(process, UNTIL_TOLD).await?;
    if seen == Seen::Runs {
        process.signal("TERM")?;
        seen = watch(process, DEADLINE).await?;
        ensure!(seen != Seen::Runs, "told to end, it runs on: {}", process.output());
    }
    if seen == Seen::Stopped {
        sleep(Duration::from_millis(fault.lasts_ms)).await;
        process.signal("CONT")?;
    }
    let is_reached = seen == Seen::Stopped || process.was_killed();
    let (end, name) = (if is_stop { "stopped" } else { "killed" }, point.name());
    Ok(if is_reached {
        format!("{end} at {name}:{nth}")
    } else {
        format!("{name}:{nth} not reached")
    })
}

/// Whatever it was that it came to, it is followed by one without a point.
pub(crate) async fn end(stage: &mut Stage, fault: &Fault) -> Result<()> {
    end_in_order(process(stage, fault)).await?;
    start(stage, fault).await
}

async fn start(stage: &mut Stage, fault: &Fault) -> Result<()> {
    match is_gateway(fault) {
        true => stage.fleet.start_gateway_again(fault.gateway).await,
        false => stage.fleet.start_worker_again(fault.worker).await,
    }
}

fn process<'a>(stage: &'a mut Stage, fault: &Fault) -> &'a mut Process {
    let node = match is_gateway(fault) {
        true => &mut stage.fleet.gateways[fault.gateway],
        false => &mut stage.fleet.workers[fault.worker],
    };
    &mut node.process
}

/// Lets a process end that has perhaps ended already.
async fn end_in_order(process: &mut Process) -> Result<()> {
    if !process.has_ended()? {
        process.signal("TERM")?;
        process.wait().await?;
    }
    Ok(())
}

async fn watch(process: &mut Process, most: Duration) -> Result<Seen> {
    let began = Instant::now();
    while began.elapsed() < most {
        if process.has_ended()? {
            return Ok(Seen::Ended);
        }
        if process.is_stopped()? {
            return Ok(Seen::Stopped);
        }
        sleep(LOOK).await;
    }
    Ok(Seen::Runs)
}
