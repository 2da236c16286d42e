//! The API of Kubernetes, as far as gateways may use it: TLS with a certificate of its own authority,
//! a token, and two requests about one StatefulSet. Whatever the rendered Role does not allow is
//! answered 403.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use single_state_tests::network::Host;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Its port.
const PORT: u16 = 6443;
/// What gateways show.
const TOKEN: &str = "a-token-of-the-test";
/// A version that stands for the first state of the object.
const FIRST: u64 = 1000;

/// A running API; it ends with the runtime.
#[derive(Debug)]
pub(crate) struct Api {
    set: watch::Sender<Value>,
    folder: TempDir,
    _host: Host,
    address: String,
    namespace: String,
}

impl Api {
    /// Serves this StatefulSet to who may ask for it by `role`.
    pub(crate) fn start(host: Host, set: &Value, role: &Value) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = host.address.to_string();
        let tls = certificate(folder.path(), &address)?;
        let namespace = set["metadata"]["namespace"].as_str().context("a namespace")?.to_owned();
        let mut set = set.clone();
        set["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        set["metadata"]["generation"] = json!(1);
        set["metadata"]["resourceVersion"] = json!(FIRST.to_string());
        let set = watch::Sender::new(set);
        let listener = host.listen(PORT)?;
        let asked = Asked {
            path: format!("/apis/apps/v1/namespaces/{namespace}/statefulsets"),
            rules: role["rules"].clone(),
            set: set.subscribe(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, asked) = (tls.clone(), asked.clone());
                // Who hangs up has its reasons.
                tokio::spawn(async move { asked.answer(tls.accept(stream).await?).await });
            }
        });
        Ok(Self { set, folder, _host: host, address, namespace })
    }

    /// As `kubectl scale statefulset` does.
    pub(crate) fn scale(&self, replicas: usize) {
        self.set.send_modify(|set| {
            let metadata = &mut set["metadata"];
            let generation = metadata["generation"].as_u64().unwrap_or_default() + 1;
            metadata["generation"] = json!(generation);
            metadata["resourceVersion"] = json!((FIRST + generation).to_string());
            set["spec"]["replicas"] = json!(replicas);
        });
    }

    pub(crate) fn replicas(&self) -> usize {
        self.set.borrow()["spec"]["replicas"].as_u64().map_or(1, |replicas| replicas as usize)
    }

    /// Where every pod is told that it is.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("KUBERNETES_SERVICE_HOST", self.address.clone()),
            ("KUBERNETES_SERVICE_PORT", PORT.to_string()),
        ]
    }

    /// The files of a service account.
    pub(crate) fn account(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let authority = std::fs::read(self.folder.path().join("tls.crt"))?;
        let namespace = self.namespace.clone().into_bytes();
        Ok(vec![("token", TOKEN.into()), ("ca.crt", authority), ("namespace", namespace)])
    }
}

/// Makes a certificate for an address, which is its own authority.
fn certificate(folder: &Path, address: &str) -> Result<TlsAcceptor> {
    let config = format!(
        "[req]\ndistinguished_name=name\nx509_extensions=extensions\nprompt=no\n\
         [name]\nCN=kubernetes\n\
         [extensions]\nbasicConstraints=critical,CA:FALSE\nsubjectAltName=IP:{address}\n"
    );
    let [file, key, crt] = ["openssl.cnf", "tls.key", "tls.crt"].map(|name| folder.join(name));
    std::fs::write(&file, config)?;
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-nodes", "-days", "2", "-config"]).arg(&file);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&crt).output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&crt)?],
            PrivateKeyDer::from_pem_file(&key)?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// What may be asked.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    rules: Value,
    set: watch::Receiver<Value>,
}

impl Asked {
    /// Answers one request.
    async fn answer(mut self, stream: TlsStream<TcpStream>) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let (target, has_token) = head(&mut stream).await?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let parameter = |name: &str| {
            let mut all = query.split('&').filter_map(|part| part.split_once('='));
            all.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let verb = if parameter("watch") == Some("true") { "watch" } else { "list" };
        let name = self.set.borrow()["metadata"]["name"].clone();
        let is_named = name.as_str().is_some_and(|name| {
            parameter("fieldSelector") == Some(&format!("metadata.name%3D{name}"))
        });
        let may = self.rules.as_array().into_iter().flatten().any(|rule| {
            let has = |list: &str, value: &Value| {
                rule[list].as_array().is_some_and(|all| all.contains(value))
            };
            has("verbs", &json!(verb))
                && has("resources", &json!("statefulsets"))
                && has("resourceNames", &name)
        });
        if !(has_token && path == self.path && is_named && may) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": "Forbidden", "code": 403, "message": format!("{verb} {target}")});
            return reply(&mut stream, "403 Forbidden", &status).await;
        }
        if verb == "list" {
            let set = self.set.borrow_and_update().clone();
            let version = &set["metadata"]["resourceVersion"];
            let list = json!({"kind": "StatefulSetList", "apiVersion": "apps/v1",
                              "metadata": {"resourceVersion": version}, "items": [set]});
            return reply(&mut stream, "200 OK", &list).await;
        }
        let from = parameter("resourceVersion").and_then(|text| text.parse().ok());
        let seconds = parameter("timeoutSeconds").and_then(|text| text.parse().ok());
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(60));
        self.watch(&mut stream, from.unwrap_or(0), until).await
    }

    /// Tells of each state after the version `seen`, until it is time.
    async fn watch(
        &mut self,
        stream: &mut BufReader<TlsStream<TcpStream>>,
        mut seen: u64,
        until: Instant,
    ) -> Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.flush().await?;
            let set = self.set.borrow_and_update().clone();
            let version = set["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let version: u64 = version.parse()?;
            if version > seen {
                seen = version;
                let event = json!({"type": "MODIFIED", "object": set}).to_string() + "\n";
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await?;
                continue;
            }
            tokio::select! {
                changed = self.set.changed() => changed?,
                () = sleep_until(until) => {
                    stream.write_all(b"0\r\n\r\n").await?;
                    return Ok(stream.shutdown().await?);
                }
            }
        }
    }
}

/// The target of a request, and whether it shows the token.
async fn head(stream: &mut BufReader<TlsStream<TcpStream>>) -> Result<(String, bool)> {
    let (mut target, mut has_token) = (None, false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            bail!("no request");
        }
        let line = line.trim_end();
        match line.split_once(": ") {
            _ if line.is_empty() => return Ok((target.context("no target")?, has_token)),
            _ if target.is_none() => target = line.split(' ').nth(1).map(str::to_owned),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                has_token = value == format!("Bearer {TOKEN}");
            }
            _ => {}
        }
    }
}

async fn reply(
    stream: &mut BufReader<TlsStream<TcpStream>>,
    status: &str,
    body: &Value,
) -> Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    Ok(stream.shutdown().await?)
}
