//! The admin listener: `/livez`, `/readyz`, `/status`, `/metrics`, read only, for operators; and pages
//! that show them, if the process has some.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What a process tells about itself.
pub trait Node {
    /// Why it cannot serve now; `Ok` when it can.
    fn ready(&self) -> Result<(), String>;
    /// Its state, as JSON.
    fn status(&self) -> String;
    /// Its metrics, as Prometheus reads them.
    fn metrics(&self) -> String;
    /// A file of a page at this path: its content type, and what is in it.
    fn file(&self, path: &str) -> Option<(&'static str, &'static str)> {
        let _ = path;
        None
    }
}

/// What pages here may do: show what this listener serves, and nothing else.
const CONTENT_POLICY: &str = "default-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers on `listener` for ever.
pub async fn serve(listener: TcpListener, node: Rc<dyn Node>) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of descriptors, mostly: wait for some to come back.
                tracing::warn!(%error, "accept an admin connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let node = node.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &*node);
                async { Ok::<_, Infallible>(response) }
            });
            // A client that goes away in the middle is no concern of ours.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, node: &dyn Node) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n".into()),
        "/readyz" => match node.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n".into()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/status" => with_type(node.status(), "application/json"),
        "/metrics" => {
            with_type(node.metrics(), "application/openmetrics-text; version=1.0.0; charset=utf-8")
        }
        path => match node.file(path) {
            Some((content_type, content)) => {
                let mut file = with_type(content.to_owned(), content_type);
                let headers = file.headers_mut();
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                let policy = HeaderValue::from_static(CONTENT_POLICY);
                headers.insert(CONTENT_SECURITY_POLICY, policy);
                file
            }
            None => {
                let paths = "there are /livez, /readyz, /status and /metrics\n";
                text(StatusCode::NOT_FOUND, paths.into())
            }
        },
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = with_type(body, "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

fn with_type(body: String, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
