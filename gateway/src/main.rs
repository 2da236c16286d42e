//! The binary `gateway`: life of the process.

use std::net::SocketAddr;
use std::process::ExitCode;

use single_state_faults::{self as faults, Process};
use single_state_gateway::config::{Action, Config, read};
use single_state_gateway::dev::{DevOptions, Supervisor};
use single_state_gateway::{Gateway, create, operate};
use single_state_node::shutdown::{Phase, on_signals, reached};
use single_state_node::{exit, log};
use single_state_proto::id::Generation;
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;
use tokio::sync::watch;
use tokio::task::LocalSet;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    if let Err(code) = faults::start(Process::Gateway) {
        return code;
    }
    let (config, dev) = match read(std::env::args_os()) {
        Action::Run(config) => (*config, None),
        Action::Dev(config, options) => (*config, Some(options)),
        Action::New(app) => return create::run(&app),
        Action::Topology(task) => return operate::run(task),
        Action::Exit(code) => return code,
    };
    log::start(config.log_format, &config.log_filter);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    let outcome = LocalSet::new().block_on(&runtime, async {
        let phase = on_signals()?;
        match dev {
            None => run(config, phase).await,
            Some(options) => develop(config, options, phase).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::from(exit::CLEAN),
        Err(error) => exit::failed(&*error),
    }
}

/// `gateway run`.
async fn run(config: Config, phase: watch::Receiver<Phase>) -> Result<(), Failure> {
    if config.placement_key.is_default() {
        tracing::warn!("the placement key is the public default: give --placement-key");
    }
    let gateway = Gateway::bind(config).await?;
    let (browsers, admin) = (gateway.address()?, gateway.admin_address()?);
    tracing::info!(listen = %browsers, admin_listen = %admin, "gateway listens");
    gateway.run(phase).await?;
    tracing::info!("gateway ends");
    Ok(())
}

/// `gateway dev`: the workers first, so that their addresses are known.
#[expect(clippy::print_stdout, reason = "the address is the command's result")]
async fn develop(
    config: Config,
    options: DevOptions,
    phase: watch::Receiver<Phase>,
) -> Result<(), Failure> {
    let supervisor = Supervisor::bind(options)?;
    let handle = supervisor.handle();
    let topologies = number(supervisor.addresses());
    let gateway = Gateway::bind(config.with_topologies(topologies, supervisor.admins())).await?;
    let gateway = gateway.obey_pages(handle.clone());
    let (browsers, admin) = (gateway.address()?, gateway.admin_address()?);
    println!("open http://{browsers}/ in a browser (for operators: status page http://{admin}/)");

    let (mut draining, mut stopping) = (phase.clone(), phase.clone());
    tokio::task::spawn_local(async move {
        reached(&mut stopping, Phase::Stopping).await;
        handle.kill_now().await;
    });
    let gateway = tokio::task::spawn_local(gateway.run(phase));
    supervisor.run(async move { reached(&mut draining, Phase::Draining).await }).await?;
    // Browsers are told; that takes no longer than the gateway's own patience.
    Ok(gateway.await??)
}

/// A topology for each list of addresses, with rising generations; none before there are workers.
fn number(mut addresses: watch::Receiver<Vec<SocketAddr>>) -> watch::Receiver<Option<Topology>> {
    let (topologies, receiver) = watch::channel(None);
    tokio::task::spawn_local(async move {
        for generation in 1.. {
            let workers: Vec<_> =
                addresses.borrow_and_update().iter().map(ToString::to_string).collect();
            let topology = Topology::new(Generation(generation), Placement::default(), workers);
            // These are addresses of sockets, all different.
            if let Ok(topology) = topology
                && !topology.workers().is_empty()
            {
                topologies.send_replace(Some(topology));
            }
            if addresses.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
