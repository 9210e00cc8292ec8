//! Both directions of a link: frames in as [`FromWorker`], frames out from a queue. Many frames per system call.

use std::fmt::Display;
use std::io;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use weft_process::report;
use weft_schemas::frame::{FrameError, InvocationId, MAX_FRAME_BYTES, ToDispatcher, ToWorker, decode, encode};
use weft_schemas::{ErrorInfo, Outcome};

use super::watch::Watch;
use super::{FromWorker, Registered, WorkerId};

/// The length before each body.
const HEAD_BYTES: usize = 4;
/// Free space that a read is offered, and the size at which a batch of frames is written.
const BATCH_BYTES: usize = 64 * 1024;
/// What an empty buffer may keep of a past large frame.
const KEEP_BYTES: usize = 1024 * 1024;
/// Frames taken from the queue at once.
const BATCH_FRAMES: usize = 256;

/// What ended a reader, and what it had seen until then.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) ready: bool,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) enum End {
    /// The worker's end is closed, and everything written to it was delivered. A frame cut short by that is no fault:
    /// it was being written when the process died.
    Closed,
    /// The worker said that it cannot start.
    StartFailed(String),
    /// It sent what is no frame.
    Protocol(String),
    /// Nobody receives events any more.
    Unheard,
}

/// Delivers frames until the link ends. `ready` is resolved when the worker first says so.
pub(super) async fn read(
    mut link: OwnedReadHalf,
    id: WorkerId,
    launched: Instant,
    events: mpsc::Sender<(WorkerId, FromWorker)>,
    ready: oneshot::Sender<()>,
    watch: Watch,
) -> Read {
    let mut buffer = BytesMut::new();
    let mut ready = Some(ready);
    let end = loop {
        match next_frame(&mut buffer) {
            Ok(Some(frame)) => {
                let said = match frame {
                    ToDispatcher::Ready { handlers, batch_handlers } => {
                        let Some(ready) = ready.take() else { break End::Protocol("it was ready twice".into()) };
                        // The supervisor may be past waiting.
                        let _ = ready.send(());
                        FromWorker::Ready {
                            registered: Registered { handlers, batch_handlers, any: false },
                            init: launched.elapsed(),
                        }
                    }
                    ToDispatcher::StartFailed { message } => break End::StartFailed(message),
                    ToDispatcher::Outcome { id: of, outcome, emits, entered_us } => {
                        if let Some(seen) = watch.came(of).await
                            && events.send((id, FromWorker::Seen { id: of, seen })).await.is_err()
                        {
                            break End::Unheard;
                        }
                        FromWorker::Outcome { id: of, outcome, emits, entered_us }
                    }
                    ToDispatcher::Spans(spans) => FromWorker::Spans(spans),
                };
                if events.send((id, said)).await.is_err() {
                    break End::Unheard;
                }
            }
            Ok(None) => {
                if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
                    buffer = BytesMut::new();
                }
                buffer.reserve(BATCH_BYTES);
                match link.read_buf(&mut buffer).await {
                    Ok(0) => break End::Closed,
                    Ok(_) => {}
                    // It ended with frames of ours unread. The kernel says so only after all that it wrote was read.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break End::Closed,
                    Err(error) => break End::Protocol(format!("its link cannot be read: {error}")),
                }
            }
            Err(fault) => break End::Protocol(fault),
        }
    };
    Read { ready: ready.is_none(), end }
}

/// Takes one frame off the front of the buffer; `None`: it is not complete yet.
fn next_frame(buffer: &mut BytesMut) -> Result<Option<ToDispatcher>, String> {
    let Some(head) = buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let too_long = |length: &dyn Display| format!("it sent a frame of {length} bytes, more than {MAX_FRAME_BYTES}");
    let length = u32::from_be_bytes(*head);
    let length = usize::try_from(length).map_err(|_| too_long(&length))?;
    if length > MAX_FRAME_BYTES {
        return Err(too_long(&length));
    }
    if buffer.len() < HEAD_BYTES + length {
        buffer.reserve(HEAD_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    let body = buffer.split_to(length);
    decode(&body).map(Some).map_err(|error| format!("failed to {}", report::chain(&error)))
}

/// Writes frames until the worker no longer reads; what is left then was for nobody. Its owner aborts it.
///
/// An attempt whose frame is too long never reaches the worker; it fails here, so that it ends.
pub(super) async fn write(
    mut link: OwnedWriteHalf,
    id: WorkerId,
    mut frames: mpsc::UnboundedReceiver<ToWorker>,
    events: mpsc::Sender<(WorkerId, FromWorker)>,
    watch: Watch,
) {
    let mut batch = Vec::new();
    let mut bytes = Vec::new();
    while frames.recv_many(&mut batch, BATCH_FRAMES).await > 0 {
        for frame in batch.drain(..) {
            if let Err(why) = append(&mut bytes, &frame) {
                let error = ErrorInfo::new("FrameTooLarge", report::chain(&why));
                for (invocation, outcome) in unsent(&frame, error) {
                    let refused = FromWorker::Outcome { id: invocation, outcome, emits: Vec::new(), entered_us: None };
                    if events.send((id, refused)).await.is_err() {
                        return;
                    }
                }
            } else {
                // Before the worker can have read it.
                watch.goes(&frame);
            }
            if bytes.len() >= BATCH_BYTES && flush(&mut link, &mut bytes).await.is_err() {
                return;
            }
        }
        if flush(&mut link, &mut bytes).await.is_err() {
            return;
        }
    } // The handle was dropped, which kills the worker. Ending here would close the link, and let it exit by itself first.
    std::future::pending::<()>().await;
}

/// What the attempts in a frame that is too long come to. One of several is tried again, in other company.
fn unsent(frame: &ToWorker, error: ErrorInfo) -> Vec<(InvocationId, Outcome)> {
    match frame {
        ToWorker::Invoke(invoke) => vec![(invoke.id, Outcome::Failed { error })],
        ToWorker::InvokeBatch { invokes } => match invokes.as_slice() {
            [only] => vec![(only.id, Outcome::Failed { error })],
            several => several
                .iter()
                .map(|invoke| (invoke.id, Outcome::Retry { error: error.clone(), after_ms: None }))
                .collect(),
        },
        ToWorker::Start(_) | ToWorker::Cancel { .. } | ToWorker::Drain => Vec::new(),
    }
}

async fn flush(link: &mut OwnedWriteHalf, bytes: &mut Vec<u8>) -> io::Result<()> {
    link.write_all(bytes).await?;
    bytes.clear();
    bytes.shrink_to(KEEP_BYTES);
    Ok(())
}

/// Appends one frame, or nothing at all and why.
fn append(bytes: &mut Vec<u8>, frame: &ToWorker) -> Result<(), FrameError> {
    let body = encode(frame)?;
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLarge { bytes: body.len() })?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn frames_are_taken_one_by_one_however_they_arrive() {
        let said = ToDispatcher::Ready { handlers: vec!["a".into()], batch_handlers: Vec::new() };
        let twice = framed(&encode(&said).unwrap()).repeat(2);
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in twice {
            buffer.extend_from_slice(&[byte]);
            seen.extend(next_frame(&mut buffer).unwrap());
        }
        assert_eq!(seen, [said.clone(), said]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_has_arrived() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(next_frame(&mut buffer).unwrap_err().contains("4294967295 bytes"));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(next_frame(&mut BytesMut::from(&framed(b"\xc1\xc1")[..])).is_err());
    }

    #[test]
    fn a_written_frame_is_its_length_and_its_body() {
        let mut bytes = Vec::new();
        append(&mut bytes, &ToWorker::Drain).unwrap();
        append(&mut bytes, &ToWorker::Cancel { id: InvocationId(7) }).unwrap();
        let drain = encode(&ToWorker::Drain).unwrap();
        assert_eq!(bytes[..4 + drain.len()], framed(&drain));
        let cancel: ToWorker = decode(&bytes[4 + drain.len() + 4..]).unwrap();
        assert_eq!(cancel, ToWorker::Cancel { id: InvocationId(7) });
    }
}
