//! Hosts on one machine: each has a network of its own with an address of its own, and a cable to a
//! bridge that can be cut. Knows no programs.
//!
//! ```text
//!   this thread ── bridge 10.77.0.1 ─┬─ cable ── host 10.77.0.2
//!                                    └─ cable ── host 10.77.0.3 …
//! ```
//!
//! Nothing of it has a name outside: the bridge is in a network namespace that only the test's thread
//! has, and a host's is kept by a descriptor of this process. So tests that run at the same time do
//! not meet, and all is gone with the process, however that ends.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// The bridge's name.
const BRIDGE: &str = "bridge";

/// A bridge that hosts are added to.
#[derive(Debug)]
pub struct Network {
    hosts: Cell<u8>,
}

/// A host; its network ends when it is dropped and no process is left in it.
#[derive(Debug)]
pub struct Host {
    /// Its only address.
    pub address: Ipv4Addr,
    /// The bridge's end of its cable.
    cable: String,
    namespace: File,
}

impl Network {
    /// Runs a test on a thread that is in no other network than this one. Where that is not permitted
    /// the test is skipped, which is said even if tests' output is not shown; it is never skipped in
    /// CI.
    pub fn alone<T: Send>(
        name: &str,
        test: impl AsyncFnOnce(Self) -> Result<T> + Send,
    ) -> Result<Option<T>> {
        let run = || match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                let network = Self::new()?;
                widen_ports()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(test(network)).map(Some)
            }
            Err(Errno::EPERM) if std::env::var_os("CI").is_none() => {
                let why = "network namespaces are not permitted here; run it as root";
                writeln!(std::io::stderr(), "SKIPPED {name}: {why}")?;
                Ok(None)
            }
            Err(error) => Err(error).context("make a network namespace"),
        };
        let ended = std::thread::scope(|scope| scope.spawn(run).join());
        ended.map_err(|_| anyhow!("{name} panicked"))?
    }

    fn new() -> Result<Self> {
        let own = address(1);
        ip(
            None,
            &format!(
                "link set lo up\nlink add {BRIDGE} type bridge\naddr add {own}/24 dev {BRIDGE}\n\
                 link set {BRIDGE} up\n"
            ),
        )?;
        Ok(Self { hosts: Cell::new(1) })
    }

    /// The bridge's own address, which is that of the test's thread.
    pub fn address(&self) -> Ipv4Addr {
        address(1)
    }

    /// Adds a host with the next address.
    pub fn add(&self) -> Result<Host> {
        let number = self.hosts.get().checked_add(1).context("too many hosts")?;
        self.hosts.set(number);
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            widen_ports()?;
            anyhow::Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let namespace = made.join().map_err(|_| anyhow!("its thread panicked"))??;
        let cable = format!("cable{number}");
        let host = Host { address: address(number), cable: cable.clone(), namespace };
        let path = host.path();
        ip(
            None,
            &format!(
                "link add {cable} type veth peer name eth0 netns {}\n\
                 link set {cable} master {BRIDGE} up\n",
                path.display()
            ),
        )?;
        ip(
            Some(&path),
            &format!(
                "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n\
                 route add default via {}\n",
                host.address,
                self.address()
            ),
        )?;
        Ok(host)
    }
}

impl Host {
    /// Where other processes find its network while this process has it.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()))
    }

    /// A command that runs on this host: to be given a program and what it is to know.
    pub fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--");
        command
    }

    /// Does something on a thread that is on this host. What it starts ends with that thread, unless
    /// it has a thread of its own.
    pub fn visit<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let visit = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
            what()
        };
        let ended = std::thread::scope(|scope| scope.spawn(visit).join());
        ended.map_err(|_| anyhow!("the visitor panicked"))?
    }

    /// Listens on this host.
    pub fn listen(&self, port: u16) -> Result<tokio::net::TcpListener> {
        let address = SocketAddr::from((self.address, port));
        let listener = self.visit(|| Ok(TcpListener::bind(address)?))?;
        listener.set_nonblocking(true)?;
        Ok(tokio::net::TcpListener::from_std(listener)?)
    }

    /// Nothing comes or goes any more, and nobody is told.
    pub fn cut(&self) -> Result<()> {
        ip(None, &format!("link set {} down\n", self.cable))
    }

    /// All comes and goes again.
    pub fn mend(&self) -> Result<()> {
        ip(None, &format!("link set {} up\n", self.cable))
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// Lets connections that begin in this thread's network use as many ports as there are.
fn widen_ports() -> Result<()> {
    Ok(std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?)
}

/// Runs lines of `ip` in a network, or in this thread's.
fn ip(network: Option<&Path>, lines: &str) -> Result<()> {
    let mut command = Command::new(if network.is_some() { "nsenter" } else { "ip" });
    if let Some(path) = network {
        command.arg(format!("--net={}", path.display())).args(["--", "ip"]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run ip: `tests/setup.sh test` gets it")?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    input.write_all(lines.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}: {lines}", String::from_utf8_lossy(&output.stderr));
    }
    ensure!(output.stderr.is_empty(), "ip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
