//! The same app twice: sessions that live in a worker and are committed, and sessions that a
//! stateless server reads and writes at each message.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::database::Database;
use crate::load::{self, Measured, Page};
use crate::meter::Meter;
use crate::servers::{Cluster, Server};
use crate::table::Table;

const WINDOW: Duration = Duration::from_secs(3);
const KIB: [usize; 2] = [4, 256];
const BROWSERS: [usize; 2] = [64, 1];

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Stateless,
    /// Its commits are not waited for: what it writes within the last moments may be lost.
    StatelessAsync,
    OursDurable,
    OursRelaxed,
}

const CONTENDERS: [Contender; 4] = [
    Contender::Stateless,
    Contender::StatelessAsync,
    Contender::OursDurable,
    Contender::OursRelaxed,
];

/// Servers that run.
enum Running {
    Stateless(Server),
    Ours(Cluster),
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::StatelessAsync => "stateless, synchronous_commit=off",
            Self::OursDurable => "ours, durable",
            Self::OursRelaxed => "ours, relaxed",
        }
    }

    async fn start(self, database: &Database, bytes: usize) -> Result<Running> {
        let url = database.url();
        let relaxed = format!("{url}&options=-c%20synchronous_commit%3Doff");
        Ok(match self {
            Self::Stateless => Running::Stateless(Server::stateless(&url, bytes).await?),
            Self::StatelessAsync => Running::Stateless(Server::stateless(&relaxed, bytes).await?),
            Self::OursDurable => {
                Running::Ours(Cluster::start(&url, bytes, 1, &["--durability", "durable"]).await?)
            }
            Self::OursRelaxed => Running::Ours(Cluster::start(&url, bytes, 1, &[]).await?),
        })
    }
}

impl Running {
    fn meters(&self) -> Result<Vec<Meter>> {
        match self {
            Self::Stateless(server) => Ok(vec![server.meter()?]),
            Self::Ours(cluster) => cluster.meters(),
        }
    }

    fn url(&self, run: usize, browser: usize) -> String {
        match self {
            Self::Stateless(server) => {
                format!("ws://{}/ws?session=session-{run}-{browser}", server.address)
            }
            // Without a name each gets a new one.
            Self::Ours(cluster) => cluster.urls()[0].clone(),
        }
    }
}

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new(
        "A message of 64 B that changes a session",
        &[
            "state",
            "browsers",
            "servers",
            "messages/s",
            "p50 ms",
            "p99 ms",
            "CPU µs of servers",
            "of PostgreSQL",
            "together",
            "stateless / this",
        ],
    );
    for kib in KIB {
        let mut of_stateless = [0.0; BROWSERS.len()];
        for contender in CONTENDERS {
            // A fresh one each, so that nobody vacuums what others have left.
            let database = Database::start().await?;
            let servers = contender.start(&database, kib * 1024).await?;
            for (run, browsers) in BROWSERS.into_iter().enumerate() {
                let measured = measure(&servers, &database, run, browsers).await?;
                let of_database = measured.cpu_us(|name| name == database.meter.name);
                let together = measured.cpu_us(|_| true);
                if contender == Contender::Stateless {
                    of_stateless[run] = together;
                }
                table.rows.push(vec![
                    format!("{kib} KiB").into(),
                    browsers.to_string().into(),
                    contender.name().into(),
                    (measured.messages() / measured.seconds).into(),
                    measured.millis(50.0).into(),
                    measured.millis(99.0).into(),
                    (together - of_database).into(),
                    of_database.into(),
                    together.into(),
                    (of_stateless[run] / together).into(),
                ]);
            }
        }
    }
    table.note(
        "The next message when the answer is there. CPU µs of each message. The stateless server \
         is one process with 16 connections: it reads the row, decodes, handles, encodes, and \
         writes under the condition that the row's version is the same. Ours are one gateway and \
         one worker with shipped defaults (relaxed: a session is committed a second after it has \
         changed) but for the gateway's rates; same type, same handler, same PostgreSQL.",
    );
    Ok(table)
}

async fn measure(
    servers: &Running,
    database: &Database,
    run: usize,
    browsers: usize,
) -> Result<Measured> {
    let pages = (0..browsers).map(|browser| {
        let url = servers.url(run, browser);
        async move { Page::connect(&url).await }
    });
    let pages = try_join_all(pages).await?;
    let mut meters = servers.meters()?;
    meters.push(database.meter.clone());
    load::run(pages, None, WINDOW, &meters, async { Ok(()) }).await
}
