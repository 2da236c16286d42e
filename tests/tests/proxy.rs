//! The fault proxy has the faults that it says it has.

use std::time::Duration;

use anyhow::{Result, bail};
use single_state_tests::DEADLINE;
use single_state_tests::append::wait_until;
use single_state_tests::place::Place;
use single_state_tests::proxy::{Faults, Flow, Proxy, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// What does not come within this time is not on its way: nothing here is far.
const NOTHING: Duration = Duration::from_millis(100);

/// Both ends of a connection through the proxy.
struct Pair {
    proxy: Proxy,
    client: TcpStream,
    server: TcpStream,
    listener: TcpListener,
}

impl Pair {
    async fn connect() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::start(&listener.local_addr()?.to_string()).await?;
        let client = TcpStream::connect(proxy.address()).await?;
        let (server, _) = listener.accept().await?;
        Ok(Self { proxy, client, server, listener })
    }

    async fn connect_again(&mut self) -> Result<()> {
        self.client = TcpStream::connect(self.proxy.address()).await?;
        self.server = timeout(DEADLINE, self.listener.accept()).await??.0;
        Ok(())
    }

    /// Bytes go through in both directions.
    async fn must_talk(&mut self) -> Result<()> {
        self.client.write_all(b"ping").await?;
        must_come(&mut self.server, b"ping").await?;
        self.server.write_all(b"pong").await?;
        must_come(&mut self.client, b"pong").await
    }
}

async fn must_come(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut came = vec![0; bytes.len()];
    timeout(DEADLINE, stream.read_exact(&mut came)).await??;
    assert_eq!(came, bytes);
    Ok(())
}

async fn nothing_comes(stream: &mut TcpStream) -> bool {
    timeout(NOTHING, stream.read_u8()).await.is_err()
}

/// Reads until the reset; how many bytes came before.
async fn must_be_reset(stream: &mut TcpStream) -> Result<usize> {
    let mut bytes = Vec::new();
    match timeout(DEADLINE, stream.read_to_end(&mut bytes)).await? {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(bytes.len()),
        other => bail!("no reset: {other:?}"),
    }
}

#[tokio::test]
async fn bytes_and_ends_go_through_in_both_directions() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.must_talk().await?;
    pair.client.shutdown().await?;
    assert_eq!(pair.server.read(&mut [0]).await?, 0);
    pair.server.write_all(b"late").await?;
    must_come(&mut pair.client, b"late").await?;
    drop(pair.server);
    assert_eq!(pair.client.read(&mut [0]).await?, 0);
    wait_until("it is over", async || Ok(pair.proxy.connections() == 0)).await?;
    assert_eq!(pair.proxy.accepted(), 1);
    Ok(())
}

#[tokio::test]
async fn a_cut_is_a_reset_on_both_sides_and_new_connections_go_on() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.must_talk().await?;
    assert_eq!(pair.proxy.cut(), 1);
    must_be_reset(&mut pair.client).await?;
    must_be_reset(&mut pair.server).await?;
    pair.connect_again().await?;
    pair.must_talk().await
}

#[tokio::test]
async fn a_connection_is_cut_in_the_middle_of_a_frame_in_either_direction() -> Result<()> {
    for way in [Way::Up, Way::Down] {
        let mut pair = Pair::connect().await?;
        pair.proxy.cut_after(way, 1000);
        let Pair { client, server, .. } = &mut pair;
        let (from, to) = if way == Way::Up { (client, server) } else { (server, client) };
        from.write_all(&[0; 999]).await?;
        must_come(to, &[0; 999]).await?;
        from.write_all(&[0; 1000]).await?;
        // The last byte may be lost in the reset, as it is on a real network.
        assert!(must_be_reset(to).await? <= 1);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_late_comes_in_order_and_whole() -> Result<()> {
    let mut pair = Pair::connect().await?;
    let delay = Duration::from_millis(60);
    pair.proxy.set(Faults { delay, ..Faults::default() });
    let began = tokio::time::Instant::now();
    for byte in 0..100 {
        pair.client.write_all(&[byte]).await?;
    }
    must_come(&mut pair.server, &(0..100).collect::<Vec<_>>()).await?;
    assert!(began.elapsed() >= delay);
    Ok(())
}

#[tokio::test]
async fn a_half_open_connection_swallows_bytes_and_ends_without_a_word() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.proxy.set(Faults { up: Flow::Swallow, down: Flow::Swallow, ..Faults::default() });
    pair.client.write_all(b"lost").await?;
    pair.server.write_all(b"lost").await?;
    assert!(nothing_comes(&mut pair.client).await && nothing_comes(&mut pair.server).await);
    drop(pair.server);
    assert!(nothing_comes(&mut pair.client).await, "its end is swallowed too");
    pair.proxy.cut();
    must_be_reset(&mut pair.client).await.map(drop)
}

#[tokio::test]
async fn one_direction_is_lost_while_the_other_goes_on() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.proxy.set(Faults { up: Flow::Swallow, ..Faults::default() });
    pair.client.write_all(b"lost").await?;
    assert!(nothing_comes(&mut pair.server).await);
    pair.server.write_all(b"heard").await?;
    must_come(&mut pair.client, b"heard").await
}

#[tokio::test]
async fn what_is_blocked_in_one_direction_comes_when_it_is_healed() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.proxy.set(Faults { down: Flow::Block, ..Faults::default() });
    pair.server.write_all(b"later").await?;
    assert!(nothing_comes(&mut pair.client).await);
    pair.client.write_all(b"now").await?;
    must_come(&mut pair.server, b"now").await?;
    pair.proxy.heal();
    must_come(&mut pair.client, b"later").await
}

#[tokio::test]
async fn a_slow_direction_takes_its_time() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.proxy.set(Faults { up: Flow::Slow(10_000), ..Faults::default() });
    let began = tokio::time::Instant::now();
    pair.client.write_all(&[7; 3000]).await?;
    must_come(&mut pair.server, &[7; 3000]).await?;
    assert!(began.elapsed() >= Duration::from_millis(280));
    pair.proxy.heal();
    pair.must_talk().await
}

#[tokio::test]
async fn who_is_new_is_refused_and_who_is_there_stays() -> Result<()> {
    let mut pair = Pair::connect().await?;
    pair.proxy.set(Faults { refuse: true, ..Faults::default() });
    let mut refused = TcpStream::connect(pair.proxy.address()).await?;
    must_be_reset(&mut refused).await?;
    pair.must_talk().await?;
    pair.proxy.heal();
    pair.connect_again().await?;
    pair.must_talk().await
}

#[tokio::test]
async fn who_connects_to_nobody_is_reset_until_there_is_a_target() -> Result<()> {
    let mut pair = Pair::connect().await?;
    let nobody = Place::free()?;
    pair.proxy.set_target(nobody.address());
    let mut lost = TcpStream::connect(pair.proxy.address()).await?;
    must_be_reset(&mut lost).await?;
    pair.proxy.set_target(&pair.listener.local_addr()?.to_string());
    pair.connect_again().await?;
    pair.must_talk().await
}
