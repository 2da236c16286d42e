//! Opens TCP connections of browsers, also from other addresses of this machine: each source address
//! has ports of its own for each destination.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// Connects to `HOST:PORT`, from this address if one is given.
pub async fn dial(host: &str, from: Option<Ipv4Addr>) -> Result<TcpStream> {
    let stream = match from {
        None => TcpStream::connect(host).await?,
        Some(from) => {
            let mut found = lookup_host(host).await?;
            let to = found.find(SocketAddr::is_ipv4).context("it has no IPv4 address")?;
            let socket = TcpSocket::new_v4()?;
            // The port is chosen when the destination is known, so that destinations can share it.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)
                .map_err(std::io::Error::from)?;
            socket.bind((from, 0).into())?;
            socket.connect(to).await?
        }
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
