//! How clients are sent away, and what they are told before.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use single_state_tests::DEADLINE;
use single_state_tests::cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{CHANNEL, Client, append, hello, one_worker, one_worker_options};
use crate::sqlite;

/// The next message is a bye, and the socket is closed with this code.
async fn says_bye(client: &mut Client, code: u16) -> Result<()> {
    let bye = client.next_where(|message| message[0] == "bye").await?;
    let fields = &bye[1];
    assert!(fields["reason"].is_string() && fields["after_ms"].is_u64(), "{bye}");
    assert!(fields["spread_ms"].as_u64() > Some(0), "not all in the same moment: {bye}");
    assert_eq!(client.closed().await?, code);
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_ends_tells_its_clients_when_to_come_again() -> Result<()> {
    let mut cluster = one_worker().await?;
    let (mut welcomed, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    let mut silent = Client::connect(&cluster, "?session=mine").await?;
    cluster.gateway.process.signal("TERM")?;
    says_bye(&mut welcomed, 1012).await?;
    says_bye(&mut silent, 1012).await?;
    assert!(cluster.gateway.process.wait().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_client_whose_worker_stays_away_is_told_when_to_come_again() -> Result<()> {
    let options = one_worker_options().gateway_flag("--park-timeout", "200ms");
    let mut cluster = Cluster::start(options).await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    cluster.kill_worker(0).await?;
    says_bye(&mut client, 1013).await
}

#[tokio::test]
async fn the_end_of_a_session_closes_its_clients_with_4410() -> Result<()> {
    let cluster = one_worker().await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    client.say(json!([1, {"tag": "end"}])).await?;
    assert_eq!(client.closed().await?, 4410);
    Ok(())
}

#[tokio::test]
async fn the_65th_channel_of_a_session_is_refused_with_4429() -> Result<()> {
    let cluster = one_worker().await?;
    let mut clients = Vec::new();
    for i in 0..64 {
        clients.push(Client::welcomed(&cluster, "mine", &format!("channel-{i:04}")).await?);
    }
    let mut late = Client::connect(&cluster, "?session=mine").await?;
    late.say(hello("channel-late", 1)).await?;
    assert_eq!(late.closed().await?, 4429);
    Ok(())
}

#[tokio::test]
async fn a_session_that_kills_its_workers_is_closed_with_4503() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(one_worker_options().store(&sqlite(&folder))).await?;
    let (mut client, _) = Client::welcomed(&cluster, "mine", CHANNEL).await?;
    client.say(append(1)).await?;
    client.acked(1).await?;
    client.say(json!([2, {"tag": "die"}])).await?;
    // The first death is nobody's; each of the next three is a strike.
    for _ in 0..4 {
        cluster.workers[0].process.wait().await?;
        cluster.start_worker_again(0).await?;
    }
    assert_eq!(client.closed().await?, 4503);
    Ok(())
}

/// Browsers fail a connection on which anything follows a close, and then know no code.
#[tokio::test]
async fn a_gateway_whose_close_was_answered_says_nothing_more() -> Result<()> {
    let cluster = one_worker().await?;
    let mut socket = TcpStream::connect(&cluster.gateway.address).await?;
    let head = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                sec-websocket-protocol: single-state.v1\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    // Masked with zeros: what is no hello and, once the gateway has closed, a ping and the answer.
    let no_hello = [0x81, 0x82, 0, 0, 0, 0, b'{', b'}'];
    let answer = [0x89, 0x80, 0, 0, 0, 0, 0x88, 0x82, 0, 0, 0, 0, 0x11, 0x30];
    socket.write_all(&no_hello).await?;
    let mut heard = Vec::new();
    loop {
        let end_of_head = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let frames = end_of_head.map(|end| &heard[end + 4..]);
        if let Some(&[0x88, length, 0x11, 0x30, ref reason @ ..]) = frames
            && reason.len() + 2 >= length.into()
        {
            break;
        }
        let read = tokio::time::timeout(DEADLINE, socket.read_buf(&mut heard)).await;
        ensure!(read.context("no close with 4400")?? > 0, "it hung up after {heard:?}");
    }
    socket.write_all(&answer).await?;
    let mut more = Vec::new();
    let all = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut more));
    all.await.context("the gateway does not hang up")??;
    assert_eq!(more, [0; 0], "nothing follows a close");
    Ok(())
}
