//! Free ports for the workers. Each is held by a socket until its worker starts; none of them
//! listens, so that whoever dials too early is refused at once.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
};

use tokio::net::TcpSocket;

/// Below this live the ports that people choose themselves.
const LOWEST: u16 = 10_240;
/// Where the ports of outgoing connections begin on Linux, unless the machine says otherwise.
const USUAL_EPHEMERAL: u16 = 32_768;
/// With fewer ports than this to choose from, the system's own choice is better.
const ENOUGH: u16 = 1_000;
const TRIES: u32 = 64;

/// Takes `count` free ports of 127.0.0.1, all different as all are held.
///
/// They lie below the range from which outgoing connections take theirs. A worker keeps its ports
/// over restarts: inside that range, any connection of this machine could take one while the worker
/// is away, and one that dials the absent worker could even end up connected to itself.
pub(crate) fn reserve(count: usize) -> io::Result<Vec<TcpSocket>> {
    let range = below_ephemeral(fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok());
    (0..count).map(|_| reserve_one(&range)).collect()
}

fn reserve_one(range: &Range<u16>) -> io::Result<TcpSocket> {
    if range.len() >= usize::from(ENOUGH) {
        for _ in 0..TRIES {
            let mut random = [0; 2];
            if getrandom::fill(&mut random).is_err() {
                break;
            }
            let port = range.start + u16::from_ne_bytes(random) % (range.end - range.start);
            if let Ok(socket) = bound(port) {
                return Ok(socket);
            }
        }
    }
    bound(0)
}

fn bound(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

/// The ports to choose from, given the kernel's "lowest highest" of its ephemeral range.
fn below_ephemeral(kernel_says: Option<String>) -> Range<u16> {
    let lowest_ephemeral = kernel_says
        .and_then(|says| says.split_whitespace().next()?.parse().ok())
        .unwrap_or(USUAL_EPHEMERAL);
    LOWEST..lowest_ephemeral.max(LOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reserved_ports_are_all_different() {
        let held = reserve(40).unwrap();
        let ports: BTreeSet<_> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 40);
    }

    #[test]
    fn ports_lie_below_those_of_outgoing_connections() {
        let range = |says: &str| below_ephemeral(Some(says.to_owned()));
        assert_eq!(range("32768\t60999\n"), 10_240..32_768);
        assert_eq!(range("20000 65535"), 10_240..20_000);
        assert_eq!(below_ephemeral(None), 10_240..32_768);
        let range = range("20000 65535");
        assert!(range.contains(&reserve_one(&range).unwrap().local_addr().unwrap().port()));
    }

    #[test]
    fn a_machine_without_room_below_gets_ports_of_the_systems_choice() {
        let range = below_ephemeral(Some("1024 65535".to_owned()));
        assert!(range.is_empty());
        assert_ne!(reserve_one(&range).unwrap().local_addr().unwrap().port(), 0);
    }
}
