//! A gateway that says to a worker exactly what a test wants said, and keeps to itself what it hears.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use single_state_proto::decoder::Decoder;
use single_state_proto::frame::{Hello, Open, Skipped};
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, Generation, Incarnation, SessionId, StreamId, WorkerIndex,
};
use single_state_proto::limits::{MAX_MESSAGE, PROTOCOL, WINDOW};
use single_state_proto::link::{Event, Link, Message, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::DEADLINE;

/// So long it reads, whatever else is due: also after nobody has called it for a while.
const LOOK: Duration = Duration::from_millis(10);

/// One end of a link to a worker.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    link: Link,
    decoder: Decoder,
    out: BytesMut,
}

/// An OPEN of a new channel, which a test changes as it likes.
pub fn open(session: &SessionId, channel: &str, generation: u64) -> Open {
    let mut connection = [0; 8];
    getrandom::fill(&mut connection).expect("a connection is random");
    Open {
        session: session.clone(),
        channel: format!("channel-{channel}").parse().expect("a channel id"),
        attach: Attach(1),
        connection: ConnectionId(u64::from_ne_bytes(connection)),
        generation: Generation(generation),
        skipped: Skipped::default(),
        seen: None,
        min_epoch: Epoch(0),
        fresh: false,
        recovered: false,
        window: WINDOW,
        identity: None,
    }
}

impl Peer {
    /// Links to the worker at `address`, which has this index.
    pub async fn connect(address: &str, index: u16) -> Result<Self> {
        let hello = Hello {
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            max_message: MAX_MESSAGE,
            generation: Generation(0),
            index: WorkerIndex(index),
            incarnation: Incarnation(1),
            cluster: "default".to_owned(),
            build: "test".to_owned(),
            nonce: None,
        };
        let link = Link::new(Side::Gateway, hello, std::time::Instant::now());
        let stream = TcpStream::connect(address).await.context("dial a worker")?;
        let mut peer = Self { stream, link, decoder: Decoder::new(), out: BytesMut::new() };
        peer.hears(|event| matches!(event, Event::Connected(_)).then_some(())).await?;
        Ok(peer)
    }

    /// Says something.
    pub async fn say<T>(&mut self, words: impl FnOnce(&mut Link) -> T) -> Result<T> {
        let said = words(&mut self.link);
        self.flush().await?;
        Ok(said)
    }

    /// Asks for a channel.
    pub async fn open(&mut self, open: Open) -> Result<StreamId> {
        self.say(|link| link.open(open)).await?.context("the link takes no streams")
    }

    /// Sends an input.
    pub async fn send(&mut self, stream: StreamId, number: u64, text: &str) -> Result<()> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let sent = self.say(|link| link.send(stream, number, false, &body)).await?;
        if sent { Ok(()) } else { bail!("the stream has no room for {text}") }
    }

    /// The next thing that the worker says; `None` when it has hung up.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(event) = self.link.poll_event() {
                return Ok(Some(event));
            }
            self.flush().await?;
            if Instant::now() > deadline {
                bail!("the worker says nothing");
            }
            let read = self.stream.read_buf(self.decoder.buffer());
            // What came while nobody has read is no silence.
            let until = Instant::from(self.link.poll_timeout()).max(Instant::now() + LOOK);
            match timeout_at(until, read).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => self.take_frames()?,
                Ok(Err(error)) => return Err(error).context("read from a worker"),
                Err(_) => {}
            }
            self.link.handle_timeout(std::time::Instant::now())?;
        }
    }

    /// Waits until the worker says this, and passes over all else.
    pub async fn hears<T>(&mut self, mut this: impl FnMut(&Event) -> Option<T>) -> Result<T> {
        let mut heard = Vec::new();
        while let Some(event) = self.next().await.with_context(|| format!("after {heard:?}"))? {
            if let Some(found) = this(&event) {
                return Ok(found);
            }
            heard.push(event);
        }
        bail!("the worker has hung up after {heard:?}")
    }

    /// Waits for a message with this in its text.
    pub async fn hears_of(&mut self, part: &str) -> Result<String> {
        self.hears(|event| match event {
            Event::Message(_, Message { body, .. }) => {
                let text = String::from_utf8_lossy(body);
                text.contains(part).then(|| text.into_owned())
            }
            _ => None,
        })
        .await
    }

    fn take_frames(&mut self) -> Result<()> {
        let now = std::time::Instant::now();
        self.link.bytes_arrived(now);
        while let Some(frame) = self.decoder.decode()? {
            self.link.handle_frame(now, frame)?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        while self.link.wants_transmit() {
            self.link.poll_transmit(&mut self.out);
            while !self.out.is_empty() {
                self.stream.write_buf(&mut self.out).await.context("write to a worker")?;
            }
        }
        Ok(())
    }
}
