//! A browser's connection: HTTP/1.1, the upgrade at `/ws`, and files for everything else.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, SET_COOKIE, UPGRADE,
};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use single_state_proto::browser::SUBPROTOCOL;
use single_state_proto::id::{ChannelId, SessionId, WorkerIndex};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Shared;
use crate::admission::Full;
use crate::browser::{self, Attached, Guest};
use crate::channel::{Channel, Standing, Target};
use crate::control;
use crate::identify::{self, Chosen, Denied, Random};
use crate::origin::{self, Origin};
use crate::pages::{Page, text};

/// How long a browser may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the answer to an upgrade waits for the worker, so that it can name it.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(1);

const NOT_AN_ID: (StatusCode, &str) =
    (StatusCode::BAD_REQUEST, "a session id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -\n");

const SESSION: HeaderName = HeaderName::from_static("x-single-state-session");
const WORKER: HeaderName = HeaderName::from_static("x-single-state-worker");

/// Serves one connection until it is closed or a websocket.
pub(crate) async fn serve(socket: TcpStream, address: IpAddr, shared: Rc<Shared>) {
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, address, &shared).await) }
    });
    // A browser that goes away in the middle is no concern of ours.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await;
}

async fn answer(request: Request<Incoming>, address: IpAddr, shared: &Rc<Shared>) -> Page {
    let mut page = page(request, address, shared).await;
    if shared.is_draining() && page.status() != StatusCode::SWITCHING_PROTOCOLS {
        // What comes next shall find another gateway.
        page.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    page
}

async fn page(request: Request<Incoming>, address: IpAddr, shared: &Rc<Shared>) -> Page {
    let path = request.uri().path();
    if path != "/ws" {
        if path.starts_with(control::PREFIX)
            && let Some(supervisor) = shared.supervisor.get()
        {
            let (method, headers, uri) = (request.method(), request.headers(), request.uri());
            return control::obey(supervisor, method, headers, path, uri.query()).await;
        }
        if path == control::ABOUT {
            let workers = shared.router.topology().map(|topology| topology.workers().len());
            return control::about(workers.filter(|_| shared.supervisor.get().is_some()));
        }
        return shared.pages.serve(request).await;
    }
    match upgrade(request, address, shared).await {
        Ok(page) => page,
        Err((status, sentence)) => {
            shared.metrics.refused(status.as_u16());
            let mut page = text(status, sentence);
            if status == StatusCode::UPGRADE_REQUIRED {
                page.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
                page.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            page
        }
    }
}

/// Answers with 101: attaches a plain page's channel before, and names session and worker. A client
/// of single-state.v1 says in its hello which session and channel it means.
async fn upgrade(
    mut request: Request<Incoming>,
    address: IpAddr,
    shared: &Rc<Shared>,
) -> Result<Page, (StatusCode, &'static str)> {
    let accept = check_handshake(&request)?;
    let random = Random::draw()
        .map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "no random numbers to be had\n"))?;
    let Chosen { session, fresh, named, cookies } = choose(&request, random, shared)?;
    if shared.is_draining() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "this gateway is draining\n"));
    }
    let place = shared.admission.admit(address).map_err(|full| match full {
        Full::Gateway => (StatusCode::SERVICE_UNAVAILABLE, "this gateway is full; try later\n"),
        Full::Address => (StatusCode::TOO_MANY_REQUESTS, "too many connections of your address\n"),
    })?;
    let guest = Guest::new(place, shared.metrics.clone());
    let target = Target { session: session.clone(), fresh, connection: random.connection() };
    let numbered = offers(&request, SUBPROTOCOL);
    let upgrade = hyper::upgrade::on(&mut request);
    let index = if numbered {
        greet(upgrade, target, guest, shared.clone());
        None
    } else {
        let channel = random.channel().map_err(|_| NOT_AN_ID)?;
        attach(upgrade, target, channel, guest, shared).await
    };
    // While nobody has it, placement says who will.
    let index = index.or_else(|| shared.router.owner(&session));
    // Hello may name another session, unless this one stands in the address.
    let told = (!numbered || named).then_some((&session, index));
    Ok(switch(accept, numbered, told, &cookies))
}

/// Serves a client of single-state.v1 once it is upgraded.
fn greet(upgrade: OnUpgrade, target: Target, guest: Guest, shared: Rc<Shared>) {
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgrade.await {
            browser::greet_and_serve(upgraded, target, guest, shared).await;
        }
    });
}

/// Attaches a plain page's channel, and serves it once it is upgraded. Waits for its worker, which
/// the answer names; without one the browser waits with an open socket. Returns who has it.
async fn attach(
    upgrade: OnUpgrade,
    target: Target,
    channel: ChannelId,
    guest: Guest,
    shared: &Rc<Shared>,
) -> Option<WorkerIndex> {
    let (metrics, limits) = (shared.metrics.clone(), shared.channel_limits);
    let channel = Channel::plain(target, channel, limits, metrics);
    let attached = Attached::new(channel, guest, shared.clone());
    let _ = tokio::time::timeout(ATTACH_TIMEOUT, settled(attached.channel())).await;
    let channel = attached.channel();
    let is_open = channel.standing() == Standing::Open;
    let index = channel.worker().filter(|_| is_open).map(|worker| worker.index);
    let limits = shared.limits;
    tokio::task::spawn_local(async move {
        // A browser that hangs up before its upgrade drops the channel with this task.
        if let Ok(upgraded) = upgrade.await {
            browser::serve(upgraded, attached, limits).await;
        }
    });
    index
}

/// The session that the request asks for.
fn choose(
    request: &Request<Incoming>,
    random: Random,
    shared: &Shared,
) -> Result<Chosen, (StatusCode, &'static str)> {
    let origin = check_origin(request, shared)?;
    let asked = identify::Request {
        query: request.uri().query(),
        headers: request.headers(),
        secure: origin.is_some_and(|origin| origin.is_secure()),
        now: identify::now(),
    };
    shared.terms.sessions.choose(&asked, random).map_err(|denied| match denied {
        Denied::NotAnId => NOT_AN_ID,
        Denied::NotSigned => {
            (StatusCode::UNAUTHORIZED, "no gateway signed this session, or it has expired\n")
        }
    })
}

/// The 101 response.
fn switch(
    accept: HeaderValue,
    numbered: bool,
    told: Option<(&SessionId, Option<WorkerIndex>)>,
    cookies: &[String],
) -> Page {
    let mut page = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = page.headers_mut();
    headers.clear();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if numbered {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    if let Some((session, index)) = told {
        if let Some(index) = index {
            headers.insert(WORKER, HeaderValue::from(index.0));
        }
        if let Ok(session) = HeaderValue::from_str(session.as_str()) {
            headers.insert(SESSION, session);
        }
    }
    for cookie in cookies.iter().filter_map(|cookie| HeaderValue::from_str(cookie).ok()) {
        headers.append(SET_COOKIE, cookie);
    }
    page
}

/// Whether the browser offers this subprotocol, perhaps among others. Their names have an exact case.
fn offers(request: &Request<Incoming>, subprotocol: &str) -> bool {
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offers = offers.filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|offer| offer.trim() == subprotocol)
}

/// Refuses pages of other sites; the page's origin, if a browser names one.
fn check_origin(
    request: &Request<Incoming>,
    shared: &Shared,
) -> Result<Option<Origin>, (StatusCode, &'static str)> {
    let foreign =
        (StatusCode::FORBIDDEN, "pages of this origin may not connect; see --allow-origin\n");
    // More than one is as bad as one that cannot be read.
    let one = |name: HeaderName| {
        let mut values = request.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| foreign),
            (Some(_), Some(_)) => Err(foreign),
        }
    };
    origin::judge(one(ORIGIN)?, one(HOST)?, &shared.allowed_origins).map_err(|_| foreign)
}

/// Waits until a worker has the channel, or refused it for good.
async fn settled(channel: &Channel) {
    while channel.standing() == Standing::Waiting {
        channel.changed().await;
    }
}

/// Checks that this is a websocket handshake (RFC 6455, 4.2.1); its `Sec-WebSocket-Accept`.
fn check_handshake(request: &Request<Incoming>) -> Result<HeaderValue, (StatusCode, &'static str)> {
    let headers = request.headers();
    let has = |name: HeaderName, token: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    if request.version() != Version::HTTP_11 {
        return Err((StatusCode::BAD_REQUEST, "a websocket needs HTTP/1.1\n"));
    }
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a websocket begins with GET\n"));
    }
    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, "open this address as a websocket\n"));
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "only websocket version 13\n"));
    }
    let no_key = (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes as base64\n");
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(no_key)?.as_bytes();
    if !STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        return Err(no_key);
    }
    HeaderValue::from_str(&derive_accept_key(key)).map_err(|_| no_key)
}
