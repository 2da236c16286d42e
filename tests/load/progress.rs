//! What a run does just now, for who looks at a terminal; silent elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::timeline::Timeline;

/// A line that changes each second.
pub(crate) struct Progress {
    line: ProgressBar,
    browsers: usize,
}

impl Progress {
    /// Hidden by itself when stderr is no terminal.
    pub(crate) fn start(browsers: usize) -> Self {
        let line = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{elapsed} {msg}") {
            line.set_style(style);
        }
        line.enable_steady_tick(Duration::from_secs(1));
        Self { line, browsers }
    }

    /// The newest second that all processes have told.
    pub(crate) fn show(&self, timeline: &Timeline, processes: usize) {
        let Some(newest) = timeline.newest(processes) else { return };
        self.line.set_message(format!(
            "connected {} of {}, {} round trips/s, p99 {} us, errors {}",
            newest.connected, self.browsers, newest.round_trips, newest.p99_us, newest.wrong
        ));
    }

    /// The report takes its place.
    pub(crate) fn end(&self) {
        self.line.finish_and_clear();
    }
}
