//! What a soak is to do: flags, checked all at once.

use std::time::Duration;

use clap::Parser;
use single_state_node::config::Mistakes;

/// Watches for hours whether the processes of a cluster of its own grow, while browsers stay and
/// others come and go. Exit code 1 if one grows.
#[derive(Debug, Parser)]
#[command(name = "swarm soak", version, about)]
pub(crate) struct Args {
    /// How long.
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    duration: String,
    /// How often to look, and how long each crowd that comes and goes stays.
    #[arg(long, default_value = "1m", value_name = "DURATION")]
    round: String,
    /// So many browsers stay, and as many come and go.
    #[arg(long, default_value = "100", value_name = "N")]
    browsers: String,
}

/// What to do.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) duration: Duration,
    pub(crate) round: Duration,
    pub(crate) browsers: usize,
}

/// Fewer looks than this show no slope.
pub(super) const ROUNDS: u32 = 4;

impl Args {
    /// The configuration, or all that is wrong with it.
    pub(crate) fn check(self, mut mistakes: Mistakes) -> Result<Config, Mistakes> {
        let duration = mistakes.duration("--duration", &self.duration);
        let round = mistakes.duration("--round", &self.round);
        let browsers = mistakes.parse::<usize>("--browsers", &self.browsers);
        if browsers == Some(0) {
            mistakes.add("--browsers 0: give at least 1");
        }
        if round.is_some_and(|round| round.is_zero()) {
            mistakes.add("--round 0: give more than nothing");
        } else if duration.zip(round).is_some_and(|(all, round)| all < round * ROUNDS) {
            mistakes.add(format!(
                "--duration {}: give at least {ROUNDS} times --round, which is {}",
                self.duration, self.round
            ));
        }
        let config = duration.zip(round).zip(browsers);
        mistakes.into_result(config.map(|((duration, round), browsers)| Config {
            duration,
            round,
            browsers,
        }))
    }
}

impl Config {
    /// Messages a second of those that stay: one each.
    pub(crate) fn rate(&self) -> String {
        self.browsers.to_string()
    }
}
