//! Flags and variables of `gateway`, checked: the only reader of the environment. All mistakes are
//! told at once.

mod create;
mod dev;
mod operate;
#[cfg(test)]
mod tests;
mod topology;
mod traffic;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use single_state_node::config::{Mistakes, Parsed, parse};
use single_state_node::keys::LinkArgs;
use single_state_node::log::{Format, parse_filter};
use single_state_proto::key::LinkKeys;
use single_state_proto::limits::MAX_MESSAGE;
use single_state_proto::placement::PlacementKey;
use single_state_proto::topology::Topology;
use tokio::sync::watch;

use self::create::{NewArgs, check_new};
use self::dev::{DevArgs, check_dev};
use self::operate::{TopologyCommandArgs, check_topology};
use self::topology::TopologyArgs;
use self::traffic::{ArrivalArgs, DrainArgs};
use crate::admission::AdmissionLimits;
use crate::arrivals::ArrivalLimits;
use crate::channel::ChannelLimits;
use crate::create::NewApp;
use crate::dev::DevOptions;
use crate::drain::DrainOptions;
use crate::identify::Sessions;
use crate::loads::WorkerAdmins;
use crate::operate::Task;
use crate::origin::Origin;
use crate::pages::Home;
use crate::throttle::Rate;
use crate::token::KeyRing;
use crate::topology::Source;

/// Log lines of `gateway run`. The client of Kubernetes would tell each attempt that fails; what is
/// wrong is told once by whoever asked it.
const DEFAULT_FILTER: &str =
    if cfg!(feature = "kubernetes") { "info,kube_client=off" } else { "info" };

/// Accepts browsers and pins each session to its worker.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve browsers for workers that run elsewhere.
    Run(RunArgs),
    /// Start workers on this machine, restart them when they change or die, and serve browsers.
    Dev(DevArgs),
    /// Write the crate of a new app, with a page and a test.
    New(NewArgs),
    /// Look at a list of workers: who owns which session, and what a change would do.
    Topology(TopologyCommandArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where browsers connect.
    #[arg(
        long,
        env = "SINGLE_STATE_LISTEN",
        default_value = "127.0.0.1:8000",
        value_name = "HOST:PORT"
    )]
    listen: String,
    /// Where probes, status and metrics are read.
    #[arg(
        long,
        env = "SINGLE_STATE_ADMIN_LISTEN",
        default_value = "127.0.0.1:9000",
        value_name = "HOST:PORT"
    )]
    admin_listen: String,
    /// Admin port of the workers, each at the host of its link: then the status page also shows what
    /// only they know, as sessions in memory and the age of commits. Default: they are not asked.
    #[arg(long, env = "SINGLE_STATE_WORKER_ADMIN_PORT", value_name = "PORT")]
    worker_admin_port: Option<String>,
    #[command(flatten)]
    topology: TopologyArgs,
    /// Name of the cluster; gateways and workers must have the same.
    #[arg(long, env = "SINGLE_STATE_CLUSTER", default_value = "default", value_name = "NAME")]
    cluster: String,
    /// Keys that sign session tokens, one a line, 64 hex digits: the first signs, all verify.
    #[arg(long, env = "SINGLE_STATE_SESSION_KEYS_FILE", value_name = "FILE")]
    session_keys_file: Option<PathBuf>,
    /// In place of keys: take session ids as they come; whoever knows an id opens its session.
    #[arg(long, env = "SINGLE_STATE_UNSIGNED_SESSIONS", value_parser = BoolishValueParser::new())]
    unsigned_sessions: bool,
    #[command(flatten)]
    links: LinkArgs,
    #[command(flatten)]
    drain: DrainArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Folder with your pages, served at /; default: the demo, and for the worker command of dev a
    /// page that works for any app (it is also at /client/generic/).
    #[arg(long, env = "SINGLE_STATE_WEB", value_name = "DIR")]
    web: Option<PathBuf>,
    /// node_modules folder served at /vendor/; default: redirects to a public copy.
    #[arg(long, env = "SINGLE_STATE_VENDOR", value_name = "DIR")]
    vendor: Option<PathBuf>,
    #[command(flatten)]
    placement_key: PlacementKeyArgs,
    /// A page of another origin that may connect, such as https://app.example.org; several.
    #[arg(long, env = "SINGLE_STATE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Longest message of a browser. 0: any that a link carries, 16 MiB.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_MESSAGE_BYTES",
        default_value = "1048576",
        value_name = "BYTES"
    )]
    max_message_bytes: String,
    /// Longest websocket frame of a browser. 0: as long as a message.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_FRAME_BYTES",
        default_value = "262144",
        value_name = "BYTES"
    )]
    max_frame_bytes: String,
    /// Messages of one browser in a second; more is slowed, not closed. 0: any.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_MESSAGES_PER_SECOND",
        default_value = "1000",
        value_name = "N"
    )]
    max_messages_per_second: String,
    /// Bytes of messages of one browser in a second; more is slowed, not closed. 0: any.
    #[arg(
        long,
        env = "SINGLE_STATE_MAX_BYTES_PER_SECOND",
        default_value = "8388608",
        value_name = "BYTES"
    )]
    max_bytes_per_second: String,
    #[command(flatten)]
    arrivals: ArrivalArgs,
    /// After how long a quiet browser is asked whether it is there. 0: never.
    #[arg(long, env = "SINGLE_STATE_PING_AFTER", default_value = "20s", value_name = "DURATION")]
    ping_after: String,
    /// After how long a quiet browser is given up. 0: never.
    #[arg(long, env = "SINGLE_STATE_IDLE_TIMEOUT", default_value = "60s", value_name = "DURATION")]
    idle_timeout: String,
    /// How long a client of single-state.v1 may take for its first message. 0: any time.
    #[arg(long, env = "SINGLE_STATE_HELLO_TIMEOUT", default_value = "5s", value_name = "DURATION")]
    hello_timeout: String,
    /// How long a browser waits with an open socket while its worker cannot be reached.
    #[arg(long, env = "SINGLE_STATE_PARK_TIMEOUT", default_value = "60s", value_name = "DURATION")]
    park_timeout: String,
    /// How log lines look.
    #[arg(long, env = "SINGLE_STATE_LOG_FORMAT", default_value = "text", value_name = "text|json")]
    log_format: String,
    /// Which log lines appear: error, warn, info, debug or a filter by module; default: info, and
    /// warn in dev.
    #[arg(long, env = "SINGLE_STATE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Args)]
struct PlacementKeyArgs {
    /// 16 secret bytes that place sessions, the same for the whole cluster; default: zeros.
    #[arg(long, env = "SINGLE_STATE_PLACEMENT_KEY", value_name = "HEX32", hide_env_values = true)]
    placement_key: Option<String>,
}

/// What a gateway is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where browsers connect.
    pub listen: String,
    /// Where operators look.
    pub admin_listen: String,
    /// Name of the cluster.
    pub cluster: String,
    /// What proves to workers that this is a gateway of the cluster, and to it that they are.
    pub link_keys: Option<LinkKeys>,
    /// The secret of the placement.
    pub placement_key: PlacementKey,
    /// Where it is said who the workers are.
    pub(crate) topology: Source,
    /// What stands at `/`.
    pub home: Home,
    /// Where workers tell operators of themselves.
    pub(crate) worker_admins: WorkerAdmins,
    /// npm packages for pages.
    pub vendor: Option<PathBuf>,
    /// Who may open a session.
    pub sessions: Sessions,
    /// Pages of other origins that may connect.
    pub allowed_origins: Vec<Origin>,
    /// Longest message of a browser, in bytes.
    pub max_message_bytes: usize,
    /// Longest frame of a browser, in bytes.
    pub max_frame_bytes: usize,
    /// What one browser may do.
    pub(crate) channel_limits: ChannelLimits,
    /// How many browsers may come.
    pub(crate) admission_limits: AdmissionLimits,
    /// How fast they may come.
    pub(crate) arrival_limits: ArrivalLimits,
    /// How they are sent away.
    pub(crate) drain: DrainOptions,
    /// How long a client may take for its hello.
    pub hello_timeout: Duration,
    /// How long a browser waits for an unreachable worker.
    pub park_timeout: Duration,
    /// How log lines look.
    pub log_format: Format,
    /// Which log lines appear.
    pub log_filter: String,
}

impl Config {
    /// The same for these workers, and their admin listeners.
    #[must_use]
    pub fn with_topologies(
        self,
        topologies: watch::Receiver<Option<Topology>>,
        admins: watch::Receiver<Vec<SocketAddr>>,
    ) -> Self {
        let worker_admins = WorkerAdmins::Told(admins);
        Self { topology: Source::Told(topologies), worker_admins, ..self }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Serve browsers.
    Run(Box<Config>),
    /// The same, with workers that are started here: the topology follows from them.
    Dev(Box<Config>, DevOptions),
    /// Write a new app.
    New(NewApp),
    /// Answer a question about a topology.
    Topology(Task),
    /// Nothing to run.
    Exit(ExitCode),
}

/// Reads command line and environment.
pub fn read(args: impl IntoIterator<Item = OsString>) -> Action {
    let (cli, mistakes) = match parse::<Cli>(args) {
        Parsed::Arguments(cli, mistakes) => (cli, mistakes),
        Parsed::Exit(code) => return Action::Exit(code),
    };
    let (program, checked) = match cli.command {
        Command::Run(args) => {
            ("gateway run", check_run(args, mistakes).map(|config| Action::Run(config.into())))
        }
        Command::Dev(args) => (
            "gateway dev",
            check_dev(args, mistakes).map(|(config, dev)| Action::Dev(config.into(), dev)),
        ),
        Command::New(args) => ("gateway new", check_new(args, mistakes).map(Action::New)),
        Command::Topology(args) => {
            ("gateway topology", check_topology(args, mistakes).map(Action::Topology))
        }
    };
    checked.unwrap_or_else(|mistakes| Action::Exit(mistakes.report(program)))
}

fn check_run(args: RunArgs, mut mistakes: Mistakes) -> Result<Config, Mistakes> {
    let source = args.topology.check_with_links(&args.links, &mut mistakes);
    let listen = mistakes.listen("--listen", &args.listen);
    let admin_listen = mistakes.listen("--admin-listen", &args.admin_listen);
    if args.cluster.is_empty() || args.cluster.len() > 64 {
        mistakes.add("--cluster: give a name of 1 to 64 bytes");
    }
    let keys = args.session_keys_file.as_deref();
    let sessions = check_sessions(keys, args.unsigned_sessions, &mut mistakes);
    let drain = args.drain.check(&mut mistakes);
    let worker_admins = match &args.worker_admin_port {
        Some(port) => mistakes.parse("--worker-admin-port", port).map(WorkerAdmins::Port),
        None => Some(WorkerAdmins::Unknown),
    };
    let common = check_common(args.common, DEFAULT_FILTER, &mut mistakes);
    let config = (|| {
        let (topology, link_keys) = source?;
        Some(Config {
            listen: listen?,
            admin_listen: admin_listen?,
            cluster: args.cluster,
            link_keys,
            topology,
            sessions: sessions?,
            drain: drain?,
            worker_admins: worker_admins?,
            ..common?
        })
    })();
    mistakes.into_result(config)
}

fn check_sessions(
    keys: Option<&Path>,
    unsigned: bool,
    mistakes: &mut Mistakes,
) -> Option<Sessions> {
    let sentence = match (keys, unsigned) {
        (None, true) => return Some(Sessions::Unsigned),
        (None, false) => {
            "--session-keys-file: name a file of keys, made with `openssl rand -hex 32`, \
             or say --unsigned-sessions"
                .to_owned()
        }
        (Some(_), true) => "--session-keys-file and --unsigned-sessions: choose one".to_owned(),
        (Some(path), false) => {
            let keys = std::fs::read_to_string(path).map_err(|error| error.to_string());
            match keys.and_then(|text| KeyRing::parse(&text).map_err(|error| error.to_string())) {
                Ok(keys) => return Some(Sessions::Signed(keys)),
                Err(error) => format!("--session-keys-file {}: {error}", path.display()),
            }
        }
    };
    mistakes.add(sentence);
    None
}

fn check_common(args: CommonArgs, default_filter: &str, mistakes: &mut Mistakes) -> Option<Config> {
    if let Some(folder) = args.web.as_ref().filter(|folder| !folder.is_dir()) {
        mistakes.add(format!("--web {folder:?}: there is no such folder"));
    }
    let placement_key = check_placement_key(&args.placement_key, mistakes);
    let origins = args.allow_origin.iter();
    let allowed_origins =
        origins.filter_map(|origin| mistakes.parse::<Origin>("--allow-origin", origin)).collect();
    let max_message_bytes = bytes("--max-message-bytes", &args.max_message_bytes, mistakes);
    let max_frame_bytes = bytes("--max-frame-bytes", &args.max_frame_bytes, mistakes);
    let channel_limits = check_channel_limits(&args, mistakes);
    let admission_limits = args.arrivals.check_admission(mistakes);
    let arrival_limits = args.arrivals.check_arrivals(mistakes);
    let hello_timeout = mistakes.duration("--hello-timeout", &args.hello_timeout);
    let park_timeout = mistakes.duration("--park-timeout", &args.park_timeout);
    let log_format = mistakes.parse::<Format>("--log-format", &args.log_format);
    let log_filter = args.log.unwrap_or_else(|| default_filter.to_owned());
    if let Err(error) = parse_filter(&log_filter) {
        mistakes.add(format!("--log {log_filter:?}: {error}"));
    }
    Some(Config {
        listen: String::new(),
        admin_listen: String::new(),
        cluster: String::new(),
        link_keys: None,
        placement_key: placement_key?,
        topology: Source::Static(Topology::default()),
        home: args.web.map_or(Home::Demo, Home::Web),
        worker_admins: WorkerAdmins::Unknown,
        vendor: args.vendor,
        sessions: Sessions::Unsigned,
        allowed_origins,
        max_message_bytes: max_message_bytes?,
        max_frame_bytes: max_frame_bytes?,
        channel_limits: channel_limits?,
        admission_limits: admission_limits?,
        arrival_limits: arrival_limits?,
        // `gateway dev` ends at once.
        drain: DrainOptions::AT_ONCE,
        hello_timeout: hello_timeout?,
        park_timeout: park_timeout?,
        log_format: log_format?,
        log_filter,
    })
}

fn check_placement_key(args: &PlacementKeyArgs, mistakes: &mut Mistakes) -> Option<PlacementKey> {
    match &args.placement_key {
        // The text is a secret and is not repeated.
        Some(text) => {
            text.parse().map_err(|error| mistakes.add(format!("--placement-key: {error}"))).ok()
        }
        None => Some(PlacementKey::default()),
    }
}

fn check_channel_limits(args: &CommonArgs, mistakes: &mut Mistakes) -> Option<ChannelLimits> {
    let messages = mistakes.parse("--max-messages-per-second", &args.max_messages_per_second);
    let bytes = mistakes.parse("--max-bytes-per-second", &args.max_bytes_per_second);
    let ping_after = mistakes.duration("--ping-after", &args.ping_after);
    let idle_timeout = mistakes.duration("--idle-timeout", &args.idle_timeout);
    if let (Some(ping), Some(idle)) = (ping_after, idle_timeout)
        && !idle.is_zero()
        && ping >= idle
    {
        mistakes.add("--ping-after must be shorter than --idle-timeout, or no quiet browser stays");
    }
    Some(ChannelLimits {
        messages_per_second: Rate(messages?),
        bytes_per_second: Rate(bytes?),
        ping_after: ping_after?,
        idle_timeout: idle_timeout?,
    })
}

fn bytes(flag: &str, text: &str, mistakes: &mut Mistakes) -> Option<usize> {
    let limit = MAX_MESSAGE as usize;
    let bytes = mistakes.parse::<usize>(flag, text)?;
    if bytes > limit {
        mistakes.add(format!(
            "{flag} {bytes}: give a number up to {limit}, what a link carries, or 0 for that"
        ));
        return None;
    }
    Some(if bytes == 0 { limit } else { bytes })
}
