//! Flags and variables of a worker, checked: the only reader of the environment. All mistakes are
//! told at once.

mod store;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;
use single_state_node::config::{Mistakes, Parsed, parse};
use single_state_node::keys::LinkArgs;
use single_state_node::log::{Format, parse_filter};
use single_state_proto::frame::Durability;
use single_state_proto::id::WorkerIndex;
use single_state_proto::key::LinkKeys;
use single_state_proto::limits::{MAX_MESSAGE, MAX_WORKERS};
use single_state_proto::placement::PlacementKey;
use single_state_store::SharedStore;

pub(crate) use self::store::StoreArgs;
use crate::chores::Lifetimes;
use crate::host::{OnUnreadable, Rules};
use crate::resident::Policy;
use crate::watchdog::Limits;

/// What is shorter than this happens to every process.
const MIN_BLOCK_WARNING: Duration = Duration::from_millis(10);

/// Runs the sessions of an app.
#[derive(Debug, Parser)]
#[command(
    name = "worker",
    version,
    about,
    after_help = "`worker sessions` lists, shows, discards and releases saved sessions: see `worker \
                  sessions --help`"
)]
struct Args {
    /// Position of this worker in the gateways' list, from 0; auto: the number at the end of the
    /// host name.
    #[arg(long, env = "SINGLE_STATE_INDEX", default_value = "0", value_name = "N|auto")]
    index: String,
    /// Where gateways connect.
    #[arg(
        long,
        env = "SINGLE_STATE_LISTEN",
        default_value = "127.0.0.1:7000",
        value_name = "HOST:PORT"
    )]
    listen: String,
    /// Where probes, status and metrics are read.
    #[arg(
        long,
        env = "SINGLE_STATE_ADMIN_LISTEN",
        default_value = "127.0.0.1:9001",
        value_name = "HOST:PORT"
    )]
    admin_listen: String,
    #[command(flatten)]
    store: StoreArgs,
    /// When changes are committed: relaxed (within --commit-interval), durable (before anything of
    /// them leaves) or memory (never). The app's own choice unless given.
    #[arg(long, env = "SINGLE_STATE_DURABILITY", value_name = "relaxed|durable|memory")]
    durability: Option<String>,
    /// In the mode relaxed, a change waits at most so long for its commit.
    #[arg(
        long,
        env = "SINGLE_STATE_COMMIT_INTERVAL",
        default_value = "1s",
        value_name = "DURATION"
    )]
    commit_interval: String,
    /// What becomes of a session whose saved state the app cannot read: quarantine (browsers are
    /// refused, the state is kept) or reset (it starts from nothing).
    #[arg(
        long,
        env = "SINGLE_STATE_ON_UNREADABLE",
        default_value = "quarantine",
        value_name = "quarantine|reset"
    )]
    on_unreadable: String,
    /// Reads each saved state back at once, and tells the page when that fails.
    #[arg(long, env = "SINGLE_STATE_CHECK_SNAPSHOTS", value_parser = BoolishValueParser::new())]
    check_snapshots: bool,
    /// A session without tabs leaves memory when nothing has happened for so long; 0: never.
    #[arg(
        long,
        env = "SINGLE_STATE_PASSIVATE_AFTER",
        default_value = "10m",
        value_name = "DURATION"
    )]
    passivate_after: String,
    /// Bytes of the process beyond which the longest idle sessions leave memory; 0: any.
    #[arg(long, env = "SINGLE_STATE_MEMORY_BUDGET", default_value = "0", value_name = "BYTES")]
    memory_budget: String,
    /// Sessions that were not used for so long are deleted; 0: never.
    #[arg(
        long,
        env = "SINGLE_STATE_SESSION_LIFETIME",
        default_value = "30d",
        value_name = "DURATION"
    )]
    session_lifetime: String,
    /// How long the worker may take to commit its sessions when it is told to end.
    #[arg(
        long,
        env = "SINGLE_STATE_DRAIN_TIMEOUT",
        default_value = "50s",
        value_name = "DURATION"
    )]
    drain_timeout: String,
    /// How long a session that goes to another worker waits for a handler that runs; then the
    /// handler is given up, and its message is handled there.
    #[arg(long, env = "SINGLE_STATE_HANDLER_GRACE", default_value = "2s", value_name = "DURATION")]
    handler_grace: String,
    #[command(flatten)]
    links: LinkArgs,
    /// Sessions in memory; who comes for one more waits. 0: any.
    #[arg(long, env = "SINGLE_STATE_MAX_SESSIONS", default_value = "0", value_name = "N")]
    max_sessions: String,
    /// Longest message to browsers.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_OUTPUT_BYTES",
        default_value = "16777216",
        value_name = "BYTES"
    )]
    max_output_bytes: String,
    /// How long a handler may block the event loop until the log says so.
    #[arg(long, env = "SINGLE_STATE_BLOCK_WARNING", default_value = "1s", value_name = "DURATION")]
    block_warning: String,
    /// How long it may block the event loop until the process ends; 0: for ever.
    #[arg(long, env = "SINGLE_STATE_BLOCK_LIMIT", default_value = "10s", value_name = "DURATION")]
    block_limit: String,
    /// End when standard input ends, as `gateway dev` wants of its workers.
    #[arg(long, env = "SINGLE_STATE_EXIT_WITH_STDIN", value_parser = BoolishValueParser::new())]
    exit_with_stdin: bool,
    /// 16 secret bytes that place sessions, the same for the whole cluster.
    #[arg(long, env = "SINGLE_STATE_PLACEMENT_KEY", value_name = "HEX32", hide_env_values = true)]
    placement_key: Option<String>,
    /// Append what is done with sessions to a file, a line of JSON each, for the checker of the tests;
    /// %i in its name is the index, %p the process.
    #[arg(long, env = "SINGLE_STATE_HISTORY", value_name = "FILE")]
    history: Option<String>,
    /// How log lines look.
    #[arg(long, env = "SINGLE_STATE_LOG_FORMAT", default_value = "text", value_name = "text|json")]
    log_format: String,
    /// Which log lines appear: error, warn, info, debug or a filter by module.
    #[arg(long, env = "SINGLE_STATE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

/// What a worker is told.
pub(crate) struct Config {
    pub(crate) index: WorkerIndex,
    pub(crate) listen: String,
    pub(crate) admin_listen: String,
    pub(crate) cluster: String,
    pub(crate) store: SharedStore,
    pub(crate) rules: Rules,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) drain_timeout: Duration,
    pub(crate) placement_key: PlacementKey,
    /// What gateways prove, and this worker to them.
    pub(crate) link_keys: Option<LinkKeys>,
    pub(crate) block_limits: Limits,
    pub(crate) exit_with_stdin: bool,
    /// Where to write what is done with sessions.
    pub(crate) history: Option<String>,
    pub(crate) log_format: Format,
    pub(crate) log_filter: String,
    /// The program, if nobody has told it anything: who starts it so may take it for the whole app.
    pub(crate) started_bare: Option<String>,
    /// The variable RUST_BACKTRACE asks for whatever there is.
    pub(crate) full_traces: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Reads command line and environment; `app`: the durability that the app wants.
pub(crate) fn read(
    args: impl IntoIterator<Item = OsString>,
    app: Durability,
) -> Result<Config, ExitCode> {
    let args: Vec<_> = args.into_iter().collect();
    let started_bare = bare(&args, std::env::vars_os().map(|(name, _)| name));
    match parse::<Args>(args) {
        Parsed::Arguments(args, mistakes) => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let config = check(args, app, &host, mistakes);
            let config = config.map_err(|mistakes| mistakes.report("worker"))?;
            let full_traces = std::env::var_os("RUST_BACKTRACE").is_some_and(|is| is == "full");
            Ok(Config { started_bare, full_traces, ..config })
        }
        Parsed::Exit(code) => Err(code),
    }
}

/// The program that was started, if neither a flag nor a variable of ours tells it anything.
fn bare(args: &[OsString], mut variables: impl Iterator<Item = OsString>) -> Option<String> {
    let is_ours = |name: OsString| name.to_string_lossy().starts_with("SINGLE_STATE_");
    let [program] = args else { return None };
    (!variables.any(is_ours)).then(|| program.to_string_lossy().into_owned())
}

fn check(
    args: Args,
    app: Durability,
    host: &str,
    mut mistakes: Mistakes,
) -> Result<Config, Mistakes> {
    let index = check_index(&args.index, host, &mut mistakes);
    let listen = mistakes.listen("--listen", &args.listen);
    let link_keys = args.links.check("--listen", listen.as_deref(), &mut mistakes);
    let admin_listen = mistakes.listen("--admin-listen", &args.admin_listen);
    let store = args.store.check(&mut mistakes);
    let placement_key = check_placement_key(args.placement_key.as_deref(), &mut mistakes);
    let rules = check_rules(&args, app, &mut mistakes);
    let lifetimes = check_lifetimes(&args, &mut mistakes);
    let drain_timeout = mistakes.duration("--drain-timeout", &args.drain_timeout);
    let block_limits = check_block_limits(&args, &mut mistakes);
    let log_format = mistakes.parse::<Format>("--log-format", &args.log_format);
    if let Err(error) = parse_filter(&args.log) {
        mistakes.add(format!("--log {:?}: {error}", args.log));
    }
    let config = (|| {
        Some(Config {
            index: index?,
            listen: listen?,
            admin_listen: admin_listen?,
            cluster: args.store.cluster,
            store: store?,
            rules: rules?,
            lifetimes: lifetimes?,
            drain_timeout: drain_timeout?,
            placement_key: placement_key?,
            link_keys: link_keys?,
            block_limits: block_limits?,
            exit_with_stdin: args.exit_with_stdin,
            history: args.history,
            log_format: log_format?,
            log_filter: args.log,
            started_bare: None,
            full_traces: false,
        })
    })();
    mistakes.into_result(config)
}

fn check_placement_key(text: Option<&str>, mistakes: &mut Mistakes) -> Option<PlacementKey> {
    let Some(text) = text else { return Some(PlacementKey::default()) };
    match text.parse() {
        Ok(key) => Some(key),
        Err(error) => {
            // The text is a secret and is not repeated.
            mistakes.add(format!("--placement-key: {error}"));
            None
        }
    }
}

fn check_rules(args: &Args, app: Durability, mistakes: &mut Mistakes) -> Option<Rules> {
    let ephemeral = args.store.is_ephemeral();
    let durability = match args.durability.as_deref() {
        // What ends with the process need not be committed, unless somebody insists.
        None if ephemeral => Some(Durability::Memory),
        None => Some(app),
        Some("relaxed") => Some(Durability::Relaxed),
        Some("durable") => Some(Durability::Durable),
        Some("memory") => Some(Durability::Memory),
        Some(other) => {
            let choices = "give relaxed, durable or memory";
            mistakes.add(format!("--durability {other:?}: {choices}"));
            None
        }
    };
    let interval = mistakes.duration("--commit-interval", &args.commit_interval);
    let on_unreadable = match args.on_unreadable.as_str() {
        "quarantine" => Some(OnUnreadable::Quarantine),
        "reset" => Some(OnUnreadable::Reset),
        other => {
            mistakes.add(format!("--on-unreadable {other:?}: give quarantine or reset"));
            None
        }
    };
    let handler_grace = mistakes.duration("--handler-grace", &args.handler_grace);
    let max_sessions = mistakes.parse::<usize>("--max-sessions", &args.max_sessions);
    let max_output_bytes = mistakes.parse::<usize>("--max-output-bytes", &args.max_output_bytes);
    if max_output_bytes.is_some_and(|bytes| !(1..=MAX_MESSAGE as usize).contains(&bytes)) {
        let given = &args.max_output_bytes;
        mistakes.add(format!("--max-output-bytes {given}: give a number from 1 to {MAX_MESSAGE}"));
    }
    Some(Rules {
        policy: Policy { durability: durability?, interval: interval? },
        on_unreadable: on_unreadable?,
        check_snapshots: args.check_snapshots,
        ephemeral,
        max_sessions: max_sessions?,
        max_output_bytes: max_output_bytes?,
        handler_grace: handler_grace?,
    })
}

fn check_lifetimes(args: &Args, mistakes: &mut Mistakes) -> Option<Lifetimes> {
    let idle = mistakes.duration("--passivate-after", &args.passivate_after);
    let memory_budget = mistakes.parse("--memory-budget", &args.memory_budget);
    let session = mistakes.duration("--session-lifetime", &args.session_lifetime);
    let (idle, memory_budget, session) = (idle?, memory_budget?, session?);
    // Sessions whose store is memory have nowhere to go.
    let idle = if args.store.is_ephemeral() { Duration::ZERO } else { idle };
    let memory_budget = if args.store.is_ephemeral() { 0 } else { memory_budget };
    Some(Lifetimes { idle, memory_budget, session })
}

fn check_block_limits(args: &Args, mistakes: &mut Mistakes) -> Option<Limits> {
    let warning = mistakes.duration("--block-warning", &args.block_warning);
    if warning.is_some_and(|warning| warning < MIN_BLOCK_WARNING) {
        mistakes.add(format!("--block-warning {}: give at least 10ms", args.block_warning));
    }
    let end = mistakes.duration("--block-limit", &args.block_limit);
    let (warning, end) = (warning?, end?);
    let end = (!end.is_zero()).then_some(end);
    if end.is_some_and(|end| end < warning) {
        mistakes.add(format!(
            "--block-limit {}: give at least what --block-warning is, {}, or 0",
            args.block_limit, args.block_warning
        ));
    }
    Some(Limits { warning, end })
}

fn check_index(text: &str, host: &str, mistakes: &mut Mistakes) -> Option<WorkerIndex> {
    let digits = if text == "auto" {
        let name = host.trim_end_matches(|c: char| c.is_ascii_digit());
        if name.len() == host.len() {
            mistakes.add(format!("--index auto: the host name {host:?} ends in no number"));
            return None;
        }
        &host[name.len()..]
    } else {
        text
    };
    match digits.parse::<u16>() {
        Ok(index) if usize::from(index) < MAX_WORKERS => Some(WorkerIndex(index)),
        _ => {
            let last = MAX_WORKERS - 1;
            mistakes.add(format!("--index {digits:?}: give a number from 0 to {last}, or auto"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(line: &str, host: &str) -> Result<Config, Mistakes> {
        match parse::<Args>(line.split(' ').map(OsString::from)) {
            Parsed::Arguments(args, mistakes) => check(args, Durability::Relaxed, host, mistakes),
            Parsed::Exit(_) => panic!("{line} must give arguments"),
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let line = "worker --index -1 --listen here --admin-listen 1 --store redis://x \
                    --durability some --commit-interval soon --on-unreadable cry \
                    --passivate-after never --memory-budget much --session-lifetime -1 \
                    --drain-timeout x --handler-grace y --store-timeout 1ms --store-connections 1 \
                    --max-output-bytes 0 --block-warning 1ms --block-limit soon \
                    --log-format yaml --wat";
        let mistakes = check_line(line, "host").unwrap_err();
        let all = mistakes.sentences().join("\n");
        for flag in [
            "--index",
            "--listen",
            "--admin-listen",
            "--store:",
            "--store-timeout",
            "--store-connections",
            "--durability",
            "--commit-interval",
            "--on-unreadable",
            "--passivate-after",
            "--memory-budget",
            "--session-lifetime",
            "--drain-timeout",
            "--handler-grace",
            "--max-output-bytes",
            "--block-warning",
            "--block-limit",
            "--log-format",
            "--wat",
        ] {
            assert!(all.contains(flag), "{flag} is missing in:\n{all}");
        }
    }

    #[test]
    fn a_handler_may_block_for_ever_but_not_shorter_than_until_the_warning() {
        let end = |flags: &str| {
            check_line(&format!("worker --block-warning 2s {flags}"), "host")
                .map(|config| config.block_limits.end)
        };
        assert_eq!(end("--block-limit 0").unwrap(), None);
        assert_eq!(end("--block-limit 2s").unwrap(), Some(Duration::from_secs(2)));
        assert_eq!(end("--block-limit 1s").unwrap_err().sentences().len(), 1);
    }

    #[test]
    fn a_worker_that_others_can_reach_has_keys_or_is_insecure_on_purpose() {
        let bare = check_line("worker --listen 0.0.0.0:7000", "host").unwrap_err();
        let sentences = bare.sentences();
        assert!(sentences.len() == 1 && sentences[0].starts_with("--listen 0.0.0.0:7000: "));
        let insecure = check_line("worker --listen 0.0.0.0:7000 --insecure-links", "host");
        assert!(insecure.unwrap().link_keys.is_none());
        assert!(check_line("worker", "host").unwrap().link_keys.is_none());
    }

    #[test]
    fn a_flag_that_is_like_no_other_is_not_taken_for_one() {
        let mistakes = check_line("worker --worker 2", "host").unwrap_err();
        let sentence = "there is no flag '--worker'; --help lists those there are";
        assert_eq!(mistakes.sentences(), [sentence]);
    }

    #[test]
    fn a_program_is_started_bare_when_neither_flags_nor_variables_tell_it_anything() {
        let bare = |line: &str, variable: &str| {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            bare(&args, [OsString::from("HOME"), variable.into()].into_iter())
        };
        assert_eq!(bare("target/debug/app", "PATH").as_deref(), Some("target/debug/app"));
        assert_eq!(bare("target/debug/app --index 0", "PATH"), None);
        assert_eq!(bare("target/debug/app", "SINGLE_STATE_INDEX"), None);
    }

    #[test]
    fn index_auto_is_the_ordinal_at_the_end_of_the_host_name() {
        let index = |host| check_line("worker --index auto", host).map(|c| c.index.0);
        assert_eq!(index("worker-12").unwrap(), 12);
        assert_eq!(index("worker").unwrap_err().sentences().len(), 1);
        assert_eq!(index("worker-99999").unwrap_err().sentences().len(), 1);
    }
}
