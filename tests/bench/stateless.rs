//! What authors would write without us to keep sessions: a server without state of its own, which
//! reads a session from PostgreSQL and writes it back at each message. One process, one
//! tokio-tungstenite task for each browser, a pool of connections with prepared statements.
//!
//! A message costs two statements: the row is read without a lock and written under the condition
//! that nobody else has, which is cheaper than `SELECT … FOR UPDATE` with its transaction, and as
//! correct. `stateless HOST:PORT postgres://…`

mod items;

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_postgres::{Client, NoTls, Statement};
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::{Message as Frame, WebSocketConfig};

use crate::items::{Items, Message, state_bytes};

/// Connections to PostgreSQL: with more it did not get faster, with fewer the commits of many
/// browsers wait for each other.
const CONNECTIONS: usize = 16;

/// As our store's: updates stay on the row's page, long states lie beside the table.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS stateless (id text PRIMARY KEY, \
     version bigint NOT NULL, state bytea NOT NULL) WITH (fillfactor = 70)";
/// Not every PostgreSQL is built with it.
const LZ4: &str = "ALTER TABLE stateless ALTER COLUMN state SET COMPRESSION lz4";
const CREATE: &str =
    "INSERT INTO stateless (id, version, state) VALUES ($1, 0, $2) ON CONFLICT (id) DO NOTHING";
const READ: &str = "SELECT version, state FROM stateless WHERE id = $1";
const WRITE: &str =
    "UPDATE stateless SET version = version + 1, state = $3 WHERE id = $1 AND version = $2";

#[derive(Serialize)]
struct Assign {
    tag: &'static str,
    key: &'static str,
    value: u64,
}

/// A connection and what is prepared on it.
struct Connection {
    client: Client,
    create: Statement,
    read: Statement,
    write: Statement,
}

/// Connections that nobody uses.
struct Pool {
    idle: RefCell<Vec<Connection>>,
    free: Semaphore,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().context("give HOST:PORT")?;
    let database = args.next().context("give postgres://…")?;
    let listener = TcpListener::bind(&address).await?;
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            let pool = Rc::new(Pool::open(&database).await?);
            eprintln!(
                "{}",
                serde_json::json!({"message": "stateless listens", "listen": listener.local_addr()?})
            );
            loop {
                let (stream, _) = listener.accept().await?;
                let pool = pool.clone();
                tokio::task::spawn_local(async move {
                    // Which browser failed, and why, is all that there is to say.
                    if let Err(error) = serve(stream, &pool).await {
                        eprintln!("{error:#}");
                    }
                });
            }
        })
        .await
}

async fn serve(stream: TcpStream, pool: &Pool) -> Result<()> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
    let mut session = String::new();
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let read_session = |request: &Request, response: Response| {
        let query = request.uri().query().unwrap_or_default();
        session = query.trim_start_matches("session=").to_owned();
        Ok(response)
    };
    let mut socket = accept_hdr_async_with_config(stream, read_session, Some(config)).await?;
    let mut new = Items::default();
    new.fill(state_bytes());
    pool.create(&session, &new).await?;
    while let Some(frame) = socket.next().await {
        let Frame::Text(text) = frame? else { continue };
        let count = loop {
            if let Some(count) = pool.handle(&session, serde_json::from_str(&text)?).await? {
                break count;
            }
        };
        let answer = Assign { tag: "assign", key: "count", value: count };
        socket.send(Frame::text(serde_json::to_string(&answer)?)).await?;
    }
    Ok(())
}

impl Pool {
    async fn open(database: &str) -> Result<Self> {
        let mut idle = Vec::new();
        for number in 0..CONNECTIONS {
            let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
            // Its end shows in the client's next call.
            tokio::task::spawn_local(async { drop(connection.await) });
            if number == 0 {
                client.batch_execute(SCHEMA).await?;
                drop(client.batch_execute(LZ4).await);
            }
            let create = client.prepare(CREATE).await?;
            let read = client.prepare(READ).await?;
            let write = client.prepare(WRITE).await?;
            idle.push(Connection { client, create, read, write });
        }
        Ok(Self { idle: RefCell::new(idle), free: Semaphore::new(CONNECTIONS) })
    }

    async fn with<T>(&self, work: impl AsyncFnOnce(&Connection) -> Result<T>) -> Result<T> {
        let _permit = self.free.acquire().await?;
        let connection = self.idle.borrow_mut().pop().context("a permit without a connection")?;
        let outcome = work(&connection).await;
        self.idle.borrow_mut().push(connection);
        outcome
    }

    async fn create(&self, session: &str, items: &Items) -> Result<()> {
        let state = rmp_serde::to_vec_named(items)?;
        self.with(async |at| {
            at.client.execute(&at.create, &[&session, &state]).await?;
            Ok(())
        })
        .await
    }

    /// Handles one message; `None` when somebody else has written the session meanwhile.
    async fn handle(&self, session: &str, message: Message) -> Result<Option<u64>> {
        self.with(async |at| {
            let row = at.client.query_one(&at.read, &[&session]).await?;
            let (version, state): (i64, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
            let mut items: Items = rmp_serde::from_slice(state)?;
            let count = items.handle(message);
            let state = rmp_serde::to_vec_named(&items)?;
            let written = at.client.execute(&at.write, &[&session, &version, &state]).await?;
            Ok((written == 1).then_some(count))
        })
        .await
    }
}
