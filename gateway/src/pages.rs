//! Files for browsers: the web folder or the embedded demo at `/`, our client at `/client/`, and
//! the npm packages that pages import at `/vendor/`.

mod lean;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_staticfile::Static;

/// A response of the browser listener.
pub(crate) type Page = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

macro_rules! client_files {
    ($($path:literal)*) => {
        /// Paths below `/client/` and what stands there.
        const CLIENT: &[(&str, &str)] =
            &[$(($path, include_str!(concat!("../client/", $path)))),*];
    };
}

client_files! {
    "address.js" "backoff.js" "channel.js" "claim.js" "connection.js" "conversation.js"
    "environment.js" "errors.js" "inputs.js" "message.js" "mirror.js" "preact.js" "protocol.js"
    "receipts.js" "silence.js" "single-state.js" "socket.js" "store.js" "wake.js"
    "demo/app.js" "demo/banners.js" "demo/cards.js" "demo/chart.js" "demo/curve.js" "demo/dev.js"
    "demo/handoffs.js" "demo/html.js" "demo/index.html" "demo/owner.js" "demo/reducer.js"
    "demo/style.css" "demo/train.js" "demo/vector.js" "demo/words.js"
}

/// The same, and of modules only what a browser needs.
static SERVED: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
    let lean = |(path, content): &(&'static str, &str)| {
        let is_module = path.ends_with(".js");
        (*path, if is_module { lean::lean(content) } else { (*content).to_owned() })
    };
    CLIENT.iter().map(lean).collect()
});

/// Where pages get npm packages from when this machine has none.
const PUBLIC_PACKAGES: &str = "https://cdn.jsdelivr.net/npm/";

/// The versions that the public copy is asked for; the same as in `gateway/client/package.json`.
const PINNED: &[(&str, &str)] = &[("preact", "10.29.8"), ("htm", "3.1.1")];

/// Which files are served.
pub(crate) struct Pages {
    web: Option<Static>,
    vendor: Option<Static>,
}

impl Pages {
    /// `web`: the author's pages, else the demo. `vendor`: a `node_modules` folder; without one, or
    /// when it is not there, browsers are sent to a public copy.
    pub(crate) fn new(web: Option<PathBuf>, vendor: Option<PathBuf>) -> Self {
        let vendor = vendor.filter(|folder| folder.is_dir());
        Self { web: web.map(Static::new), vendor: vendor.map(Static::new) }
    }

    /// Answers a request for a file.
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Page {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let path = request.uri().path().to_owned();
        if let Some(file) = path.strip_prefix("/client/") {
            return client(file);
        }
        if let Some(package) = path.strip_prefix("/vendor/") {
            return match &self.vendor {
                Some(folder) => from_folder(folder, request, package).await,
                None => public(package),
            };
        }
        match &self.web {
            Some(folder) => from_folder(folder, request, path.trim_start_matches('/')).await,
            None if path == "/" || path == "/index.html" => client("demo/index.html"),
            None => text(StatusCode::NOT_FOUND, "there is no such page\n"),
        }
    }
}

fn client(path: &str) -> Page {
    match SERVED.iter().find(|(name, _)| *name == path) {
        Some((name, content)) => {
            let mut page = text(StatusCode::OK, content);
            let content_type = HeaderValue::from_static(content_type(name));
            page.headers_mut().insert(CONTENT_TYPE, content_type);
            page
        }
        None => text(StatusCode::NOT_FOUND, "the client has no such file\n"),
    }
}

fn content_type(name: &str) -> &'static str {
    match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/html; charset=utf-8",
    }
}

async fn from_folder(folder: &Static, mut request: Request<Incoming>, path: &str) -> Page {
    let Ok(uri) = format!("/{path}").parse() else {
        return text(StatusCode::BAD_REQUEST, "this is not a path\n");
    };
    *request.uri_mut() = uri;
    match folder.clone().serve(request).await {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => {
            text(StatusCode::NOT_FOUND, "there is no such file\n")
        }
        Ok(mut response) => {
            if let Some(content_type) = with_charset(response.headers().get(CONTENT_TYPE)) {
                response.headers_mut().insert(CONTENT_TYPE, content_type);
            }
            // Pages change while they are written; browsers ask each time whether they did.
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response.map(|body| body.boxed_unsync())
        }
        // Names that no file can have.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
            ) =>
        {
            text(StatusCode::NOT_FOUND, "there is no such file\n")
        }
        Err(error) => {
            tracing::warn!(%error, "read a file of the web folder");
            text(StatusCode::INTERNAL_SERVER_ERROR, "this file cannot be read\n")
        }
    }
}

/// Text is UTF-8 unless it says otherwise; browsers would take it for something older.
fn with_charset(content_type: Option<&HeaderValue>) -> Option<HeaderValue> {
    let content_type = content_type?.to_str().ok()?;
    let is_text = content_type.starts_with("text/") && !content_type.contains("charset");
    is_text.then(|| HeaderValue::from_str(&format!("{content_type}; charset=utf-8")).ok())?
}

/// Sends the browser to the public copy of a pinned package.
fn public(path: &str) -> Page {
    let (package, file) = path.split_once('/').unwrap_or((path, ""));
    let pinned = PINNED.iter().find(|(name, _)| *name == package);
    let location = pinned.and_then(|(name, version)| {
        HeaderValue::from_str(&format!("{PUBLIC_PACKAGES}{name}@{version}/{file}")).ok()
    });
    let Some(location) = location else {
        return text(
            StatusCode::NOT_FOUND,
            "no such package; give --vendor a node_modules folder\n",
        );
    };
    let mut page = text(StatusCode::FOUND, "");
    page.headers_mut().insert(LOCATION, location);
    page
}

/// A short answer in words.
pub(crate) fn text(status: StatusCode, body: &'static str) -> Page {
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    let mut page = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("client")
    }

    #[test]
    fn every_file_of_the_client_is_embedded() {
        for folder_name in ["", "demo"] {
            for entry in std::fs::read_dir(folder().join(folder_name)).unwrap() {
                let path = entry.unwrap().path();
                let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
                if !["js", "css", "html"].contains(&kind) {
                    continue;
                }
                let name = path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
                assert!(CLIENT.iter().any(|(path, _)| *path == name), "{name} is not embedded");
            }
        }
    }

    #[test]
    fn the_public_copy_has_the_versions_that_npm_installs() {
        let package = std::fs::read_to_string(folder().join("package.json")).unwrap();
        let package: serde_json::Value = serde_json::from_str(&package).unwrap();
        for (name, version) in PINNED {
            assert_eq!(package["devDependencies"][name], *version, "{name}");
        }
    }

    #[test]
    fn a_package_that_pages_do_not_use_is_not_looked_for_elsewhere() {
        assert_eq!(public("left-pad/index.js").status(), StatusCode::NOT_FOUND);
        assert_eq!(public("htm/dist/htm.module.js").status(), StatusCode::FOUND);
    }
}
