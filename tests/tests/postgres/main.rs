//! What the store in PostgreSQL does when PostgreSQL does not what it should. What every store does
//! is in `store`.

mod access;
mod interrupted;
mod outages;
mod setting;
mod tls;
