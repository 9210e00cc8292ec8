//! Frames between a dispatcher and its worker: MessagePack with named fields behind a 4-byte big-endian length.
//!
//! Named fields let the two ends differ in version: an unknown field is ignored, a missing optional one defaulted.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Attempt, Epoch, Event, Fence, FunctionName, Key, Outcome, TraceContext};

/// Names an invocation on one link; chosen by the dispatcher, never reused on that link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvocationId(pub u64);

/// Dispatcher to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First frame on a link: what this worker is and which services its handlers may use.
    Start(Start),
    Invoke(Box<Invoke>),
    /// One call of a batch handler, which all of these name: each is an attempt of its own, with an outcome of its own. Sent
    /// only to a worker whose `Ready` names the handler among its batch handlers, so that an older one never sees it.
    InvokeBatch {
        invokes: Vec<Invoke>,
    },
    /// Stop this attempt: its right to run is lost, or its deadline has passed.
    Cancel {
        id: InvocationId,
    },
    /// No further `Invoke` follows. Finish what runs, flush, exit with 0.
    Drain,
}

/// Worker to dispatcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToDispatcher {
    /// The program is up: the names of the handlers that it registers, by kind.
    Ready {
        handlers: Vec<String>,
        /// Those that take several events in one call. A worker of before there were any leaves it out.
        #[serde(default)]
        batch_handlers: Vec<String>,
    },
    /// The program cannot start; it exits after this.
    StartFailed { message: String },
    Outcome {
        id: InvocationId,
        outcome: Outcome,
        /// Events that leave with the settle. Empty when the outcome is no success (and for `Committed`, whose
        /// transaction has written them already).
        #[serde(default)]
        emits: Vec<Event>,
        /// When the handler was entered: microseconds of the machine's monotonic clock, which all its processes share.
        /// Absent when no handler was.
        #[serde(default)]
        entered_us: Option<u64>,
    },
    /// Finished spans: one OTLP `ExportTraceServiceRequest` in protobuf, for the dispatcher to forward.
    Spans(Bytes),
}

/// What a worker learns at start. Its `Debug` form hides the addresses, which may carry passwords.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub function: FunctionName,
    /// Names this worker in logs and spans, such as `create-order-7`.
    pub worker: String,
    /// Where `ctx.transaction()` connects: `postgres://…` or `sqlite://path`. Nothing connects before it is used.
    pub ledger_url: String,
    /// Where `ctx.state()` connects: `redis://…` or `sqlite://path`.
    pub state_url: String,
    /// Prefix of every broker name and every state key of this installation.
    pub prefix: String,
    /// Whether finished spans are wanted.
    pub spans: bool,
    /// The largest result that a handler may return, in bytes of JSON.
    #[serde(default = "default_max_result_bytes")]
    pub max_result_bytes: u64,
    /// How long the program's warm-ups may take together, in milliseconds. 0: they are not wanted, the program is only
    /// asked what it registers. Absent: any time; the dispatcher has its own limit.
    #[serde(default)]
    pub warm_up_ms: Option<u64>,
}

/// The largest result where nothing else is said: 6 MiB, what AWS Lambda lets a function answer.
pub const DEFAULT_MAX_RESULT_BYTES: u64 = 6 << 20;

fn default_max_result_bytes() -> u64 {
    DEFAULT_MAX_RESULT_BYTES
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("function", &self.function).field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// One attempt to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invoke {
    pub id: InvocationId,
    pub handler: String,
    pub key: Key,
    pub fence: Fence,
    pub epoch: Epoch,
    pub attempt: Attempt,
    /// Time left until the deadline when the frame was written.
    pub remaining_ms: u64,
    /// How long a success is remembered; what the worker's own settle writes as the expiry.
    pub keep_ms: u64,
    pub event: Event,
    #[serde(default)]
    pub trace: Option<TraceContext>,
}

/// The longest body of a frame, without its length.
pub const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;

/// How deep a frame may nest: several times what ours do. The default of the decoder is more than a thread's stack holds.
const MAX_DEPTH: usize = 64;

/// Why a frame cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("a frame of {bytes} bytes is over the limit of 33554432")]
    TooLarge { bytes: usize },
    #[error("write the frame")]
    Encode(#[from] rmp_serde::encode::Error),
    /// Not MessagePack, or not what the two ends have agreed on. The link is of no use after this.
    #[error("read the frame")]
    Decode(#[from] rmp_serde::decode::Error),
}

/// Writes the body of a frame (the length in front of it is the link's).
///
/// # Errors
/// [`FrameError::TooLarge`]; [`FrameError::Encode`] cannot happen for the types of this module.
pub fn encode<T: Serialize>(frame: &T) -> Result<Bytes, FrameError> {
    let body = rmp_serde::to_vec_named(frame)?;
    if body.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge { bytes: body.len() });
    }
    Ok(body.into())
}

/// Reads the body of a frame. Fields that this version does not know are passed over.
///
/// # Errors
/// [`FrameError::TooLarge`] or [`FrameError::Decode`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge { bytes: body.len() });
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    reader.set_max_depth(MAX_DEPTH);
    Ok(T::deserialize(&mut reader)?)
}

#[cfg(test)]
mod tests;
