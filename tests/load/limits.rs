//! What this machine allows: descriptors and ports. Says what to set where it is not enough.

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Error, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use single_state_node::config::Mistakes;

use crate::config::Config;

/// Descriptors that a process has beside its browsers.
const OTHERS: u64 = 64;
/// Connections from one address to another that find a port at once. Linux tries one port after the
/// other, every second one first: from some 14,000 on each connection looks at all of them, which
/// takes milliseconds of CPU.
const EASY_PORTS: usize = 5_000;
const MOST_ADDRESSES: usize = 1 << 16;

/// The addresses of `IP` and `IP-IP`.
pub(crate) fn addresses(texts: &[String], mistakes: &mut Mistakes) -> Vec<Ipv4Addr> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (Ipv4Addr, Ipv4Addr) = (first.parse().ok()?, last.parse().ok()?);
        let range = u32::from(first)..=u32::from(last);
        (!range.is_empty() && range.clone().count() <= MOST_ADDRESSES).then_some(range)
    };
    let mut addresses = Vec::new();
    for text in texts {
        match range(text) {
            Some(range) => addresses.extend(range.map(Ipv4Addr::from)),
            None => {
                mistakes.add(format!("--from {text:?}: give 127.0.0.1 or 127.0.0.1-127.0.0.40"));
            }
        }
    }
    addresses
}

/// From where to connect if nobody says so: a machine has very many addresses of its own for what
/// listens on itself, and otherwise one.
pub(crate) fn own_addresses(urls: &[String], browsers: usize) -> Vec<Ipv4Addr> {
    let is_here = |url: &String| {
        let name = host(url).rsplit_once(':').map_or("", |(name, _)| name);
        name == "localhost" || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
    };
    let count = browsers.div_ceil(destinations(urls).max(1)).div_ceil(EASY_PORTS);
    if count < 2 || !urls.iter().all(is_here) {
        return Vec::new();
    }
    let first = u32::from(Ipv4Addr::LOCALHOST);
    (first..).take(count.min(MOST_ADDRESSES)).map(Ipv4Addr::from).collect()
}

/// How many places these lead to.
fn destinations(urls: &[String]) -> usize {
    urls.iter().map(|url| host(url)).collect::<HashSet<_>>().len()
}

/// How many browsers a process takes: as many as asked for, or as it has descriptors for.
pub(crate) fn browsers_per_process(asked: Option<&str>, mistakes: &mut Mistakes) -> Option<usize> {
    let room = raise_descriptors().saturating_sub(OTHERS);
    let most = match asked {
        None => room,
        Some(text) => mistakes.parse::<u64>("--browsers-per-process", text)?,
    };
    if most == 0 || most > room {
        mistakes.add(format!(
            "--browsers-per-process {most}: a process may have {} descriptors, enough for {room} \
             browsers; allow more with `ulimit -n {}` (as root, and up to `sysctl fs.nr_open`), or \
             give from 1 to {room}",
            room + OTHERS,
            most.max(1000) + OTHERS,
        ));
        return None;
    }
    usize::try_from(most).ok()
}

/// As many descriptors as are allowed without asking anybody.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Refused where a container forbids it: then the lower one counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Whether so many connections can be open at a time.
pub(crate) fn check(config: &Config) -> Result<()> {
    let browsers = config.browsers as u64;
    if let Some([files]) = numbers("/proc/sys/fs/file-max") {
        ensure!(
            files > browsers,
            "{browsers} browsers need as many descriptors, and this machine allows {files} in all: \
             `sysctl -w fs.file-max={}`",
            4 * browsers
        );
    }
    let Some([first, last]) = numbers("/proc/sys/net/ipv4/ip_local_port_range") else {
        return Ok(());
    };
    let destinations = destinations(&config.urls);
    let (ports, sources) = (last + 1 - first, config.from.len().max(1) as u64);
    let busiest = browsers.div_ceil(destinations as u64).div_ceil(sources);
    ensure!(
        busiest <= ports,
        "{browsers} browsers need {busiest} ports for each of {sources} source addresses and {} \
         destinations, and net.ipv4.ip_local_port_range has {ports}: give more addresses, such as \
         `--from 127.0.0.1-127.0.0.{}`, or `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"`",
        destinations,
        (browsers.div_ceil(destinations as u64).div_ceil(ports) + 1).min(254),
    );
    Ok(())
}

/// `HOST:PORT` of an address.
pub(crate) fn host(url: &str) -> &str {
    let rest = url.strip_prefix("ws://").unwrap_or(url);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// An error in words, with what to do where the machine is at its limit.
pub(crate) fn explain(error: &Error) -> String {
    let code = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error)
        .map(rustix::io::Errno::from_raw_os_error);
    let advice = match code {
        Some(rustix::io::Errno::MFILE) => ": raise `ulimit -n`, or lower --browsers-per-process",
        Some(rustix::io::Errno::NFILE) => ": raise `sysctl fs.file-max`",
        Some(rustix::io::Errno::ADDRNOTAVAIL) => {
            ": no port is free; give more addresses (--from 127.0.0.1-127.0.0.40), or \
             `sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"`"
        }
        _ => "",
    };
    format!("{error:#}{advice}")
}

fn numbers<const N: usize>(path: &str) -> Option<[u64; N]> {
    let text = fs::read_to_string(path).ok()?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|part| part.parse().ok()).collect();
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_addresses_has_all_between_its_ends() {
        let mut mistakes = Mistakes::default();
        let all = addresses(&["127.0.0.254-127.0.1.1".into(), "10.0.0.1".into()], &mut mistakes);
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1", "10.0.0.1"]);
        assert_eq!(mistakes, Mistakes::default());
    }

    #[test]
    fn gateways_of_this_machine_are_reached_from_as_many_addresses_as_find_ports_at_once() {
        let urls = |hosts: &[&str]| -> Vec<_> {
            hosts.iter().map(|host| format!("ws://{host}/ws")).collect()
        };
        let two = urls(&["127.0.0.1:8000", "localhost:8001"]);
        assert!(own_addresses(&two, 10_000).is_empty());
        assert_eq!(own_addresses(&two, 10_001), [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)]);
        assert_eq!(own_addresses(&urls(&["127.0.0.1:8000"; 2]), 20_000).len(), 4);
        assert!(own_addresses(&urls(&["127.0.0.1:8000", "10.0.0.1:8000"]), 100_000).is_empty());
        assert_eq!(own_addresses(&two, usize::MAX).len(), MOST_ADDRESSES);
    }

    #[test]
    fn what_is_no_range_of_addresses_is_told() {
        for bad in ["", "localhost", "127.0.0.2-127.0.0.1", "0.0.0.0-255.255.255.255", "1.2.3.4-"] {
            let mut mistakes = Mistakes::default();
            addresses(&[bad.to_owned()], &mut mistakes);
            assert_eq!(mistakes.sentences().len(), 1, "{bad}");
        }
    }
}
