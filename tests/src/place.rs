//! Ports that stay with those who listen on them, also while these are away.

use std::sync::Arc;

use anyhow::Result;
use tokio::net::TcpSocket;

/// An address of this machine for a process that is ended and started again there. Whoever asks for
/// any port meanwhile, to listen or to connect, gets another one.
#[derive(Debug, Clone)]
pub struct Place {
    address: String,
    /// Bound, and never listens: who names the port, as our programs do, may listen beside it.
    _kept: Arc<TcpSocket>,
}

impl Place {
    /// A place that nobody has.
    pub fn free() -> Result<Self> {
        let kept = TcpSocket::new_v4()?;
        kept.set_reuseaddr(true)?;
        kept.bind(([127, 0, 0, 1], 0).into())?;
        Ok(Self { address: kept.local_addr()?.to_string(), _kept: Arc::new(kept) })
    }

    /// HOST:PORT
    pub fn address(&self) -> &str {
        &self.address
    }
}
