//! `POST /dev/{kill,drain,scale}`: what a page may ask of `gateway dev`, so that its user sees that
//! nothing breaks. Exists nowhere else, and obeys only pages of the gateway's own address. Pages learn
//! from [`ABOUT`] whether it is there.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::json;

use crate::dev::{MAX_WORKERS, SupervisorHandle};
use crate::origin;
use crate::pages::{Page, text};

/// Where these requests go.
pub(crate) const PREFIX: &str = "/dev/";

/// Says whether somebody obeys, in `run` as well: a page that looked for something that is not there
/// would have an error in its console.
pub(crate) const ABOUT: &str = "/client/gateway.json";

/// A request of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// SIGKILL; the worker is started again as after a crash.
    Kill(u32),
    /// SIGTERM; it hands its sessions over and is started again.
    Drain(u32),
    /// Run so many workers.
    Scale(u32),
}

/// What stands at [`ABOUT`]; `workers`: how many `gateway dev` runs.
pub(crate) fn about(workers: Option<usize>) -> Page {
    let about = json!({"dev": workers.is_some(), "workers": workers}).to_string();
    let mut page = text(StatusCode::OK, "");
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    page.map(|_| Full::new(Bytes::from(about)).map_err(|never| match never {}).boxed_unsync())
}

/// Answers a request below [`PREFIX`]: 202 when it is under way.
pub(crate) async fn obey(
    supervisor: &SupervisorHandle,
    method: &Method,
    headers: &HeaderMap,
    path: &str,
    query: Option<&str>,
) -> Page {
    if method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
    }
    if !is_own_page(headers) {
        return text(
            StatusCode::FORBIDDEN,
            "only pages of this address may ask for this, opened by localhost or an IP address\n",
        );
    }
    let wish = match read(path, query.unwrap_or_default()) {
        Ok(wish) => wish,
        Err((status, sentence)) => return text(status, sentence),
    };
    match wish {
        Wish::Kill(index) => supervisor.kill(index).await,
        // It is through only when the worker serves again.
        Wish::Drain(index) => {
            let supervisor = supervisor.clone();
            tokio::task::spawn_local(async move { supervisor.restart(index).await });
        }
        Wish::Scale(workers) => supervisor.scale(workers).await,
    }
    text(StatusCode::ACCEPTED, "under way\n")
}

/// Browsers name the origin of each POST. One without comes from a tool of this machine.
/// A name that is not this machine's own may be anybody's, who has it lead here for a moment.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST).and_then(|host| host.parse::<Authority>().ok());
    let is_ours = host.is_some_and(|host| {
        let host = host.host().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    });
    is_ours && origin::judge(text(ORIGIN), text(HOST), &[]).is_ok()
}

fn read(path: &str, query: &str) -> Result<Wish, (StatusCode, &'static str)> {
    let number = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name)?.1.parse::<u32>().ok()
    };
    let worker = || {
        let index = number("worker").filter(|index| *index < MAX_WORKERS);
        index.ok_or((StatusCode::BAD_REQUEST, "name a worker, such as ?worker=0\n"))
    };
    match path.strip_prefix(PREFIX) {
        Some("kill") => worker().map(Wish::Kill),
        Some("drain") => worker().map(Wish::Drain),
        Some("scale") => number("workers")
            .filter(|workers| (1..=MAX_WORKERS).contains(workers))
            .map(Wish::Scale)
            .ok_or((StatusCode::BAD_REQUEST, "give a number from 1 to 64, such as ?workers=5\n")),
        _ => Err((StatusCode::NOT_FOUND, "there is kill, drain and scale\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_were_opened_by_this_machines_own_names_are_obeyed() {
        let asks = |origin: Option<&str>, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            is_own_page(&headers)
        };
        for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:8000"] {
            assert!(asks(Some(&format!("http://{host}")), host) && asks(None, host), "{host}");
        }
        assert!(!asks(Some("http://evil.example"), "127.0.0.1:8000"));
        // A name that its owner has made to lead here.
        assert!(!asks(Some("http://evil.example:8000"), "evil.example:8000"));
    }

    #[test]
    fn a_wish_names_a_worker_or_a_number_of_them() {
        assert_eq!(read("/dev/kill", "worker=2"), Ok(Wish::Kill(2)));
        assert_eq!(read("/dev/drain", "a=b&worker=0"), Ok(Wish::Drain(0)));
        assert_eq!(read("/dev/scale", "workers=64"), Ok(Wish::Scale(64)));
        for (path, query) in [
            ("/dev/kill", ""),
            ("/dev/kill", "worker=64"),
            ("/dev/kill", "worker=-1"),
            ("/dev/drain", "worker=first"),
            ("/dev/scale", "workers=0"),
            ("/dev/scale", "workers=65"),
            ("/dev/scale", "worker=1"),
        ] {
            let refused = read(path, query).unwrap_err();
            assert_eq!(refused.0, StatusCode::BAD_REQUEST, "{path}?{query}");
        }
        assert_eq!(read("/dev/", "").unwrap_err().0, StatusCode::NOT_FOUND);
    }
}
