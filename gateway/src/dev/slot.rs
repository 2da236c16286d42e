//! The place of one worker: its addresses, which outlive its processes, and what it is doing.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpSocket,
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    backoff::{self, Backoff},
    process::{Ending, ask},
};

/// One worker of the supervisor.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) link: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Hold the ports until the first start.
    reserved: Vec<TcpSocket>,
    state: State,
    /// Raised by every change of the state that a task may report on; older reports are void.
    run: u64,
    backoff: Backoff,
    /// Who asked for a restart and waits until it is through.
    waiting: Vec<oneshot::Sender<()>>,
}

/// ```text
///          started            restart
///   Absent ──────► Running ────────────► Restarting
///                  ▲ │  ▲                     │
///          started │ │  └─ ended, started ────┘
///                  │ ▼ ended: it died
///                 Waiting
/// ```
/// `end` makes Waiting Absent; so does the end of a process when all end.
#[derive(Debug)]
enum State {
    Absent,
    Running { since: Instant, ending: watch::Sender<Ending> },
    Restarting { ending: watch::Sender<Ending> },
    Waiting,
}

/// What the end of a process means for its worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterEnd {
    /// It was to be restarted.
    StartAgain,
    /// It died after it lived so long.
    Died(Duration),
}

/// What a request to restart means for a worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// No process is in the way.
    StartNow,
    /// First the running one has to end.
    WhenEnded,
}

impl Slot {
    pub(crate) fn new((link, admin): (SocketAddr, SocketAddr), reserved: Vec<TcpSocket>) -> Self {
        Self {
            link,
            admin,
            reserved,
            state: State::Absent,
            run: 0,
            backoff: Backoff::default(),
            waiting: Vec::new(),
        }
    }

    /// Frees the ports for the process that is about to start.
    pub(crate) fn free_ports(&mut self) {
        self.reserved.clear();
    }

    /// A process runs; `ending` tells it to end. Returns the number of this run.
    pub(crate) fn started(&mut self, ending: watch::Sender<Ending>) -> u64 {
        self.state = State::Running { since: Instant::now(), ending };
        self.next_run()
    }

    /// The process is gone.
    pub(crate) fn ended(&mut self) -> AfterEnd {
        match std::mem::replace(&mut self.state, State::Absent) {
            State::Running { since, .. } => AfterEnd::Died(since.elapsed()),
            State::Restarting { .. } => AfterEnd::StartAgain,
            State::Absent | State::Waiting => AfterEnd::Died(Duration::ZERO),
        }
    }

    /// It died, or could not be started: waits for its next start. Returns the run that this start
    /// belongs to, and the delay until then.
    pub(crate) fn retry(&mut self, lived: Duration) -> (u64, Duration) {
        self.release();
        self.state = State::Waiting;
        (self.next_run(), self.backoff.next(lived, backoff::random()))
    }

    /// Whether the start that was planned in this run is still wanted.
    pub(crate) fn is_due(&self, run: u64) -> bool {
        self.run == run && matches!(self.state, State::Waiting)
    }

    pub(crate) fn restart(&mut self, done: oneshot::Sender<()>) -> Restart {
        self.waiting.push(done);
        match std::mem::replace(&mut self.state, State::Absent) {
            State::Absent | State::Waiting => Restart::StartNow,
            State::Running { ending, .. } | State::Restarting { ending } => {
                ask(&ending, Ending::Gently);
                self.state = State::Restarting { ending };
                Restart::WhenEnded
            }
        }
    }

    /// Asks the process to end, if there is one, and plans no other start.
    pub(crate) fn end(&mut self, how: Ending) {
        self.release();
        match &self.state {
            State::Running { ending, .. } | State::Restarting { ending } => ask(ending, how),
            State::Absent | State::Waiting => self.state = State::Absent,
        }
    }

    /// SIGKILL; what follows is as if it had died by itself.
    pub(crate) fn kill(&self) {
        if let State::Running { ending, .. } | State::Restarting { ending } = &self.state {
            ask(ending, Ending::AtOnce);
        }
    }

    pub(crate) fn has_process(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Restarting { .. })
    }

    /// Whether the start of this worker is awaited by somebody.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The probe of this run is through: it serves, or took too long.
    pub(crate) fn probed(&mut self, run: u64) {
        if self.run == run {
            self.release();
        }
    }

    fn release(&mut self) {
        for done in self.waiting.drain(..) {
            // Who does not wait any more need not be told.
            let _ = done.send(());
        }
    }

    fn next_run(&mut self) -> u64 {
        self.run += 1;
        self.run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Slot::new((anywhere, anywhere), Vec::new())
    }

    #[test]
    fn an_ending_is_only_hastened() {
        let (ending, asked) = watch::channel(Ending::No);
        for how in [Ending::AtOnce, Ending::Gently] {
            ask(&ending, how);
            assert_eq!(*asked.borrow(), Ending::AtOnce);
        }
    }

    #[tokio::test]
    async fn a_restart_during_the_delay_starts_now_and_voids_the_planned_start() {
        let mut slot = slot();
        slot.started(watch::channel(Ending::No).0);
        assert!(matches!(slot.ended(), AfterEnd::Died(_)));
        let (planned, _) = slot.retry(Duration::ZERO);
        assert!(slot.is_due(planned));
        assert_eq!(slot.restart(oneshot::channel().0), Restart::StartNow);
        slot.started(watch::channel(Ending::No).0);
        assert!(!slot.is_due(planned));
        slot.ended();
        slot.retry(Duration::ZERO);
        assert!(!slot.is_due(planned), "that was another delay");
    }

    #[tokio::test]
    async fn nothing_is_started_any_more_when_all_end() {
        let mut slot = slot();
        let (planned, _) = slot.retry(Duration::ZERO);
        slot.end(Ending::Gently);
        assert!(!slot.is_due(planned));
    }

    #[tokio::test]
    async fn who_waits_for_a_restart_is_told_once_the_new_process_was_probed() {
        let mut slot = slot();
        let (ending, asked) = watch::channel(Ending::No);
        let first = slot.started(ending);
        let (done, mut restarted) = oneshot::channel();
        assert_eq!(slot.restart(done), Restart::WhenEnded);
        assert_eq!(*asked.borrow(), Ending::Gently);
        assert_eq!(slot.ended(), AfterEnd::StartAgain);
        let second = slot.started(watch::channel(Ending::No).0);
        slot.probed(first);
        assert!(restarted.try_recv().is_err());
        slot.probed(second);
        assert!(restarted.try_recv().is_ok());
    }
}
