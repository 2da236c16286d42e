//! How many browsers may be connected. Pure but for counting: a place is held by a guard and given
//! back when that is dropped. How fast they may come is `arrivals.rs`.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;

/// Limits of the whole gateway; 0 is any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmissionLimits {
    pub(crate) connections: usize,
    pub(crate) connections_per_address: usize,
}

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    counts: Rc<RefCell<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_address: FxHashMap<IpAddr, usize>,
}

/// Why a browser may not connect now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Gateway,
    Address,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    counts: Rc<RefCell<Counts>>,
    address: Option<IpAddr>,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self { limits, counts: Rc::default() }
    }

    /// Takes a place for a browser at `address`.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Place, Full> {
        let AdmissionLimits { connections, connections_per_address } = self.limits;
        let mut counts = self.counts.borrow_mut();
        if connections > 0 && counts.all >= connections {
            return Err(Full::Gateway);
        }
        // Addresses are only counted where that limits something.
        let address = (connections_per_address > 0).then_some(address);
        if let Some(address) = address {
            let count = counts.by_address.entry(address).or_default();
            if *count >= connections_per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        counts.all += 1;
        Ok(Place { counts: self.counts.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        counts.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = counts.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize, connections_per_address: usize) -> Admission {
        Admission::new(AdmissionLimits { connections, connections_per_address })
    }

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn places_are_limited_in_all_and_by_address_and_come_back() {
        let admission = admission(3, 2);
        let one = admission.admit(address(1)).unwrap();
        let _two = admission.admit(address(1)).unwrap();
        assert_eq!(admission.admit(address(1)).unwrap_err(), Full::Address);
        let _three = admission.admit(address(2)).unwrap();
        assert_eq!(admission.admit(address(3)).unwrap_err(), Full::Gateway);
        drop(one);
        assert!(admission.admit(address(1)).is_ok());
        assert_eq!(
            admission.counts.borrow().by_address.len(),
            2,
            "an address without places is forgotten"
        );
    }

    #[test]
    fn a_limit_of_0_is_none() {
        let admission = admission(0, 0);
        let places: Vec<_> = (0..1000).map(|_| admission.admit(address(1)).unwrap()).collect();
        assert_eq!(places.len(), 1000);
        assert!(admission.counts.borrow().by_address.is_empty());
    }
}
