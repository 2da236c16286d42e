//! What `swarm nemesis` does to a cluster of its own, a kind or a few of them at a time, and that it
//! notices what it is there to notice.

mod connections;
mod database;
mod processes;
mod swarm;
mod usage;
