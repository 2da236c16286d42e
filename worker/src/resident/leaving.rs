//! How a resident session leaves memory: when everything is committed, or, where that is not to be
//! had in time, in the middle of what it does.
//!
//! ```text
//!            retire                    all committed
//!   lives ───────────▶ takes no work ────────────────▶ released, MOVED
//!     ▲                  │       │
//!     └── cannot commit ─┘       └─ a handler runs on for too long ──▶ back to the last commit
//! ```

use std::task::{Context, Poll};

use single_state_proto::frame::ResetCode;
use tokio::time::Instant;

use super::Resident;
use super::state::State;

/// Why a session leaves memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Nothing has happened for long.
    Idle,
    /// The worker is short of memory.
    Memory,
    /// The worker ends.
    Drain,
    /// A gateway asks for it.
    Recall,
    /// It belongs to another worker since the topology changed.
    Reshard,
    /// Its gateway has seen an owner of a higher epoch, which has left no trace.
    Outrun,
}

impl Leave {
    /// Those for which another worker is to go on with it.
    pub(crate) const MOVES: [Self; 3] = [Self::Drain, Self::Recall, Self::Reshard];
    pub(crate) const ALL: [Self; 6] =
        [Self::Idle, Self::Memory, Self::Drain, Self::Recall, Self::Reshard, Self::Outrun];

    /// As metrics have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Drain => "drain",
            Self::Recall => "recall",
            Self::Reshard => "reshard",
            Self::Outrun => "outrun",
        }
    }

    /// Whether another worker is to go on with it.
    pub(crate) fn is_move(self) -> bool {
        Self::MOVES.contains(&self)
    }
}

/// Why a session's coroutine is dropped wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// A later owner has the session.
    Fenced,
    /// It is wanted elsewhere, and its handler has taken too long.
    Interrupted,
}

impl Resident {
    /// The session is to leave memory once everything is committed. Returns when its commit is due,
    /// if that is news to the committer.
    pub(crate) fn retire(&self, why: Leave) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        let now = Instant::now();
        let unused = !state.touched && state.mailbox.is_empty() && state.posts.is_none();
        state.stopped |= unused;
        state.leaving.get_or_insert((now, why));
        state.saving.settle(now);
        state.wake();
        state.news()
    }

    /// It stays after all, unless it has left already.
    pub(crate) fn stay(&self) {
        let mut state = self.state.borrow_mut();
        if !state.stopped {
            state.leaving = None;
            state.wake();
        }
    }

    /// Since when it is to leave, and why.
    pub(crate) fn leaving(&self) -> Option<(Instant, Leave)> {
        self.state.borrow().leaving
    }

    /// Whether it leaves memory, and the store has everything.
    pub(crate) fn has_left(&self) -> bool {
        let state = self.state.borrow();
        state.stopped || (state.leaving.is_some() && state.saving.is_clean())
    }

    /// Whether app code runs, or waits for something. None begins while the session is to leave.
    pub(crate) fn is_in_call(&self) -> bool {
        self.state.borrow().in_call
    }

    /// Length of its newest snapshot.
    pub(crate) fn bytes(&self) -> usize {
        self.state.borrow().saving.bytes
    }

    // --- in the middle of something -------------------------------------------------------------

    /// A later owner has the session: nothing more is said or saved.
    pub(crate) fn fence(&self) {
        self.reset_channels(ResetCode::Fenced);
        self.state.borrow_mut().cut(Cut::Fenced);
    }

    /// What runs is dropped, and the session leaves as it was last committed.
    pub(crate) fn interrupt(&self) {
        let mut state = self.state.borrow_mut();
        state.stopped = true;
        state.cut(Cut::Interrupted);
    }

    /// Ready when the coroutine is to be dropped.
    pub(crate) fn poll_cut(&self, context: &mut Context<'_>) -> Poll<Cut> {
        let mut state = self.state.borrow_mut();
        if let Some(cut) = state.cut {
            return Poll::Ready(cut);
        }
        state.register(context);
        Poll::Pending
    }
}

impl State {
    fn cut(&mut self, cut: Cut) {
        // Nothing is said of a session that is lost, whatever else was to become of it.
        if self.cut != Some(Cut::Fenced) {
            self.cut = Some(cut);
        }
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}
