//! One job at a time, and exactly one more if it was asked for meanwhile. Pure.

/// Whose turn it is: builds and rolls each have one.
///
/// ```text
/// Idle ── ask ─► Busy ── ask ─► BusyThenAgain ─┐ ask
///  ▲              │ ▲                │    ▲────┘
///  └──── done ────┘ └───── done ─────┘
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    #[default]
    Idle,
    Busy,
    BusyThenAgain,
}

impl Turn {
    /// True: begin the job now. False: it runs, and will be begun once more when it is done.
    #[must_use]
    pub(crate) fn ask(&mut self) -> bool {
        let begin = *self == Turn::Idle;
        *self = if begin { Turn::Busy } else { Turn::BusyThenAgain };
        begin
    }

    /// The job is done. True: begin it again now.
    #[must_use]
    pub(crate) fn done(&mut self) -> bool {
        let again = *self == Turn::BusyThenAgain;
        *self = if again { Turn::Busy } else { Turn::Idle };
        again
    }

    pub(crate) fn is_busy(self) -> bool {
        self != Turn::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::Turn;

    #[test]
    fn many_requests_during_a_job_cause_exactly_one_more() {
        let mut turn = Turn::default();
        assert!(turn.ask());
        assert!(!turn.ask());
        assert!(!turn.ask());
        assert!(turn.done());
        assert!(turn.is_busy());
        assert!(!turn.done());
        assert!(!turn.is_busy());
        assert!(turn.ask());
    }
}
