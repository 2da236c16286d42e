//! Crash points and mutants: places at which a process of a test build dies or stands still when it
//! is told to, and mistakes that it makes when it is told to. Knows their names and how they are
//! chosen, not what they are good for: `tests/README.md` has that.
//!
//! ```text
//! SINGLE_STATE_CRASH_AT=committed:5        the fifth time that it comes to this point it kills itself
//! SINGLE_STATE_CRASH_AT=committed:5:stop   … it stops itself (SIGSTOP), and goes on after SIGCONT
//! SINGLE_STATE_MUTANT=no_dedup             it makes this mistake from its start on
//! ```
//!
//! Only with the feature `on`, which nothing but the tests switches on, is there any of it: without it
//! each function here is empty, and the variables are not read.

#[cfg(not(feature = "on"))]
mod off;
#[cfg(feature = "on")]
mod on;

#[cfg(not(feature = "on"))]
pub use off::{follow, half_write, mutant, point, start, under_way, write};
#[cfg(feature = "on")]
pub use on::{follow, half_write, mutant, point, start, under_way, write};

/// Says where the process is to die.
pub const CRASH_AT: &str = "SINGLE_STATE_CRASH_AT";
/// Says which mistake it is to make.
pub const MUTANT: &str = "SINGLE_STATE_MUTANT";
/// How a line on standard error begins, by which a process says that it will do so.
pub const ANNOUNCED: &str = "faults:";

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// A worker, whatever its app.
    Worker,
    /// A gateway.
    Gateway,
}

/// Declares names, so that the list of them is complete.
macro_rules! names {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type {
            $($(#[$doc])* $variant,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As the variable has it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

names! {
    /// Where a process can be told to die.
    Point {
        /// An OPEN has come.
        OpenReceived "open_received",
        /// A claim is committed, its OPENED unsent.
        Claimed "claimed",
        /// An input is applied, its save unsent.
        Applied "applied",
        /// A save was sent; in SQLite the next thing is its COMMIT, PostgreSQL has got it and its answer
        /// is not read.
        SaveSent "save_sent",
        /// A save is committed, its acknowledgements unsent.
        Committed "committed",
        /// Acknowledgements are on their way, half of their bytes written.
        AckHalfWritten "ack_half_written",
        /// A session is given up, its MOVED unsent.
        Released "released",
        /// The worker drains, half of a GOAWAY is written.
        GoingAway "going_away",
        /// A worker has bound its addresses and reached its store, and is to serve.
        Starting "starting",
        /// A state of an older version of the app was migrated; it is its first save that is not
        /// committed.
        Upgrading "upgrading",
        /// A gateway has read an input, and not forwarded it.
        InputRead "input_read",
        /// An input was forwarded and acknowledged, which its client has not heard.
        Forwarded "forwarded",
        /// Half of a welcome is written.
        WelcomeHalfSent "welcome_half_sent",
        /// The gateway drains, and has told a browser to go.
        SendingAway "sending_away",
    }
}

impl Point {
    /// Which process comes to it.
    pub const fn process(self) -> Process {
        match self {
            Self::InputRead | Self::Forwarded | Self::WelcomeHalfSent | Self::SendingAway => {
                Process::Gateway
            }
            _ => Process::Worker,
        }
    }
}

names! {
    /// A mistake that a process can be told to make.
    Mutant {
        /// Saves of an earlier owner are taken.
        NoEpochTest "no_epoch_test",
        /// A late save of an older snapshot is taken.
        NoVersionTest "no_version_test",
        /// Inputs are acknowledged when they are applied.
        AckBeforeCommit "ack_before_commit",
        /// A commit acknowledges what is applied by then, not what it has saved.
        AckOfMemory "ack_of_memory",
        /// An input is applied each time that it comes.
        NoDedup "no_dedup",
        /// Snapshots do not say which inputs they have.
        DedupNotSaved "dedup_not_saved",
        /// A session is handed over whether it is committed or not.
        MovedBeforeCommit "moved_before_commit",
        /// Of two connections of a channel, the one that comes later has it, however old it is.
        OlderAttachWins "older_attach_wins",
        /// Room for more input is given when a message comes, not when its session takes it.
        CreditOnReceive "credit_on_receive",
        /// A worker takes sessions that placement gives to another one.
        AnyPlacement "any_placement",
        /// A gateway goes on to open sessions at a worker that drains.
        DrainingNotSkipped "draining_not_skipped",
        /// A worker that drains hands no session over, and waits until its time is over.
        DrainWithoutHandover "drain_without_handover",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unlike_each_other() {
        let points = Point::ALL.iter().map(|point| point.name());
        let mut names: Vec<_> = points.chain(Mutant::ALL.iter().map(|m| m.name())).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
