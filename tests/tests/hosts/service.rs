//! A Service: one address for all pods behind it. What connects is passed on to the next of them, and
//! stays there; whether they are ready is known to whoever adds and removes them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// It ends with the runtime.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    endpoints: Arc<Mutex<Vec<String>>>,
}

impl Service {
    pub(crate) async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let endpoints = Arc::<Mutex<Vec<String>>>::default();
        let service = Self { address: listener.local_addr()?, endpoints: endpoints.clone() };
        tokio::spawn(accept(listener, endpoints));
        Ok(service)
    }

    pub(crate) fn add(&self, endpoint: &str) {
        lock(&self.endpoints).push(endpoint.to_owned());
    }

    /// Nobody new goes there; who is there stays.
    pub(crate) fn remove(&self, endpoint: &str) {
        lock(&self.endpoints).retain(|known| known != endpoint);
    }
}

fn lock(endpoints: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    endpoints.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, endpoints: Arc<Mutex<Vec<String>>>) {
    for turn in 0.. {
        let Ok((mut from, _)) = listener.accept().await else {
            // It has no descriptor left, until somebody goes.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let endpoint = {
            let endpoints = lock(&endpoints);
            endpoints.get(turn % endpoints.len().max(1)).cloned()
        };
        let Some(endpoint) = endpoint else { continue };
        tokio::spawn(async move {
            let mut to = TcpStream::connect(endpoint).await?;
            from.set_nodelay(true)?;
            to.set_nodelay(true)?;
            copy_bidirectional(&mut from, &mut to).await
        });
    }
}
