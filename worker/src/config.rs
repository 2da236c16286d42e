//! Flags and variables of a worker, checked: the only reader of the environment. All mistakes are
//! told at once.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;
use single_state_node::config::{Mistakes, Parsed, parse};
use single_state_node::keys::LinkArgs;
use single_state_node::log::{Format, parse_filter};
use single_state_proto::id::WorkerIndex;
use single_state_proto::key::LinkKeys;
use single_state_proto::limits::{MAX_MESSAGE, MAX_WORKERS};

use crate::watchdog::Limits;

/// What is shorter than this happens to every process.
const MIN_BLOCK_WARNING: Duration = Duration::from_millis(10);

/// Runs the sessions of an app.
#[derive(Debug, Parser)]
#[command(name = "worker", version, about)]
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
    /// Where sessions are kept. Only memory: exists yet; it ends with the process.
    #[arg(long, env = "SINGLE_STATE_STORE", default_value = "memory:", value_name = "URL")]
    store: String,
    /// Name of the cluster; gateways and workers must have the same.
    #[arg(long, env = "SINGLE_STATE_CLUSTER", default_value = "default", value_name = "NAME")]
    cluster: String,
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
    /// How log lines look.
    #[arg(long, env = "SINGLE_STATE_LOG_FORMAT", default_value = "text", value_name = "text|json")]
    log_format: String,
    /// Which log lines appear: error, warn, info, debug or a filter by module.
    #[arg(long, env = "SINGLE_STATE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

/// What a worker is told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) index: WorkerIndex,
    pub(crate) listen: String,
    pub(crate) admin_listen: String,
    pub(crate) cluster: String,
    /// What gateways prove, and this worker to them.
    pub(crate) link_keys: Option<LinkKeys>,
    pub(crate) max_sessions: usize,
    pub(crate) max_output_bytes: usize,
    pub(crate) block_limits: Limits,
    pub(crate) exit_with_stdin: bool,
    pub(crate) log_format: Format,
    pub(crate) log_filter: String,
}

/// Reads command line and environment.
pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Config, ExitCode> {
    match parse::<Args>(args) {
        Parsed::Arguments(args, mistakes) => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            check(args, &host, mistakes).map_err(|mistakes| mistakes.report("worker"))
        }
        Parsed::Exit(code) => Err(code),
    }
}

fn check(args: Args, host: &str, mut mistakes: Mistakes) -> Result<Config, Mistakes> {
    let index = check_index(&args.index, host, &mut mistakes);
    let listen = mistakes.listen("--listen", &args.listen);
    let link_keys = args.links.check("--listen", listen.as_deref(), &mut mistakes);
    let admin_listen = mistakes.listen("--admin-listen", &args.admin_listen);
    if args.store != "memory:" {
        mistakes.add(format!("--store {:?}: only memory: exists yet", args.store));
    }
    if args.cluster.is_empty() || args.cluster.len() > 64 {
        mistakes.add("--cluster: give a name of 1 to 64 bytes");
    }
    if let Some(text) = &args.placement_key
        && let Err(error) = text.parse::<single_state_proto::placement::PlacementKey>()
    {
        // The text is a secret and is not repeated.
        mistakes.add(format!("--placement-key: {error}"));
    }
    let max_sessions = mistakes.parse::<usize>("--max-sessions", &args.max_sessions);
    let max_output_bytes = mistakes.parse::<usize>("--max-output-bytes", &args.max_output_bytes);
    if max_output_bytes.is_some_and(|bytes| !(1..=MAX_MESSAGE as usize).contains(&bytes)) {
        let given = &args.max_output_bytes;
        mistakes.add(format!("--max-output-bytes {given}: give a number from 1 to {MAX_MESSAGE}"));
    }
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
            cluster: args.cluster,
            link_keys: link_keys?,
            max_sessions: max_sessions?,
            max_output_bytes: max_output_bytes?,
            block_limits: block_limits?,
            exit_with_stdin: args.exit_with_stdin,
            log_format: log_format?,
            log_filter: args.log,
        })
    })();
    mistakes.into_result(config)
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
            Parsed::Arguments(args, mistakes) => check(args, host, mistakes),
            Parsed::Exit(_) => panic!("{line} must give arguments"),
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let line = "worker --index -1 --listen here --admin-listen 1 --store redis://x \
                    --max-output-bytes 0 --block-warning 1ms --block-limit soon \
                    --log-format yaml --wat";
        let mistakes = check_line(line, "host").unwrap_err();
        let all = mistakes.sentences().join("\n");
        for flag in [
            "--index",
            "--listen",
            "--admin-listen",
            "--store",
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
    fn index_auto_is_the_ordinal_at_the_end_of_the_host_name() {
        let index = |host| check_line("worker --index auto", host).map(|c| c.index.0);
        assert_eq!(index("worker-12").unwrap(), 12);
        assert_eq!(index("worker").unwrap_err().sentences().len(), 1);
        assert_eq!(index("worker-99999").unwrap_err().sentences().len(), 1);
    }
}
