//! A worker or a gateway dies at the worst places that there are, while pages and clients append: what
//! was sent is applied once and in order, and pages notice nothing of a worker's death. The places are
//! those of `single_state_faults::Point`; here is a scenario for each.

mod gateway;
mod stopped;
mod worker;

use std::collections::BTreeSet;

use single_state_faults::Point;

/// A place without a scenario is not tested.
#[test]
fn every_crash_point_has_a_scenario() {
    let scenarios = [include_str!("worker.rs"), include_str!("gateway.rs")].concat();
    let is_used = |point: &&Point| scenarios.contains(&format!("Point::{point:?}"));
    let missing: BTreeSet<_> =
        Point::ALL.iter().filter(|point| !is_used(point)).map(|point| point.name()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
