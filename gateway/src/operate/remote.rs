//! The `/status` of another process, and the topology in that of a gateway.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use single_state_proto::id::Generation;
use single_state_proto::topology::{InvalidTopology, Topology};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A gateway answers at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than the status of the most workers.
const LONGEST: usize = 16 << 20;

/// Where a gateway's admin listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminUrl(String);

impl FromStr for AdminUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = text.parse::<Uri>().ok();
        let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
        match parts {
            Some(("http", authority)) if authority.port_u16().is_some() => {
                Ok(Self(authority.as_str().to_owned()))
            }
            _ => Err("give http://HOST:PORT, a gateway's admin address"),
        }
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// Why a gateway's topology is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoStatus {
    #[error("there is no answer after {} s", PATIENCE.as_secs())]
    Silent,
    #[error("it cannot be reached")]
    Unreachable(#[from] std::io::Error),
    #[error("it does not answer as HTTP")]
    Http(#[from] hyper::Error),
    #[error("/status answers {0}: is this a gateway's --admin-listen?")]
    Refused(StatusCode),
    #[error("its /status is cut off or too long")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its /status is not that of a gateway")]
    Foreign(#[from] serde_json::Error),
    #[error("its topology is not valid")]
    Invalid(#[from] InvalidTopology),
}

/// What is needed of a gateway's `/status`.
#[derive(Debug, Deserialize)]
struct Status {
    generation: u64,
    placement: String,
    workers: Vec<Worker>,
}

#[derive(Debug, Deserialize)]
struct Worker {
    address: String,
    #[serde(default)]
    retired: bool,
}

/// The topology of the gateway there.
pub(super) async fn topology(gateway: &AdminUrl) -> Result<Topology, NoStatus> {
    let status = status(&gateway.0);
    let body = timeout(PATIENCE, status).await.map_err(|_| NoStatus::Silent)??;
    let Status { generation, placement, workers } = serde_json::from_slice(&body)?;
    let placement = placement.parse().map_err(serde::de::Error::custom);
    let placement = placement.map_err(NoStatus::Foreign)?;
    // Those that are no longer in its list have streams left, or are shown for what they were.
    let listed = workers.into_iter().filter(|worker| !worker.retired);
    let workers = listed.map(|worker| worker.address).collect();
    Ok(Topology::new(Generation(generation), placement, workers)?)
}

/// The `/status` of the process whose admin listener is there, `HOST:PORT`.
pub(crate) async fn status(admin: &str) -> Result<Bytes, NoStatus> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static("/status");
    if let Ok(host) = admin.parse() {
        request.headers_mut().insert(HOST, host);
    }
    let exchange = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(NoStatus::Refused(answer.status()));
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        Ok(body.map_err(NoStatus::Body)?.to_bytes())
    };
    tokio::pin!(exchange);
    tokio::select! {
        body = &mut exchange => body,
        // Once it has ended, the rest of the answer is here.
        ended = connection => { ended?; exchange.await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_a_url_with_a_port() {
        for good in ["http://127.0.0.1:9000", "http://gateway:9000/", "http://[::1]:9000/status"] {
            assert!(good.parse::<AdminUrl>().is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:9000", "gateway", "http://gateway", "https://gateway:9000"] {
            assert!(bad.parse::<AdminUrl>().is_err(), "{bad}");
        }
    }
}
