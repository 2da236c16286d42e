//! One address at which several processes connect, each through a proxy of its own: so two gateways
//! that know a worker by the same name can be cut off from it one by one.
//!
//! Who has connected is read from `/proc`: the kernel names the socket's number, and a process of
//! ours has its sockets among its open files.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Proxy, Shared, lock, reset, take};

/// A listener, and a proxy for each process that may connect to it.
#[derive(Debug)]
pub struct Crossing {
    address: SocketAddr,
    target: String,
    callers: Arc<Mutex<BTreeMap<u32, Arc<Shared>>>>,
    accepting: JoinHandle<()>,
}

impl Crossing {
    /// Listens on a free port for what is to go to `target`, HOST:PORT.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let callers = Arc::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&callers)));
        Ok(Self { address, target: target.to_owned(), callers, accepting })
    }

    /// Where it listens, HOST:PORT.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What this process opens here from now on goes through this proxy, until it is dropped; who
    /// has none is refused.
    pub fn proxy_for(&self, process: u32) -> Proxy {
        let shared = Arc::new(Shared::new(&self.target));
        lock(&self.callers).insert(process, shared.clone());
        Proxy { address: self.address, shared, accepting: None }
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, callers: Arc<Mutex<BTreeMap<u32, Arc<Shared>>>>) {
    while let Ok((client, peer)) = listener.accept().await {
        let socket = listener.local_addr().ok().and_then(|here| socket_number(peer, here));
        let proxy = lock(&callers)
            .iter()
            .find_map(|(process, shared)| has_socket(*process, socket?).then(|| shared.clone()));
        match proxy {
            Some(shared) => take(client, &shared),
            None => reset(&client),
        }
    }
}

/// The kernel's number of the socket at one end of a connection.
fn socket_number(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let (from, to) = (in_table(from)?, in_table(to)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&&*from) && fields.get(2) == Some(&&*to);
        fields.get(9).filter(|_| is_it)?.parse().ok()
    })
}

/// An address as the kernel's table has it: its bytes as a number of this machine's, in hex.
fn in_table(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

fn has_socket(process: u32, socket: u64) -> bool {
    let name = format!("socket:[{socket}]");
    let files = std::fs::read_dir(format!("/proc/{process}/fd"));
    files.into_iter().flatten().flatten().any(|file| {
        std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_known_by_the_process_that_opened_it() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let (_server, peer) = listener.accept().await?;
        let socket = socket_number(peer, listener.local_addr()?).expect("it is in the table");
        assert!(has_socket(std::process::id(), socket));
        assert!(!has_socket(std::os::unix::process::parent_id(), socket));
        drop(client);
        Ok(())
    }
}
