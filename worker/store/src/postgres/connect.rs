//! Connections to PostgreSQL: how they are made, and that none is used again after anything went
//! wrong on it. Knows no sessions.
//!
//! Invariant: a connection goes back to the pool only after its call has succeeded. A call that
//! failed, timed out or was dropped half way may have left a transaction open, an answer on its
//! way, or a peer that is gone; a new connection has none of these.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, tokio_postgres::Config,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{self, Names};
use crate::{InvalidUrl, Settings, StoreError};

/// The pool, with what its errors call it.
pub(super) struct Connections {
    pool: Pool,
    pub(super) names: Names,
    timeout: Duration,
}

/// A connection for one call.
pub(super) struct Lease {
    object: Option<Object>,
    succeeded: bool,
}

impl Connections {
    pub(super) fn new(mut config: Config, settings: &Settings) -> Result<Self, InvalidUrl> {
        let names = names(&config);
        set_timeouts(&mut config, settings.timeout);
        if config.get_application_name().is_none() {
            config.application_name("single-state");
        }
        let ways = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = if may_use_tls(&config) {
            let tls = MakeRustlsConnect::new(tls_config(settings.ca_file.as_deref())?);
            Manager::from_config(config, tls, ways)
        } else {
            Manager::from_config(config, NoTls, ways)
        };
        let pool = Pool::builder(manager).max_size(settings.connections.max(1)).build();
        let pool = pool.map_err(|error| InvalidUrl(error.to_string()))?;
        Ok(Self { pool, names, timeout: settings.timeout })
    }

    /// Runs one call on a connection of its own, all within the timeout.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Lease) -> Result<T, CallError>,
    ) -> Result<T, StoreError> {
        let work = async {
            let object = self.pool.get().await?;
            let mut lease = Lease { object: Some(object), succeeded: false };
            let answer = call(&mut lease).await?;
            lease.succeeded = true;
            Ok(answer)
        };
        match self.within_timeout(work).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(CallError::Store(error))) => Err(error),
            Some(Err(CallError::Server(error))) => Err(error::of_call(&self.names, &error)),
            Some(Err(CallError::Pool(error))) => Err(error::of_pool(&self.names, error)),
            None => Err(error::timed_out(&self.names, self.timeout)),
        }
    }

    async fn within_timeout<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.timeout, work).await.ok()
    }
}

/// Why a call failed, before it is said in a sentence.
pub(super) enum CallError {
    Store(StoreError),
    Server(Error),
    Pool(PoolError),
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

impl From<PoolError> for CallError {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Deref for Lease {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.object.as_ref().expect("it is taken only when dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Object {
        self.object.as_mut().expect("it is taken only when dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take().filter(|_| !self.succeeded) {
            // Closes it, also when the call's future was dropped by a timeout or its caller.
            drop(Object::take(object));
        }
    }
}

fn names(config: &Config) -> Names {
    let ports = config.get_ports();
    let server = |(n, host): (usize, &Host)| {
        let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => format!("{}/.s.PGSQL.{port}", folder.display()),
        }
    };
    let servers: Vec<String> = config.get_hosts().iter().enumerate().map(server).collect();
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    let servers = if servers.is_empty() { addresses.collect() } else { servers };
    let role = config.get_user().unwrap_or("ROLE").to_owned();
    Names {
        server: servers.join(","),
        database: config.get_dbname().unwrap_or(&role).to_owned(),
        role,
    }
}

/// Bounds everything that can wait, on both sides; what the URL says goes first.
fn set_timeouts(config: &mut Config, timeout: Duration) {
    // Several servers share the time, so that one that is silent leaves some for the next.
    let servers = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(timeout / u32::try_from(servers).unwrap_or(1));
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(timeout);
    }
    config.keepalives_idle(config.get_keepalives_idle().min(Duration::from_secs(15)));
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(timeout.max(Duration::from_secs(1)));
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(3);
    }
    // The server gives up shortly before we do: then the error says what it was waiting for, and
    // nothing of ours is done there after we have stopped listening. Plans are made anew each time,
    // because one that was made for a small table would be kept while the table grows.
    let millis = (timeout.as_millis() * 9 / 10).max(1);
    let ours = format!(
        "-c statement_timeout={millis} -c lock_timeout={millis} \
         -c idle_in_transaction_session_timeout={millis} -c plan_cache_mode=force_custom_plan \
         -c default_transaction_isolation=read\\ committed"
    );
    let theirs = config.get_options().unwrap_or_default();
    let options = format!("{ours} {theirs}");
    config.options(options.trim());
}

fn may_use_tls(config: &Config) -> bool {
    let over_tcp = !config.get_hostaddrs().is_empty()
        || config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
    config.get_ssl_mode() == SslMode::Require
        || (over_tcp && config.get_ssl_mode() != SslMode::Disable)
}

/// Certificates and host names are always verified: encryption to nobody in particular protects
/// from nobody.
fn tls_config(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, InvalidUrl> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let name = file.display();
        let unreadable = |error: &dyn std::fmt::Display| {
            InvalidUrl(format!("the authorities' certificates in {name} cannot be read: {error}"))
        };
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let certificates: Vec<CertificateDer<'_>> = read.map_err(|error| unreadable(&error))?;
        if certificates.is_empty() {
            return Err(unreadable(&"it has no PEM certificate in it"));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.into());
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| InvalidUrl(format!("TLS does not work: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
