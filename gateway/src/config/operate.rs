//! The flags of `gateway topology …`, checked.

use clap::{Args, Subcommand};
use single_state_node::config::Mistakes;
use single_state_proto::id::{SessionId, WorkerIndex};

use super::topology::TopologyArgs;
use super::{PlacementKeyArgs, check_placement_key};
use crate::operate::{AdminUrl, Job, Task};

#[derive(Debug, Args)]
pub(super) struct TopologyCommandArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints a topology and, for each session named, its owner and why it is that one.
    Show(ShowArgs),
    /// Says whether a topology is right, and what it would change for a gateway that runs: exit
    /// code 1 if it would be refused or break links.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Workers that are passed over, by index.
    #[arg(long, value_name = "INDEX,…", default_value = "", hide_default_value = true)]
    down: String,
    /// Sessions; write `-- ID` for one that begins with a hyphen.
    #[arg(value_name = "ID")]
    sessions: Vec<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Admin address of a gateway that runs, http://HOST:PORT.
    #[arg(long, env = "SINGLE_STATE_GATEWAY", value_name = "URL")]
    gateway: Option<String>,
}

/// What both have.
#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    topology: TopologyArgs,
    #[command(flatten)]
    placement_key: PlacementKeyArgs,
    /// JSON in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn check_topology(
    args: TopologyCommandArgs,
    mut mistakes: Mistakes,
) -> Result<Task, Mistakes> {
    let (job, common) = match args.command {
        Command::Show(args) => {
            let job = check_show(&args, &mut mistakes);
            (job, args.common)
        }
        Command::Check(args) => {
            let gateway = match &args.gateway {
                Some(url) => mistakes.parse::<AdminUrl>("--gateway", url).map(Some),
                None => Some(None),
            };
            (gateway.map(|gateway| Job::Check { gateway }), args.common)
        }
    };
    // Whether links may leave a machine is a matter of the gateways that have them.
    let source = common.topology.check(true, &mut mistakes);
    let key = check_placement_key(&common.placement_key, &mut mistakes);
    let json = common.json;
    let task = (|| Some(Task { source: source?, key: key?, json, job: job? }))();
    mistakes.into_result(task)
}

fn check_show(args: &ShowArgs, mistakes: &mut Mistakes) -> Option<Job> {
    let mut down = Vec::new();
    for index in args.down.split(',').map(str::trim).filter(|index| !index.is_empty()) {
        down.extend(mistakes.parse::<u16>("--down", index).map(WorkerIndex));
    }
    let mut sessions = Vec::new();
    for id in &args.sessions {
        sessions.extend(mistakes.parse::<SessionId>("ID", id));
    }
    Some(Job::Show { sessions, down })
}
