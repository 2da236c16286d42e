//! Mistakes that must not go unnoticed: each scenario is clean, and with the mistake it is not, as the
//! checker says by the invariant that does not hold. They are those of `single_state_faults::Mutant`;
//! the two of the store are noticed in `racing.rs`, too.

mod attaching;
mod flowing;
mod moving;
mod saving;

use single_state_faults::Mutant;

/// A mistake without a scenario may well go unnoticed.
#[test]
fn every_mutant_has_a_scenario() {
    let scenarios = [
        include_str!("attaching.rs"),
        include_str!("flowing.rs"),
        include_str!("moving.rs"),
        include_str!("saving.rs"),
        include_str!("../racing.rs"),
    ]
    .concat();
    let is_used = |mutant: &Mutant| scenarios.contains(&format!("Mutant::{mutant:?}"));
    let missing: Vec<_> = Mutant::ALL.iter().filter(|mutant| !is_used(mutant)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
