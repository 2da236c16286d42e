//! The flags of `gateway dev`, and what its workers are told beside them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use single_state_node::config::Mistakes;

use super::{CommonArgs, Config, check_common};
use crate::dev::{DevOptions, MAX_WORKERS};

/// What suits an author better than an operator, unless the environment says otherwise: to hear
/// sooner of a handler that blocks, to have a session that starts anew when the app's state has
/// changed its form, and to hear at once of a state that cannot be read back.
const FOR_AUTHORS: [(&str, &str); 3] = [
    ("SINGLE_STATE_BLOCK_WARNING", "100ms"),
    ("SINGLE_STATE_ON_UNREADABLE", "reset"),
    ("SINGLE_STATE_CHECK_SNAPSHOTS", "1"),
];

/// Which log lines an author sees: what is wrong, and why the app has rejected messages.
const LOG: &str = "warn,rejected=debug";

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Where browsers connect.
    #[arg(
        long,
        env = "SINGLE_STATE_LISTEN",
        default_value = "127.0.0.1:8000",
        value_name = "HOST:PORT"
    )]
    listen: String,
    /// Where probes, status and metrics are read; port 0 takes a free one.
    #[arg(
        long,
        env = "SINGLE_STATE_ADMIN_LISTEN",
        default_value = "127.0.0.1:0",
        value_name = "HOST:PORT"
    )]
    admin_listen: String,
    /// How many worker processes to start.
    #[arg(long, env = "SINGLE_STATE_WORKERS", default_value = "3", value_name = "N")]
    workers: String,
    /// Folder where the workers keep sessions; made if it is missing.
    #[arg(long, env = "SINGLE_STATE_DATA", default_value = ".single-state", value_name = "DIR")]
    data: PathBuf,
    /// Where the workers keep sessions instead of in that folder: sqlite:PATH, postgres://…, or
    /// memory: (until a worker ends).
    #[arg(long, env = "SINGLE_STATE_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
    /// Shell command that builds the workers; runs now and when a source file changes.
    #[arg(long, env = "SINGLE_STATE_BUILD", value_name = "COMMAND")]
    build: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
    /// The worker and its arguments; default: the program `worker` beside this one.
    #[arg(last = true, value_name = "WORKER COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn check_dev(
    args: DevArgs,
    mut mistakes: Mistakes,
) -> Result<(Config, DevOptions), Mistakes> {
    let workers = mistakes.parse::<u32>("--workers", &args.workers);
    if workers.is_some_and(|workers| !(1..=MAX_WORKERS).contains(&workers)) {
        mistakes.add(format!("--workers {}: give a number from 1 to 64", args.workers));
    }
    if args.build.as_ref().is_some_and(|command| command.trim().is_empty()) {
        mistakes.add("--build: give a command, such as --build 'cargo build'");
    }
    if args.store.as_ref().is_some_and(|store| !is_store(store)) {
        // The URL may have a password in it and is not repeated.
        mistakes.add("--store: give memory:, sqlite:PATH or postgres://USER@HOST/DATABASE");
    }
    let listen = mistakes.listen("--listen", &args.listen);
    let admin_listen = mistakes.listen("--admin-listen", &args.admin_listen);
    let placement_key = args.common.placement_key.placement_key.clone();
    let format = args.common.log_format.clone();
    let web = args.common.web.clone();
    let common = check_common(args.common, LOG, &mut mistakes);
    let mut extra_env: Vec<(OsString, OsString)> = vec![
        ("SINGLE_STATE_LOG_FORMAT".into(), format.into()),
        // Links of dev stay on loopback and have no keys, whatever the shell is set up for.
        ("SINGLE_STATE_LINK_KEY_FILE".into(), OsString::new()),
    ];
    if let Some(key) = placement_key {
        extra_env.push(("SINGLE_STATE_PLACEMENT_KEY".into(), key.into()));
    }
    let unset = FOR_AUTHORS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    extra_env.extend(unset.map(|(name, value)| (name.into(), value.into())));
    if let Some(config) = &common {
        extra_env.push(("SINGLE_STATE_LOG".into(), config.log_filter.clone().into()));
    }
    let (data, store) = check_store(args.data, args.store);
    let not_sources = data.iter().cloned().chain(web).chain(files_of(&store)).collect();
    let config = (|| {
        let config = Config { listen: listen?, admin_listen: admin_listen?, ..common? };
        let options = DevOptions {
            workers: workers?,
            command: args.command,
            not_sources,
            build: args.build,
            data,
            store,
            extra_env,
            ..DevOptions::default()
        };
        Some((Config { cluster: "dev".to_owned(), ..config }, options))
    })();
    mistakes.into_result(config)
}

/// Whether a worker would know what to do with it; else it would end at once, again and again. Empty
/// is as good as absent.
fn is_store(url: &str) -> bool {
    let schemes = ["sqlite:", "postgres://", "postgresql://"];
    ["", "memory:"].contains(&url) || schemes.iter().any(|scheme| url.starts_with(scheme))
}

/// The folder that is needed, if one is, and the workers' store. Its path is absolute, so that a
/// worker that changes its folder finds it.
fn check_store(folder: PathBuf, store: Option<String>) -> (Option<PathBuf>, OsString) {
    if let Some(store) = store.filter(|store| !store.is_empty()) {
        return (None, store.into());
    }
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let mut url = OsString::from("sqlite:");
    url.push(folder.join("sessions.sqlite"));
    (Some(folder), url)
}

/// What SQLite writes where it may lie among the sources: a save is no change of them.
fn files_of(store: &OsString) -> Vec<PathBuf> {
    let Some(path) = store.to_str().and_then(|url| url.strip_prefix("sqlite:")) else {
        return Vec::new();
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    ["", "-wal", "-shm", "-journal", ".lock"].map(|end| format!("{path}{end}").into()).into()
}
