//! `POST /dev/{kill,drain,scale}`: what a page may ask of `gateway dev`, so that its user sees that
//! nothing breaks. Exists nowhere else, and obeys only pages of the gateway's own address. Pages learn
//! from [`ABOUT`] whether it is there.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
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
        return text(StatusCode::FORBIDDEN, "only pages of this address may ask for this\n");
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
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    origin::judge(text(ORIGIN), text(HOST), &[]).is_ok()
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
