//! The bytes of one direction of one connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::{Connection, Faults, Flow, Way, lock};

/// Bytes that are read at a time.
const CHUNK: usize = 16 * 1024;
/// Chunks that are on their way while they are late.
const LATE: usize = 256;
/// A slow direction passes on a piece so often.
const PIECE: Duration = Duration::from_millis(20);

/// The connection is to be reset.
pub(super) struct Cut;

/// Moves bytes from one side to the other, as the faults of the moment say.
pub(super) struct Pump<'a> {
    pub(super) way: Way,
    pub(super) faults: watch::Receiver<Faults>,
    pub(super) connection: &'a Connection,
}

impl Pump<'_> {
    /// Until the end of what comes. What cannot be passed on is the end of both sides.
    pub(super) async fn run(
        mut self,
        from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Cut> {
        let (sender, mut receiver) = mpsc::channel(LATE);
        let faults = self.faults.clone();
        let write = async {
            while let Some((due, bytes)) = receiver.recv().await {
                sleep_until(due).await;
                self.pass_on(bytes, &mut to).await?;
            }
            Ok(())
        };
        // How reading ends is told when all that was read is written.
        let read = async { Ok(read(from, faults, sender).await) };
        let (ended, ()) = tokio::try_join!(read, write)?;
        // Half-open: nobody hears that the other side is gone.
        self.until(|flow| flow != Flow::Swallow).await;
        ended?;
        to.shutdown().await.map_err(|_| Cut)
    }

    async fn pass_on(&mut self, mut bytes: Bytes, to: &mut WriteHalf<'_>) -> Result<(), Cut> {
        while !bytes.is_empty() {
            self.until(|flow| flow != Flow::Block).await;
            let flow = self.faults.borrow_and_update().flow(self.way);
            let piece = match flow {
                Flow::Swallow => return Ok(()),
                Flow::Slow(rate) => (rate as usize / 50).max(1),
                Flow::Forward | Flow::Block => bytes.len(),
            };
            if let Flow::Slow(rate) = flow {
                let wait = if rate < 50 { Duration::from_secs(1) / rate.max(1) } else { PIECE };
                tokio::time::sleep(wait).await;
            }
            let (piece, cut) = self.count(piece.min(bytes.len()));
            let written = to.write_all(&bytes.split_to(piece)).await;
            if cut || written.is_err() {
                return Err(Cut);
            }
        }
        Ok(())
    }

    /// How much of so many bytes goes on, and whether the connection is cut then.
    fn count(&self, bytes: usize) -> (usize, bool) {
        let left = &mut lock(&self.connection.left)[self.way as usize];
        let Some(left) = left else { return (bytes, false) };
        let piece = bytes.min(*left);
        *left -= piece;
        (piece, *left == 0)
    }

    async fn until(&mut self, is_so: impl Fn(Flow) -> bool) {
        let way = self.way;
        // The proxy is gone: its connections are about to be, too.
        let _ = self.faults.wait_for(|faults| is_so(faults.flow(way))).await;
    }
}

/// Everything is read with the moment at which it is to go on; `Err` when it ends in a reset.
async fn read(
    mut from: ReadHalf<'_>,
    faults: watch::Receiver<Faults>,
    sender: mpsc::Sender<(Instant, Bytes)>,
) -> Result<(), Cut> {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match from.read_buf(&mut chunk).await {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let due = Instant::now() + faults.borrow().delay;
                if sender.send((due, chunk.freeze())).await.is_err() {
                    return Ok(());
                }
            }
            Err(_) => return Err(Cut),
        }
    }
}
