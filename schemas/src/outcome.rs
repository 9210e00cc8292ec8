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
    /// Builds an error, cutting both texts to their limits. A NUL becomes U+FFFD.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        fn cut(mut text: String, max: usize) -> String {
            // No text of a database, nor a header, can hold it.
            if text.contains('\0') {
                text = text.replace('\0', "\u{fffd}");
            }
            if text.len() > max {
                let end = text.floor_char_boundary(max);
                text.truncate(end);
            }
            text
        }
        Self { kind: cut(kind.into(), 256), message: cut(message.into(), 8 * 1024) }
    }

    /// Names what went wrong without the particulars: errors that differ in numbers, quoted texts, identifiers and
    /// other words that hold a digit have one fingerprint. 16 hexadecimal digits; stable over versions of Weft, since
    /// it is stored.
    ///
    /// ```
    /// use weft_schemas::ErrorInfo;
    /// let one = ErrorInfo::new("Timeout", "no answer from \"db-1\" within 30 ms");
    /// let other = ErrorInfo::new("Timeout", "no answer from \"db-2\" within 1500 ms");
    /// assert_eq!(one.fingerprint(), other.fingerprint());
    /// assert_ne!(one.fingerprint(), ErrorInfo::new("Refused", "no answer").fingerprint());
    /// ```
    pub fn fingerprint(&self) -> String {
        let shape = shape(&self.message);
        let digest = crate::Digest::of(&[b"error", self.kind.as_bytes(), shape.as_bytes()]);
        digest.to_hex().split_at(16).0.to_owned()
    }
}

/// A message with its particulars taken out: quoted texts become `""`, words that hold a digit become `#`. Only the first
/// line counts: what follows is mostly a stack.
fn shape(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut shape = String::new();
    for (n, part) in line.split(['"', '`']).enumerate() {
        if n % 2 == 1 {
            shape.push_str("\"\"");
            continue;
        }
        for word in part.split_inclusive(|c: char| c.is_whitespace() || ",;:()[]{}<>=".contains(c)) {
            if word.chars().any(|c| c.is_ascii_digit()) {
                shape.push('#');
                shape.extend(word.chars().last().filter(|c| !c.is_alphanumeric()));
            } else {
                shape.push_str(word);
            }
        }
    }
    shape
}

/// How an attempt ended. The first five come from a handler; the rest from Weft itself.
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
    /// A service of Weft's that the handler asked for, the ledger or the state, could not be used: not the handler's doing,
    /// so the attempt does not count. To be tried again, after at least `after_ms` when given.
    Outage { error: ErrorInfo, after_ms: Option<u64> },
    /// The deadline passed before the handler answered.
    TimedOut,
    /// The worker went away with the attempt in it.
    Crashed { error: ErrorInfo },
    /// The right to run was lost (a newer claim holds the invocation); nothing is written.
    Superseded,
    /// Handed back before or during a stop of ours; costs no attempt.
    Drained,
}

impl Outcome {
    /// Whether the attempt itself went wrong; what Weft cut short or handed back did not.
    pub const fn is_error(&self) -> bool {
        match self {
            Self::Retry { .. } | Self::Failed { .. } | Self::TimedOut | Self::Crashed { .. } => true,
            Self::Succeeded { .. }
            | Self::Committed { .. }
            | Self::Superseded
            | Self::Drained
            | Self::Outage { .. } => false,
        }
    }
}
