//! The worker's end of the link: length-delimited frames over an inherited socket pair.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use weft_schemas::frame::{self, FrameError, MAX_FRAME_BYTES, ToDispatcher, ToWorker};

/// Frames that wait for the writer. Outcomes wait for room, spans are dropped when there is none.
const QUEUE_FRAMES: usize = 1024;

/// The writer takes up to this many frames before it flushes.
const BATCH_FRAMES: usize = 128;

/// The writer flushes in the middle of a batch once this much is buffered, in bytes.
const WRITE_BYTES: usize = 256 * 1024;

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().big_endian().length_field_length(4).max_frame_length(MAX_FRAME_BYTES).new_codec()
}

/// Splits the link; the write half gets a task of its own.
pub(crate) fn open(stream: UnixStream) -> (Incoming, Outgoing, JoinHandle<()>) {
    let (read, write) = stream.into_split();
    let (sender, receiver) = mpsc::channel(QUEUE_FRAMES);
    let mut sink = FramedWrite::new(write, codec());
    sink.set_backpressure_boundary(WRITE_BYTES);
    let writer = tokio::spawn(write_all(sink, receiver));
    (Incoming(FramedRead::new(read, codec())), Outgoing(sender), writer)
}

/// The dispatcher's frames, in their order.
pub(crate) struct Incoming(FramedRead<OwnedReadHalf, LengthDelimitedCodec>);

/// Why no frame can be read any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("read the link")]
    Io(#[source] std::io::Error),
    #[error("understand a frame of the dispatcher")]
    Frame(#[source] FrameError),
}

impl Incoming {
    /// The next frame; `None` when the dispatcher is gone. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<ToWorker>, ReadError> {
        match self.0.next().await {
            None => Ok(None),
            // A dispatcher that was killed with frames unread resets the link: it is just as gone.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Some(Err(error)) => Err(ReadError::Io(error)),
            Some(Ok(bytes)) => frame::decode(&bytes).map(Some).map_err(ReadError::Frame),
        }
    }
}

enum Out {
    Frame(Bytes),
    /// Everything sent before this has been flushed when the answer comes.
    Flushed(oneshot::Sender<()>),
}

/// Frames to the dispatcher. Cheap to clone. Once the dispatcher is gone frames are dropped: nobody is left to want them.
#[derive(Clone)]
pub(crate) struct Outgoing(mpsc::Sender<Out>);

impl Outgoing {
    /// Queues a frame, waiting for room.
    ///
    /// # Errors
    /// The frame cannot be encoded or is larger than the link carries; nothing was queued.
    pub(crate) async fn send(&self, message: &ToDispatcher) -> Result<(), FrameError> {
        let bytes = frame::encode(message)?;
        // The only failure is a closed link, which the reader notices as well and which ends the process.
        let _ = self.0.send(Out::Frame(bytes)).await;
        Ok(())
    }

    /// Queues a frame if there is room at once; `false` when it was dropped.
    pub(crate) fn offer(&self, message: &ToDispatcher) -> bool {
        frame::encode(message).is_ok_and(|bytes| self.0.try_send(Out::Frame(bytes)).is_ok())
    }

    /// Waits until everything queued so far has been written or the link is closed.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Out::Flushed(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// Writes whatever is queued and flushes once per batch. Ends when every sender or the dispatcher is gone.
async fn write_all(mut sink: FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>, mut queue: mpsc::Receiver<Out>) {
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut flushed = Vec::new();
    while queue.recv_many(&mut batch, BATCH_FRAMES).await > 0 {
        for out in batch.drain(..) {
            match out {
                Out::Frame(bytes) => {
                    if sink.feed(bytes).await.is_err() {
                        return;
                    }
                }
                Out::Flushed(done) => flushed.push(done),
            }
        }
        if SinkExt::<Bytes>::flush(&mut sink).await.is_err() {
            return;
        }
        for done in flushed.drain(..) {
            let _ = done.send(());
        }
    }
}
