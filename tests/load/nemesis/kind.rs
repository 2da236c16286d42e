//! The kinds of faults: their names, what they touch, and how long they last.

use std::str::FromStr;

use crate::nemesis::config::Store;

/// What a fault touches. Two faults that touch the same are not there at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Workers,
    Gateways,
    Links,
    Database,
    DatabaseLinks,
    Browsers,
    Clocks,
}

/// What a kind needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Postgres,
    Sqlite,
    /// A small disk, which only root may mount.
    Root,
    /// `libfaketime`.
    Clocks,
    /// Programs that were built with the feature `faults`.
    TestBuild,
}

/// Declares kinds, so that the list of them is complete.
macro_rules! kinds {
    ($($kind:ident $name:literal $part:ident $need:ident $from:literal..$to:literal $about:literal,)*) => {
        /// One kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind {
            $(#[doc = $about] $kind,)*
        }

        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// As flags and reports have it.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            pub(crate) const fn about(self) -> &'static str {
                match self { $(Self::$kind => $about,)* }
            }

            pub(crate) const fn part(self) -> Part {
                match self { $(Self::$kind => Part::$part,)* }
            }

            pub(crate) const fn need(self) -> Need {
                match self { $(Self::$kind => Need::$need,)* }
            }

            /// How long it lasts, in milliseconds, at least and at most; 0 if it is over at once.
            pub(crate) const fn lasts(self) -> (u64, u64) {
                match self { $(Self::$kind => ($from, $to),)* }
            }
        }
    };
}

kinds! {
    WorkerKill "worker-kill" Workers Nothing 100..1500 "kill -9 of a worker, started again",
    WorkerTerm "worker-term" Workers Nothing 0..1000 "SIGTERM to a worker, started again when it has ended",
    WorkerFreeze "worker-freeze" Workers Nothing 500..5000 "SIGSTOP of a worker, then SIGCONT",
    RollingRestart "rolling-restart" Workers Nothing 0..1 "SIGTERM to all workers, one after the other",
    Reshard "reshard" Workers Nothing 0..1000 "another number of workers, from 1 to 5",
    AppVersion "app-version" Workers Nothing 500..2000 "a worker restarted as an older version of its app, then as the newer one",
    CrashPoint "crash-point" Workers TestBuild 100..1000 "a worker or a gateway that dies, or stands still, at a named point of its code",
    GatewayKill "gateway-kill" Gateways Nothing 100..1500 "kill -9 of a gateway, started again",
    GatewayTerm "gateway-term" Gateways Nothing 0..1000 "SIGTERM to a gateway, started again when it has ended",
    GatewayFreeze "gateway-freeze" Gateways Nothing 500..5000 "SIGSTOP of a gateway, then SIGCONT",
    LinkCut "link-cut" Links Nothing 0..500 "a link between a gateway and a worker is reset, and none is let in",
    LinkMidFrame "link-mid-frame" Links Nothing 300..1000 "a link is reset in the middle of a frame",
    LinkDelay "link-delay" Links Nothing 1000..3000 "a link is 500 ms late in both directions",
    LinkSlow "link-slow" Links Nothing 1000..3000 "a link carries 8 KiB/s",
    LinkBlock "link-block" Links Nothing 1000..5000 "a link carries nothing: what is sent waits",
    LinkOneWay "link-one-way" Links Nothing 1000..5000 "a link carries nothing in one direction",
    LinkHalfOpen "link-half-open" Links Nothing 1000..5000 "what a link carries is gone, and nobody is told; then it is reset",
    LinkFlap "link-flap" Links Nothing 2000..4000 "a link is reset and refused each other half second",
    DatabaseLinkCut "database-link-cut" DatabaseLinks Postgres 0..500 "a worker's connections to the database are reset, and none is let in",
    DatabaseLinkMidFrame "database-link-mid-frame" DatabaseLinks Postgres 300..1000 "they are reset in the middle of a frame",
    DatabaseLinkDelay "database-link-delay" DatabaseLinks Postgres 1000..3000 "they are 500 ms late in both directions",
    DatabaseLinkSlow "database-link-slow" DatabaseLinks Postgres 1000..3000 "they carry 8 KiB/s",
    DatabaseLinkHalfOpen "database-link-half-open" DatabaseLinks Postgres 1000..4000 "what they carry is gone, and nobody is told; then they are reset",
    DatabaseLinkOneWay "database-link-one-way" DatabaseLinks Postgres 1000..4000 "they carry nothing in one direction",
    DatabaseStop "database-stop" Database Postgres 100..2000 "the database is stopped (fast), started again",
    DatabaseCrash "database-crash" Database Postgres 0..1000 "the database is stopped as in a crash (immediate), started again",
    DatabaseFreeze "database-freeze" Database Postgres 500..4000 "SIGSTOP of all its processes, then SIGCONT",
    DatabaseReadOnly "database-read-only" Database Postgres 500..3000 "it refuses writes",
    DatabaseBackends "database-backends" Database Postgres 200..1000 "its connections are terminated again and again, in saves and between them",
    DatabaseLocks "database-locks" Database Postgres 500..3000 "somebody else has locked all rows",
    DatabaseFailover "database-failover" Database Postgres 0..200 "kill -9 of the primary; its synchronous standby takes its place, and gets a standby of its own",
    FileLock "file-lock" Database Sqlite 500..3000 "another process keeps SQLite's lock",
    DiskFull "disk-full" Database Root 500..3000 "the disk under the database is full",
    ClockJump "clock-jump" Clocks Clocks 1500..2500 "the wall clock of a process jumps by an hour, on or back, and then to where it was",
    BrowserCut "browser-cut" Browsers Nothing 0..300 "all connections of browsers to a gateway are reset",
}

/// A name that no kind has.
#[derive(Debug, thiserror::Error)]
#[error("there is no such kind of fault; the kinds are {}", names())]
pub(crate) struct NoKind;

impl FromStr for Kind {
    type Err = NoKind;

    fn from_str(text: &str) -> Result<Self, NoKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or(NoKind)
    }
}

impl Kind {
    /// Whether there is such a thing in this store.
    pub(crate) fn is_of(self, store: Store) -> bool {
        match self.need() {
            Need::Postgres => store == Store::Postgres,
            Need::Sqlite => store == Store::Sqlite,
            _ => true,
        }
    }

    /// Sockets of browsers may be closed by it.
    pub(crate) fn may_close(self) -> bool {
        matches!(self, Self::BrowserCut) || self.part() == Part::Gateways
    }

    /// It is there for a while in which something else may happen too.
    pub(crate) fn leaves_time(self) -> bool {
        let is_short = matches!(
            self,
            Self::RollingRestart | Self::Reshard | Self::CrashPoint | Self::AppVersion
        );
        !is_short && self != Self::DatabaseFailover
    }

    /// It is set and taken back without waiting for anybody.
    pub(crate) fn is_light(self) -> bool {
        matches!(self.part(), Part::Links | Part::DatabaseLinks | Part::Browsers)
            && self != Self::LinkFlap
    }
}

/// All names.
fn names() -> String {
    Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}
