//! `worker sessions …`: what operators ask of a store and do to its rows, whether workers run or
//! not. Owns the commands' flags, their exit codes and what standard output gets. Knows no apps and
//! claims nothing.

use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;
use single_state_node::config::{Mistakes, Parsed, parse};
use single_state_node::exit;
use single_state_proto::id::SessionId;
use single_state_store::{Listed, MAX_STRIKES, SharedStore, StoreError};
use tokio::task::LocalSet;

use crate::config::StoreArgs;

mod json;
mod list;
mod moment;
mod show;

use moment::moment;

/// The first argument of a worker that is to do this instead of its work.
pub(crate) const COMMAND: &str = "sessions";

/// How the program is named in what it says.
const PROGRAM: &str = "worker sessions";

/// Looks at sessions in a store and puts them right, whether workers run or not.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, bin_name = PROGRAM)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists sessions in order of their ids.
    List(ListArgs),
    /// Prints a session with its state as JSON.
    Show(ShowArgs),
    /// Empties a session, whoever owns it; its owner is fenced, its pages stay connected.
    Discard(OneArgs),
    /// Lets any worker take a session at once and forgives its strikes; its state stays.
    Release(OneArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// At most so many.
    #[arg(long, value_name = "N")]
    limit: Option<String>,
    /// Begins behind this id; write --after=ID for one that begins with a hyphen.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// One JSON object a line, in place of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Adds the snapshot as it is stored, in base64.
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The session; write `-- ID`, as the last argument, for one that begins with a hyphen.
    #[arg(value_name = "ID")]
    session: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// A command whose flags are right.
struct Task {
    store: SharedStore,
    cluster: String,
    /// SQLite's file.
    file: Option<PathBuf>,
    job: Job,
}

enum Job {
    List { after: Option<SessionId>, limit: usize, json: bool },
    Show { session: SessionId, raw: bool },
    Discard(SessionId),
    Release(SessionId),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the store is away (--store): {0}")]
    Away(String),
    #[error("the store cannot be used (--store): {0}")]
    Unusable(String),
    #[error("there is no file {} (--store); a worker makes it when it starts", .0.display())]
    NoFile(PathBuf),
    #[error("no session \"{session}\" in cluster {cluster:?}")]
    NoSession { session: SessionId, cluster: String },
    #[error("cannot write the result")]
    Output(#[source] std::io::Error),
    #[error("cannot begin")]
    System(#[source] std::io::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(error) => Self::Away(error),
            StoreError::Unusable(error) => Self::Unusable(error),
        }
    }
}

/// Runs the command that `args` say; the first of them stands for the program.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let task = match parse::<Args>(args) {
        Parsed::Arguments(args, mistakes) => check(args.command, mistakes),
        Parsed::Exit(code) => return code,
    };
    match task.map(work) {
        Ok(Ok(())) => ExitCode::from(exit::CLEAN),
        Ok(Err(Failure::Output(error))) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            // Whoever reads, `head` for instance, has enough.
            ExitCode::from(exit::CLEAN)
        }
        Ok(Err(failure)) => exit::failed(&failure),
        Err(mistakes) => mistakes.report(PROGRAM),
    }
}

fn check(command: Command, mut mistakes: Mistakes) -> Result<Task, Mistakes> {
    let (job, args) = match command {
        Command::List(args) => (check_list(&args, &mut mistakes), args.store),
        Command::Show(ShowArgs { one, raw }) => {
            let session = check_id(&one, &mut mistakes);
            (session.map(|session| Job::Show { session, raw }), one.store)
        }
        Command::Discard(one) => (check_id(&one, &mut mistakes).map(Job::Discard), one.store),
        Command::Release(one) => (check_id(&one, &mut mistakes).map(Job::Release), one.store),
    };
    if args.is_ephemeral() {
        mistakes.add("--store memory: gives sessions that only their own worker sees");
    }
    let store = args.check(&mut mistakes);
    let file = sqlite_file(&args.store);
    let task = (|| Some(Task { store: store?, cluster: args.cluster, file, job: job? }))();
    mistakes.into_result(task)
}

fn check_list(args: &ListArgs, mistakes: &mut Mistakes) -> Option<Job> {
    let limit = match &args.limit {
        None => Some(usize::MAX),
        Some(text) => mistakes.parse("--limit", text),
    };
    if limit == Some(0) {
        mistakes.add("--limit 0: give at least 1");
    }
    let after = match &args.after {
        None => Some(None),
        Some(text) => mistakes.parse("--after", text).map(Some),
    };
    Some(Job::List { limit: limit?, after: after?, json: args.json })
}

fn check_id(args: &OneArgs, mistakes: &mut Mistakes) -> Option<SessionId> {
    match &args.session {
        Some(text) => mistakes.parse("ID", text),
        None => {
            mistakes.add("say which session: its ID is missing");
            None
        }
    }
}

/// The file of `sqlite:PATH`, which the store would make. For a command that looks for sessions
/// one that is not there is a path that was mistyped, or another folder than the workers'.
fn sqlite_file(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    Some(Path::new(rest.strip_prefix("//").unwrap_or(rest)).to_owned())
}

fn work(task: Task) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::System)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    LocalSet::new().block_on(&runtime, perform(task, &mut out))?;
    out.flush().map_err(Failure::Output)
}

async fn perform(task: Task, out: &mut impl Write) -> Result<(), Failure> {
    let Task { store, cluster, file, job } = task;
    if let Some(file) = file
        && matches!(file.try_exists(), Ok(false))
    {
        return Err(Failure::NoFile(file));
    }
    store.prepare().await?;
    let (session, was_there) = match job {
        Job::List { after, limit, json } => {
            return list::list(&store, after, limit, json, out).await;
        }
        Job::Show { session, raw } => {
            let row = store.show(&session).await?;
            if let Some((listed, state)) = &row {
                show::show(listed, state, raw, out).map_err(Failure::Output)?;
            }
            (session, row.is_some())
        }
        Job::Discard(session) => {
            let was_there = store.discard(&session).await?;
            (session, was_there)
        }
        Job::Release(session) => {
            let was_there = store.free(&session).await?;
            (session, was_there)
        }
    };
    if was_there { Ok(()) } else { Err(Failure::NoSession { session, cluster }) }
}

/// A row without its snapshot, as it is printed.
#[derive(Debug, Serialize)]
struct Numbers<'a> {
    session: &'a str,
    owner: Option<u16>,
    epoch: u64,
    version: u64,
    app_version: u32,
    codec: u16,
    strikes: u16,
    quarantined: bool,
    bytes: u64,
    wake_at: Option<String>,
    updated_at: String,
}

impl<'a> Numbers<'a> {
    fn new(listed: &'a Listed) -> Self {
        Self {
            session: listed.session.as_str(),
            owner: listed.owner.map(|owner| owner.0),
            epoch: listed.epoch.0,
            version: listed.version.0,
            app_version: listed.app_version,
            codec: listed.codec,
            strikes: listed.strikes,
            quarantined: listed.strikes >= MAX_STRIKES,
            bytes: listed.bytes,
            wake_at: listed.wake_at.map(moment),
            updated_at: moment(listed.updated_at),
        }
    }
}
