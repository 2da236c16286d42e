//! A TCP connection's bad days: a proxy between any two of browser, gateway, worker and database,
//! whose faults are set while it runs. Knows no protocols.
//!
//! ```text
//!   client ──up──▶ ┌───────┐ ──▶ target      forward · delay · slow · block (bytes wait)
//!          ◀─down─ └───────┘ ◀──             swallow (bytes are gone, and so is the end: half-open)
//!                                            cut now, or after so many bytes · refuse who is new
//! ```
//!
//! A cut is a reset on both sides: what was under way is lost, as when a machine dies.

mod crossing;
mod pump;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use self::crossing::Crossing;

/// Bytes of this direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who has connected.
    Up,
    /// To it.
    Down,
}

/// What becomes of the bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// They go on.
    #[default]
    Forward,
    /// They wait; who sends more will notice when all buffers are full.
    Block,
    /// They are gone, and nobody is told, nor of the end of the connection.
    Swallow,
    /// So many go on each second.
    Slow(u32),
}

/// What is done to all connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// What comes from who has connected.
    pub up: Flow,
    /// What goes to it.
    pub down: Flow,
    /// So late, in both directions.
    pub delay: Duration,
    /// Who connects is reset at once.
    pub refuse: bool,
}

impl Faults {
    fn flow(&self, way: Way) -> Flow {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }
}

/// A listening proxy; it ends, and all its connections with it, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// None if connections come from a [`Crossing`].
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    target: Mutex<String>,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    accepted: AtomicU64,
}

/// One connection's own fate.
#[derive(Debug, Default)]
struct Connection {
    cut: Notify,
    /// So many bytes still go on, then it is cut.
    left: Mutex<[Option<usize>; 2]>,
}

impl Proxy {
    /// Listens on a free port for what is to go to `target`, HOST:PORT.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(target));
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// Where it listens, HOST:PORT.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connections from now on go there.
    pub fn set_target(&self, target: &str) {
        target.clone_into(&mut lock(&self.shared.target));
    }

    /// From now on, for connections that are there and for new ones.
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(faults);
    }

    /// No more faults.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// Resets all connections on both sides; how many there were.
    pub fn cut(&self) -> usize {
        let connections = lock(&self.shared.connections);
        connections.values().for_each(|connection| connection.cut.notify_one());
        connections.len()
    }

    /// Resets each connection that is there after so many more bytes of this direction, which may be
    /// in the middle of a frame.
    pub fn cut_after(&self, way: Way, bytes: usize) {
        for connection in lock(&self.shared.connections).values() {
            if bytes == 0 {
                connection.cut.notify_one();
            }
            lock(&connection.left)[way as usize] = Some(bytes);
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Connections that were opened so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.set(Faults { refuse: true, ..Faults::default() });
        self.cut();
    }
}

impl Shared {
    fn new(target: &str) -> Self {
        Self {
            faults: watch::Sender::new(Faults::default()),
            target: Mutex::new(target.to_owned()),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        take(client, &shared);
    }
}

/// Somebody has connected.
fn take(client: TcpStream, shared: &Arc<Shared>) {
    if shared.faults.borrow().refuse {
        return reset(&client);
    }
    let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
    let connection = Arc::new(Connection::default());
    lock(&shared.connections).insert(number, connection.clone());
    let shared = shared.clone();
    tokio::spawn(async move {
        connect(client, &shared, &connection).await;
        lock(&shared.connections).remove(&number);
    });
}

async fn connect(client: TcpStream, shared: &Shared, connection: &Connection) {
    let target = lock(&shared.target).clone();
    match TcpStream::connect(target).await {
        Ok(server) => serve(client, server, shared, connection).await,
        Err(_) => reset(&client),
    }
}

async fn serve(
    mut client: TcpStream,
    mut server: TcpStream,
    shared: &Shared,
    connection: &Connection,
) {
    for stream in [&client, &server] {
        // Without this, what is asked and answered would wait for more.
        let _ = stream.set_nodelay(true);
    }
    let is_over = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let pump = |way| pump::Pump { way, faults: shared.faults.subscribe(), connection };
        let pumps = async {
            tokio::try_join!(
                pump(Way::Up).run(from_client, to_server),
                pump(Way::Down).run(from_server, to_client)
            )
        };
        tokio::select! {
            biased;
            () = connection.cut.notified() => false,
            ended = pumps => ended.is_ok(),
        }
    };
    if !is_over {
        reset(&client);
        reset(&server);
    }
}

/// What closes next is a reset: nothing that is on its way arrives.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
