//! A real PostgreSQL of a test's own: started within a second in a folder that is removed with it,
//! stopped in all the ways in which databases stop. Knows no tables; the store's are its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

mod binaries;
mod server;
mod standby;
mod template;

use binaries::Binaries;
use server::Running;
pub use standby::Pair;

use crate::DEADLINE;

/// How often a condition is looked at that nobody announces.
const LOOK: Duration = Duration::from_millis(5);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Options {
    folder: PathBuf,
    settings: Vec<String>,
    has_tls: bool,
    port: Option<u16>,
}

/// A running (or stopped) server; killed and removed when dropped. The role of its URL is a
/// superuser that needs no password. Roles that are members of `locked` need theirs.
#[derive(Debug)]
pub struct TempPostgres {
    // Ends before the folder is removed.
    running: Mutex<Option<Running>>,
    folder: TempDir,
    binaries: Binaries,
    options: Options,
    port: u16,
}

impl Default for Options {
    fn default() -> Self {
        // What a crash of the machine would lose is lost with the folder anyway.
        let settings = ["fsync=off", "shared_buffers=16MB", "max_connections=60"];
        Self {
            folder: std::env::temp_dir(),
            settings: settings.map(str::to_owned).to_vec(),
            has_tls: false,
            port: None,
        }
    }
}

impl Options {
    /// Sets one of the server's own parameters, as in `max_connections=10`.
    #[must_use]
    pub fn setting(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Puts everything of the server into a folder of this one, such as another mount.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Self {
        self.folder = folder.to_owned();
        self
    }

    /// Speaks TLS as `localhost`, with a certificate of [`TempPostgres::authority`].
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.has_tls = true;
        self
    }

    /// Listens on this port in place of any that is free.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Starts a server.
    pub async fn start(self) -> Result<TempPostgres> {
        self.start_from(template::copy).await
    }

    /// Starts a server with the data that `copy` puts into its folder.
    async fn start_from(
        self,
        copy: impl FnOnce(&Binaries, &Path) -> Result<()> + Send + 'static,
    ) -> Result<TempPostgres> {
        let binaries = Binaries::find()?;
        let folder = TempDir::with_prefix_in("single-state-postgres-", &self.folder)?;
        binaries.give_away(folder.path())?;
        let (programs, data) = (binaries.clone(), folder.path().join("data"));
        // It may take a second, in which others go on.
        tokio::task::spawn_blocking(move || copy(&programs, &data)).await??;
        if self.has_tls {
            binaries.make_certificates(folder.path())?;
        }
        let mut server = TempPostgres {
            running: Mutex::new(None),
            folder,
            binaries,
            port: self.port.map_or_else(server::free_port, Ok)?,
            options: self,
        };
        // Another process may have taken the port since it was free.
        for _ in 0..10 {
            match server.restart().await {
                Err(_)
                    if server.options.port.is_none() && server.log().contains("could not bind") =>
                {
                    server.port = server::free_port()?;
                }
                done => return done.map(|()| server),
            }
        }
        bail!("PostgreSQL finds no free port:\n{}", server.log())
    }
}

impl TempPostgres {
    /// Starts a server as most tests want it.
    pub async fn start() -> Result<Self> {
        Options::default().start().await
    }

    /// The server that the tests of this process have in common; it ends with the last of them.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: tokio::sync::Mutex<Weak<TempPostgres>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// Where the server is, for its superuser; with a password, so that tests see it printed.
    pub fn url(&self) -> String {
        self.url_of("postgres:hunter2", "postgres")
    }

    /// The same for other users (with their passwords, as `USER:PASSWORD`) and databases.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Port on 127.0.0.1; the same for the server's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of its Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of the authority that has signed the server's.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.crt")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Makes a folder that the server may write into, for a tablespace.
    pub fn give_folder(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        self.binaries.give_away(folder)
    }

    /// Starts it again, with all that it has stored; returns when it takes connections.
    pub async fn restart(&self) -> Result<()> {
        if let Some(running) = self.take_running() {
            running.stop("INT").await?;
        }
        let data = self.folder.path().join("data");
        let mut command = self.binaries.command("postgres", Some("QUIT"));
        command.arg("-D").arg(&data).arg("-p").arg(self.port.to_string());
        let socket = format!("unix_socket_directories={}", self.folder.path().display());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", &socket]);
        for setting in &self.options.settings {
            command.args(["-c", setting]);
        }
        if self.options.has_tls {
            let file = |name: &str| self.folder.path().join(name).display().to_string();
            let key = format!("ssl_key_file={}", file("server.key"));
            let certificate = format!("ssl_cert_file={}", file("server.crt"));
            command.args(["-c", "ssl=on", "-c", &key, "-c", &certificate]);
        }
        let running = Running::start(command, &self.folder.path().join("log"))?;
        let deadline = Instant::now() + DEADLINE;
        while !running.is_ready(&data) {
            if running.has_ended() || Instant::now() > deadline {
                bail!("PostgreSQL does not start:\n{}", self.log());
            }
            sleep(LOOK).await;
        }
        *self.running.lock().expect("nobody panics with it") = Some(running);
        Ok(())
    }

    fn take_running(&self) -> Option<Running> {
        self.running.lock().expect("nobody panics with it").take()
    }

    /// Ends all connections, finishes, stops.
    pub async fn stop_fast(&self) -> Result<()> {
        self.take_running().context("it is stopped already")?.stop("INT").await
    }

    /// Stops as in a crash, whatever is going on.
    pub async fn stop_immediate(&self) -> Result<()> {
        self.take_running().context("it is stopped already")?.stop("QUIT").await
    }

    /// Kills its first process as the system does when memory runs out; the others follow.
    pub async fn kill(&self) -> Result<()> {
        self.take_running().context("it is stopped already")?.stop("KILL").await
    }

    /// All its processes stand still (`STOP`), or go on (`CONT`).
    pub fn signal(&self, signal: &str) -> Result<()> {
        let running = self.running.lock().expect("nobody panics with it");
        running.as_ref().context("it is stopped")?.signal_all(signal)
    }

    /// Sets a parameter for all connections, also of those who are connected.
    async fn set(&self, name: &str, value: &str) -> Result<()> {
        let client = self.client().await?;
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await?;
        Ok(client.batch_execute("SELECT pg_reload_conf()").await?)
    }

    /// Kills the connections of all clients but that of `client`; how many there were.
    pub async fn terminate_backends(&self, client: &Client) -> Result<i64> {
        let killed = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) \
            FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
            AND backend_type = 'client backend'";
        Ok(client.query_one(killed, &[]).await?.try_get(0)?)
    }

    /// Sends a signal, such as `STOP`, to the process that serves one connection.
    pub fn signal_backend(&self, process: i32, signal: &str) -> Result<()> {
        server::signal(process.unsigned_abs(), signal)
    }

    /// Lets it refuse writes, as a standby does, or take them again; also for those connected.
    pub async fn set_read_only(&self, read_only: bool) -> Result<()> {
        let word = if read_only { "on" } else { "off" };
        let client = self.client().await?;
        client.batch_execute("SET default_transaction_read_only = off").await?;
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {word}");
        client.batch_execute(&set).await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let now = self.client().await?;
            let shown = now.query_one("SHOW default_transaction_read_only", &[]).await?;
            if shown.try_get::<_, &str>(0)? == word {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL does not become read-only = {word}:\n{}", self.log());
            }
            sleep(LOOK).await;
        }
    }

    /// A connection of the superuser's, to look and to meddle.
    pub async fn client(&self) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        // Its end shows in the client's next call.
        tokio::spawn(async { drop(connection.await) });
        Ok(client)
    }
}

impl Drop for TempPostgres {
    fn drop(&mut self) {
        if let Some(running) = self.take_running() {
            running.kill();
        }
    }
}
