//! Workers and gateways come and go while visitors use their sessions: none of their sockets is
//! closed, nothing is lost, nothing doubled, and what should move does. How long they wait is printed
//! and never tested; `make moves` does the same to more sessions, in both stores, for longer.

mod gateways;
mod many;
mod partitions;
mod resharding;
mod stage;
mod versions;
mod workers;
