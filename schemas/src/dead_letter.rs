//! A dead letter: an event that Weft gave up on, with its original message untouched and the reason.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Attempt, Digest, Epoch, ErrorInfo, FunctionName, Key, Message};

/// Why an event was given up. The text form is what headers, SQL, metrics and the command line show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The message cannot be read as an event.
    Undecodable,
    /// The data does not satisfy the function's JSON Schema.
    Schema,
    /// The function names a key by JSON Pointer and the event has none there, or one that is no valid key.
    NoKey,
    /// The message is larger than the function accepts.
    TooLarge,
    /// The event was older than the function's `max_age`.
    TooOld,
    /// The key is known with another payload.
    Mismatch,
    /// The handler said that trying again is pointless.
    Terminal,
    /// Every attempt that the policy allows failed.
    Exhausted,
    /// The last allowed attempt ran into the timeout.
    TimedOut,
    /// Attempts kept killing their worker.
    Crashed,
}

impl Reason {
    /// Every reason, for tables and round-trip tests.
    pub const ALL: [Self; 10] = [
        Self::Undecodable, Self::Schema, Self::NoKey, Self::TooLarge, Self::TooOld,
        Self::Mismatch, Self::Terminal, Self::Exhausted, Self::TimedOut, Self::Crashed,
    ];

    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Schema => "schema",
            Self::NoKey => "no_key",
            Self::TooLarge => "too_large",
            Self::TooOld => "too_old",
            Self::Mismatch => "mismatch",
            Self::Terminal => "terminal",
            Self::Exhausted => "exhausted",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
        }
    }

    /// Reads the text form back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a dead letter. Derived from what died, so that burying the same thing twice is one dead letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeadLetterId(pub String);

impl DeadLetterId {
    /// The id for an invocation that died in an epoch.
    pub fn of_invocation(function: &FunctionName, key: &Key, epoch: Epoch) -> Self {
        Self::from_digest(Digest::of(&[
            b"invocation", function.as_str().as_bytes(), key.as_str().as_bytes(), &epoch.0.to_be_bytes(),
        ]))
    }

    /// The id for a message that never became an invocation: the same bytes, message id and reason are one dead letter.
    pub fn of_message(function: &FunctionName, reason: Reason, message: &Message) -> Self {
        Self::from_digest(Digest::of(&[
            b"message",
            function.as_str().as_bytes(),
            reason.as_str().as_bytes(),
            message.routing_key.as_bytes(),
            message.properties.message_id.as_deref().unwrap_or_default().as_bytes(),
            message.header("cloudEvents_id").or_else(|| message.header("cloudEvents:id")).unwrap_or_default().as_bytes(),
            &message.body,
        ]))
    }

    fn from_digest(digest: Digest) -> Self {
        Self(digest.to_hex().split_at(32).0.to_owned())
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the ledger keeps and the dead-letter queue carries about an event that was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub function: FunctionName,
    /// Absent when the event died before its key was known.
    pub key: Option<Key>,
    pub epoch: Epoch,
    pub reason: Reason,
    pub error: ErrorInfo,
    /// Attempts made; 0 when the event was refused at admission.
    pub attempts: Attempt,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub trace_id: Option<String>,
    /// The original message, as it arrived.
    pub message: Message,
}
