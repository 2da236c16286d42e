//! Sessions outlive their workers: what a cluster of real processes keeps in its store.

mod crashes;
