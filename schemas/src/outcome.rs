//! What an attempt came to: a closed set.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A handler's error in any language. Never holds a secret of ours; the text is the handler's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// The error's type or class, such as `InsufficientFunds`. At most 256 bytes; longer is cut.
    pub kind: String,
    /// At most 8 KiB; longer is cut at a character boundary.
    pub message: String,
}

impl ErrorInfo {
    /// Builds an error, cutting both texts to their limits.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        fn cut(mut text: String, max: usize) -> String {
            if text.len() > max {
                let end = text.floor_char_boundary(max);
                text.truncate(end);
            }
            text
        }
        Self { kind: cut(kind.into(), 256), message: cut(message.into(), 8 * 1024) }
    }
}

/// How an attempt ended. The first four come from a handler; the rest from Weft itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done. The result is JSON and is what a duplicate of the event is answered with, byte for byte.
    Succeeded { result: Bytes },
    /// The handler's own transaction has already settled the invocation.
    Committed { result: Bytes },
    /// Try again, after at least `after_ms` when given.
    Retry { error: ErrorInfo, after_ms: Option<u64> },
    /// Never try again.
    Failed { error: ErrorInfo },
    /// The deadline passed before the handler answered.
    TimedOut,
    /// The worker went away with the attempt in it.
    Crashed { error: ErrorInfo },
    /// The right to run was lost (a newer claim holds the invocation); nothing is written.
    Superseded,
    /// Handed back before or during a stop of ours; costs no attempt.
    Drained,
}
