//! Faults as test builds have them. The crate `fail` counts how often a point is passed.

use std::fmt::Write as _;
use std::io::Result;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::{ANNOUNCED, CRASH_AT, MUTANT, Mutant, Point, Process};

/// What this process was told at its start.
static ORDERS: OnceLock<Orders> = OnceLock::new();
/// Of the next write only a half may leave.
static HALVES: AtomicBool = AtomicBool::new(false);

/// Bad usage, as of all processes.
const USAGE: u8 = 64;
/// A call is taken to have left this process after so many turns of its task.
const TURNS: u32 = 200;
/// A signal to oneself has come by then.
const ARRIVES_WITHIN: Duration = Duration::from_millis(50);

#[derive(Debug, Default, PartialEq)]
struct Orders {
    crash: Option<Crash>,
    mutant: Option<Mutant>,
}

/// Where the process ends.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Crash {
    point: Point,
    /// Which time that it comes there.
    nth: u32,
    /// It stops, and may go on.
    stops: bool,
}

/// Reads the variables. What they say of the other kind of process is no mistake, so that a whole
/// cluster can be given the same ones.
pub fn start(process: Process) -> std::result::Result<(), ExitCode> {
    let of = |name| std::env::var(name).ok();
    let orders = match Orders::read(of(CRASH_AT).as_deref(), of(MUTANT).as_deref()) {
        Ok(orders) => orders,
        Err(mistake) => {
            eprintln!("{mistake}");
            return Err(ExitCode::from(USAGE));
        }
    };
    if let Some(crash) = orders.crash.filter(|crash| crash.point.process() == process) {
        let Crash { point, nth, .. } = crash;
        set(point, nth);
        eprintln!("{ANNOUNCED} ends at {}, time {nth}", point.name());
    }
    if let Some(mutant) = orders.mutant {
        eprintln!("{ANNOUNCED} makes the mistake {}", mutant.name());
    }
    // Said once: the process has one start.
    let _ = ORDERS.set(orders);
    Ok(())
}

/// The process comes to this point.
pub fn point(point: Point) {
    if is_due(point) {
        end();
    }
}

/// The process comes to a point from which the way to another one is as good as gone.
pub fn follow(point: Point, to: Point) {
    if is_due(point) {
        set(to, 1);
    }
}

/// Of what is written next, only a half may leave.
pub fn half_write(point: Point) {
    if is_due(point) {
        HALVES.store(true, Ordering::Relaxed);
    }
}

/// Writes.
pub fn write(bytes: &[u8], write: impl FnOnce(&[u8]) -> Result<usize>) -> Result<usize> {
    if !HALVES.swap(false, Ordering::Relaxed) {
        return write(bytes);
    }
    let written = write(&bytes[..bytes.len() / 2]);
    end();
    written
}

/// The process comes to this point while somebody else works on a call: when what it asks has left
/// this process, and before its answer is read.
pub async fn under_way<F: Future>(point: Point, call: F) -> F::Output {
    if !is_set(point) {
        return call.await;
    }
    let (mut call, mut turns) = (pin!(call), 0);
    std::future::poll_fn(|context| {
        let answer = call.as_mut().poll(context);
        if turns < TURNS {
            turns += 1;
            if turns == TURNS || answer.is_ready() {
                turns = TURNS;
                self::point(point);
            } else {
                context.waker().wake_by_ref();
            }
        }
        answer
    })
    .await
}

/// Whether this mistake is to be made.
pub fn mutant(mutant: Mutant) -> bool {
    ORDERS.get().is_some_and(|orders| orders.mutant == Some(mutant))
}

fn set(point: Point, nth: u32) {
    let actions = format!("{}*off->1*return", nth.saturating_sub(1));
    fail::cfg(point.name(), &actions).expect("these are actions");
}

fn is_set(point: Point) -> bool {
    fail::list().iter().any(|(name, _)| name == point.name())
}

fn is_due(point: Point) -> bool {
    fail::fail_point!(point.name(), |_| true);
    false
}

fn end() {
    let stops = ORDERS.get().and_then(|orders| orders.crash).is_some_and(|crash| crash.stops);
    let signal = if stops { Signal::STOP } else { Signal::KILL };
    kill_process(getpid(), signal).expect("a process may signal itself");
    // The signal may take another of this process's threads first.
    std::thread::sleep(ARRIVES_WITHIN);
}

impl Orders {
    fn read(crash: Option<&str>, mutant: Option<&str>) -> std::result::Result<Self, String> {
        let named = |name: &str| Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
        let mutant = mutant
            .map(|name| {
                let names = Mutant::ALL.iter().map(|mutant| mutant.name());
                named(name).ok_or_else(|| mistake(MUTANT, name, "NAME", names))
            })
            .transpose()?;
        let crash = crash
            .map(|text| {
                let names = Point::ALL.iter().map(|point| point.name());
                Crash::read(text).ok_or_else(|| mistake(CRASH_AT, text, "NAME:N[:stop]", names))
            })
            .transpose()?;
        Ok(Self { crash, mutant })
    }
}

impl Crash {
    fn read(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once(':')?;
        let (nth, stops) = match rest.split_once(':') {
            None => (rest, false),
            Some((nth, "stop")) => (nth, true),
            Some(_) => return None,
        };
        let point = Point::ALL.iter().copied().find(|point| point.name() == name)?;
        let nth = nth.parse().ok().filter(|nth| *nth > 0)?;
        Some(Self { point, nth, stops })
    }
}

fn mistake<'a>(
    variable: &str,
    value: &str,
    form: &str,
    names: impl Iterator<Item = &'a str>,
) -> String {
    let mut text = format!("{variable} {value:?}: give {form}, where NAME is one of");
    for name in names {
        let _ = write!(text, "\n  {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_name_a_number_and_perhaps_a_stop() {
        let crash = |nth, stops| Some(Crash { point: Point::SaveSent, nth, stops });
        assert_eq!(Crash::read("save_sent:7"), crash(7, false));
        assert_eq!(Crash::read("save_sent:1:stop"), crash(1, true));
        for wrong in ["", "save_sent", "save_sent:0", "save_sent:x", "save_sent:1:", "save_send:1"]
        {
            assert_eq!(Crash::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn wrong_names_are_answered_with_all_that_there_are() {
        let wrong = |crash, mutant| Orders::read(crash, mutant).unwrap_err();
        let (crash, mutant) = (wrong(Some("x:1"), None), wrong(None, Some("x")));
        assert!(Point::ALL.iter().all(|point| crash.contains(point.name())), "{crash}");
        assert!(Mutant::ALL.iter().all(|one| mutant.contains(one.name())), "{mutant}");
        assert_eq!(Orders::read(None, None), Ok(Orders::default()));
    }

    #[test]
    fn a_point_is_due_once_at_its_time() {
        set(Point::Claimed, 3);
        let due: Vec<_> = (0..5).map(|_| is_due(Point::Claimed)).collect();
        assert_eq!(due, [false, false, true, false, false]);
        assert!(is_set(Point::Claimed));
        assert!(!is_set(Point::Released) && !is_due(Point::Released), "it was never set");
    }
}
