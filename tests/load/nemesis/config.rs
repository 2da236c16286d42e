//! What a run is to do: flags, checked all at once.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use rustix::process::geteuid;
use single_state_node::config::Mistakes;
use single_state_tests::clock::Clocks;

use crate::nemesis::kind::{Kind, Need};

/// Does faults of all kinds to a cluster of its own, while browsers append, and judges what has become
/// of what they have sent.
#[derive(Debug, Parser)]
#[command(name = "swarm nemesis", version, about, after_help = kinds_help())]
pub(crate) struct Args {
    /// Which schedule: the same seed gives the same one. Default: another one each time.
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// About how long; a fault each 2.8 s.
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    duration: String,
    /// Only these kinds of faults.
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    faults: Vec<String>,
    /// Where sessions are kept: sqlite, or postgres with a synchronous standby.
    #[arg(long, default_value = "postgres", value_name = "STORE")]
    store: String,
    /// When workers acknowledge: relaxed or durable.
    #[arg(long, default_value = "durable", value_name = "DURABILITY")]
    durability: String,
    /// How many browsers; half of them are plain pages, half speak single-state.v1.
    #[arg(long, default_value = "40", value_name = "N")]
    browsers: String,
    /// A browser appends an item after one to two times this.
    #[arg(long, default_value = "500ms", value_name = "DURATION")]
    pace: String,
    /// Write the report as JSON; - is stdout.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Write the report as a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Where sessions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) kinds: Vec<Kind>,
    /// Kinds that this machine or this build cannot do, with the reason.
    pub(crate) left_out: Vec<(Kind, &'static str)>,
    /// Kinds were chosen.
    pub(crate) is_choice: bool,
    pub(crate) store: Store,
    pub(crate) durability: String,
    pub(crate) browsers: usize,
    pub(crate) pace: Duration,
    pub(crate) json: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
}

/// A text that names no store.
#[derive(Debug, thiserror::Error)]
#[error("give sqlite or postgres")]
pub(crate) struct NoStore;

impl FromStr for Store {
    type Err = NoStore;

    fn from_str(text: &str) -> Result<Self, NoStore> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" => Ok(Self::Postgres),
            _ => Err(NoStore),
        }
    }
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl Args {
    /// The configuration, or all that is wrong with it.
    pub(crate) fn check(self, mut mistakes: Mistakes) -> Result<Config, Mistakes> {
        let seed = match &self.seed {
            Some(text) => mistakes.parse::<u64>("--seed", text),
            // Short enough to be typed.
            None => Some(u64::from(fastrand::u32(..))),
        };
        let duration = above_zero("--duration", &self.duration, &mut mistakes);
        let pace = above_zero("--pace", &self.pace, &mut mistakes);
        let store = mistakes.parse::<Store>("--store", &self.store);
        let browsers = mistakes.parse::<usize>("--browsers", &self.browsers);
        if browsers.is_some_and(|browsers| browsers < 2) {
            mistakes
                .add(format!("--browsers {}: give at least 2, one of each kind", self.browsers));
        }
        if !["relaxed", "durable"].contains(&self.durability.as_str()) {
            mistakes.add(format!("--durability {:?}: give relaxed or durable", self.durability));
        }
        let chosen = chosen(&self.faults, store, &mut mistakes);
        let kinds = match chosen.is_empty() {
            true => all_of(store),
            false => chosen.into_iter().map(|kind| (kind, None)).collect(),
        };
        let config = (|| {
            Some(Config {
                seed: seed?,
                duration: duration?,
                kinds: kinds
                    .iter()
                    .filter(|(_, why)| why.is_none())
                    .map(|(kind, _)| *kind)
                    .collect(),
                left_out: kinds.iter().filter_map(|(kind, why)| Some((*kind, (*why)?))).collect(),
                is_choice: !self.faults.is_empty(),
                store: store?,
                durability: self.durability,
                browsers: browsers?,
                pace: pace?,
                json: self.json,
                html: self.html,
            })
        })();
        mistakes.into_result(config)
    }
}

impl Config {
    /// The command that does the same again.
    pub(crate) fn replay(&self) -> String {
        let duration = format!("{}ms", self.duration.as_millis());
        let mut line = format!(
            "swarm nemesis --seed {} --duration {duration} --store {} --durability {} --browsers {} --pace {}ms",
            self.seed,
            self.store.name(),
            self.durability,
            self.browsers,
            self.pace.as_millis()
        );
        if self.is_choice {
            let names: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
            line += &format!(" --faults {}", names.join(","));
        }
        line
    }
}

fn above_zero(flag: &str, text: &str, mistakes: &mut Mistakes) -> Option<Duration> {
    let duration = mistakes.duration(flag, text)?;
    if duration.is_zero() {
        mistakes.add(format!("{flag} {text}: give more than nothing"));
        return None;
    }
    Some(duration)
}

/// The kinds that were asked for, if they are possible.
fn chosen(names: &[String], store: Option<Store>, mistakes: &mut Mistakes) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for name in names {
        let Some(kind) = mistakes.parse::<Kind>("--faults", name) else { continue };
        if kinds.contains(&kind) {
            mistakes.add(format!("--faults {name}: it is there twice"));
        } else if let Some(store) = store.filter(|store| !kind.is_of(*store)) {
            mistakes.add(format!("--faults {name}: --store {} has none", store.name()));
        } else if let Some(why) = impossible(kind) {
            mistakes.add(format!("--faults {name}: {why}"));
        }
        kinds.push(kind);
    }
    kinds
}

/// All kinds of a store, and why some are not possible.
fn all_of(store: Option<Store>) -> Vec<(Kind, Option<&'static str>)> {
    let is_there = |kind: &Kind| store.is_none_or(|store| kind.is_of(store));
    Kind::ALL.iter().copied().filter(is_there).map(|kind| (kind, impossible(kind))).collect()
}

/// Why this machine or this build cannot do it.
fn impossible(kind: Kind) -> Option<&'static str> {
    match kind.need() {
        Need::Root if !geteuid().is_root() => Some("only root may mount a small disk"),
        Need::Clocks if !Clocks::are_here() => {
            Some("no libfaketime here: run `tests/setup.sh test`")
        }
        Need::TestBuild if !cfg!(feature = "faults") => {
            Some("build all programs with --features single-state-tests/faults")
        }
        _ => None,
    }
}

/// What `--help` says of kinds.
fn kinds_help() -> String {
    let mut text = "Kinds of faults:\n".to_owned();
    for kind in Kind::ALL {
        text += &format!("  {:<24} {}\n", kind.name(), kind.about());
    }
    text
}

#[cfg(test)]
mod tests {
    use single_state_node::config::{Parsed, parse};

    use super::*;

    fn check(line: &str) -> Result<Config, Vec<String>> {
        let args = ["nemesis"].into_iter().chain(line.split_whitespace()).map(Into::into);
        match parse::<Args>(args) {
            Parsed::Arguments(args, mistakes) => {
                args.check(mistakes).map_err(|mistakes| mistakes.sentences().to_vec())
            }
            Parsed::Exit(_) => panic!("{line} must give arguments"),
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let line = "--seed x --duration 0 --faults worker-kill,pigs-fly,file-lock,worker-kill \
            --browsers 1 --durability soon --pace 0s";
        let sentences = check(line).unwrap_err();
        let text = sentences.join("\n");
        for part in [
            "--seed",
            "--duration 0",
            "pigs-fly",
            "worker-kill, ",
            "--store postgres has none",
            "twice",
            "--browsers 1",
            "--durability",
            "--pace 0s",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let wrong = check("--store mysql").unwrap_err();
        assert!(wrong[0].contains("sqlite or postgres"), "{wrong:?}");
    }

    #[test]
    fn what_replays_a_run_is_the_same_run() {
        let config = check("--faults worker-kill,link-cut --duration 1m --browsers 6").unwrap();
        let line = config.replay();
        let again = check(line.strip_prefix("swarm nemesis ").unwrap()).unwrap();
        assert_eq!((again.seed, again.duration), (config.seed, config.duration));
        assert_eq!((again.kinds, again.browsers), (config.kinds, config.browsers));
    }
}
