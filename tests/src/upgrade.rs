//! The beginning of a browser's websocket, for very many of them in one process: what tungstenite
//! does for one keeps 4 KiB of the answer for as long as the socket lives.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dial::dial;

/// A connection that speaks websocket from now on.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) stream: TcpStream,
    /// What came after the answer's head.
    pub(crate) rest: BytesMut,
    /// The answer's status and headers.
    pub(crate) head: String,
}

/// Connects to `ws://HOST:PORT/PATH`, from this address of the machine if one is given.
pub(crate) async fn upgrade(
    url: &str,
    from: Option<Ipv4Addr>,
    subprotocol: Option<&str>,
) -> Result<Upgraded> {
    let address = url.strip_prefix("ws://").context("not a ws:// address")?;
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let mut stream = dial(host, from).await?;
    let asked = subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{}\r\n",
        asked.unwrap_or_default(),
    );
    stream.write_all(request.as_bytes()).await?;
    let mut rest = BytesMut::new();
    let end = loop {
        if let Some(at) = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut rest).await? == 0 {
            bail!("the server hung up in the middle of the upgrade");
        }
    };
    let head = String::from_utf8_lossy(&rest.split_to(end)).into_owned();
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 101"), "no upgrade: {status}");
    let spoken = header(&head, "sec-websocket-protocol");
    ensure!(spoken.as_deref() == subprotocol, "the server wants to speak {spoken:?}");
    // The head's memory goes if nothing else is in it.
    let rest = if rest.is_empty() { BytesMut::new() } else { rest };
    Ok(Upgraded { stream, rest, head })
}

/// A header's value.
pub(crate) fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}
