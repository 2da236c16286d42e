//! The time of day, which moves with the runtime's clock where a test has stopped that.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    /// The machine's.
    System,
    /// The runtime's, which a test advances.
    Virtual { began: Instant, at: SystemTime },
}

impl Clock {
    /// A clock that stands still until the runtime's is advanced.
    pub(crate) fn virtual_time() -> Self {
        Self::Virtual { began: Instant::now(), at: SystemTime::now() }
    }

    pub(crate) fn now(self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Virtual { began, at } => at + began.elapsed(),
        }
    }

    /// The time of day at a moment of the runtime's clock, in milliseconds since 1970.
    pub(crate) fn unix_millis(self, moment: std::time::Instant) -> u64 {
        let now = Instant::now().into_std();
        let wall = match moment.checked_duration_since(now) {
            Some(ahead) => self.now() + ahead,
            None => self.now() - now.duration_since(moment),
        };
        let since_1970 = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    /// Its counterpart. What is past is now; what no clock can show is far in the future.
    pub(crate) fn moment(self, unix_millis: u64) -> std::time::Instant {
        const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let since_1970 = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ahead = Duration::from_millis(unix_millis).saturating_sub(since_1970);
        Instant::now().into_std() + ahead.min(FAR)
    }
}
