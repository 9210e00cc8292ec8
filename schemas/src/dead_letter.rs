//! A dead letter: an event that Weft gave up on, with its original message untouched and the reason.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Attempt, Digest, Epoch, ErrorInfo, FunctionName, HeaderValue, Key, Message, requeue};

/// Why an event was given up. The text form is what headers, SQL, metrics and the command line show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The message cannot be read as an event.
    Undecodable,
    /// The data does not satisfy the function's JSON Schema.
    Schema,
    /// The event has no id at all, or the function names a key by JSON Pointer and there is none there that is valid.
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
    /// Attempts kept killing their worker, or the broker's own delivery limit was reached.
    Crashed,
    /// The event is too many steps away from the one that began it: functions emit each other's triggers in a circle.
    Recursion,
    /// No function is bound to it.
    Unroutable,
}

impl Reason {
    /// Every reason, for tables and round-trip tests.
    pub const ALL: [Self; 12] = [
        Self::Undecodable,
        Self::Schema,
        Self::NoKey,
        Self::TooLarge,
        Self::TooOld,
        Self::Mismatch,
        Self::Terminal,
        Self::Exhausted,
        Self::TimedOut,
        Self::Crashed,
        Self::Recursion,
        Self::Unroutable,
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
            Self::Recursion => "recursion",
            Self::Unroutable => "unroutable",
        }
    }

    /// The stable code of the verdict: `docs/errors/CODE.md` says what happened and what to do.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Undecodable => "W0901",
            Self::Schema => "W0902",
            Self::NoKey => "W0903",
            Self::TooLarge => "W0904",
            Self::TooOld => "W0905",
            Self::Mismatch => "W0906",
            Self::Terminal => "W0907",
            Self::Exhausted => "W0908",
            Self::TimedOut => "W0909",
            Self::Crashed => "W0910",
            Self::Recursion => "W0911",
            Self::Unroutable => "W0912",
        }
    }

    /// Where the repository describes it: `docs/errors/CODE.md`.
    pub fn page(self) -> String {
        format!("docs/errors/{}.md", self.code())
    }

    /// The code of an attempt that failed and will be made again: no death, and no reason.
    pub const RETRY_CODE: &str = "W0913";

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
            b"invocation",
            function.as_str().as_bytes(),
            key.as_str().as_bytes(),
            &epoch.0.to_be_bytes(),
        ]))
    }

    /// The id for a message that never became an invocation: the same bytes, message id and reason are one dead letter,
    /// and another one after each redrive.
    pub fn of_message(function: &FunctionName, reason: Reason, message: &Message) -> Self {
        let (_, routing_key) = message.origin();
        Self::from_digest(Digest::of(&[
            b"message",
            function.as_str().as_bytes(),
            reason.as_str().as_bytes(),
            &requeue::epoch(message).0.to_be_bytes(),
            routing_key.as_bytes(),
            message.properties.message_id.as_deref().unwrap_or_default().as_bytes(),
            message
                .header("cloudEvents_id")
                .or_else(|| message.header("cloudEvents:id"))
                .unwrap_or_default()
                .as_bytes(),
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

/// Why a message is no dead letter of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the dead letter: header {header} {problem}")]
pub struct NoDeadLetter {
    header: &'static str,
    problem: &'static str,
}

impl DeadLetter {
    /// The copy for the dead-letter queue: the original message with `weft-*` headers that tell what became of it,
    /// addressed to `<prefix>.dlq.<function>` by the default exchange.
    ///
    /// The body, the other headers and the properties stay as they were, but for what the broker would act upon:
    /// its own headers are dropped, and `expiration` (the copy would be thrown away when it passes) and `user_id` (the
    /// broker closes the channel of anybody but that user) are kept as headers.
    pub fn to_message(&self, prefix: &str) -> Message {
        let mut message = requeue::requeued(&self.message, format!("{prefix}.dlq.{}", self.function));
        message.headers.append(&mut self.headers());
        message
    }

    /// The headers of ours on a dead letter, apart from those that every requeued message has.
    fn headers(&self) -> BTreeMap<String, HeaderValue> {
        let text = |value: &str| Some(HeaderValue::from(value));
        let number = |value: u32| Some(HeaderValue::I64(value.into()));
        [
            (header::ID, text(&self.id.0)),
            (header::FUNCTION, text(self.function.as_str())),
            (header::KEY, self.key.as_ref().and_then(|key| text(key.as_str()))),
            (header::EPOCH, number(self.epoch.0)),
            (header::REASON, text(self.reason.as_str())),
            (header::CODE, text(self.reason.code())),
            (header::ERROR_TYPE, text(&self.error.kind)),
            (header::ERROR_MESSAGE, text(&self.error.message)),
            (header::ATTEMPTS, number(self.attempts.0)),
            (header::FIRST_AT, text(&self.first_at.to_string())),
            (header::LAST_AT, text(&self.last_at.to_string())),
            (header::TRACE_ID, self.trace_id.as_deref().and_then(text)),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
        .collect()
    }

    /// Reads a dead letter from its queue. Its message is the original one, where it was first published to.
    ///
    /// # Errors
    /// A header of ours is missing or cannot be read: the message was not written by [`Self::to_message`].
    pub fn from_message(message: &Message) -> Result<Self, NoDeadLetter> {
        let text = |header| message.header(header).ok_or(NoDeadLetter { header, problem: "is missing" });
        let number = |header| {
            let value = message.headers.get(header).and_then(HeaderValue::as_i64);
            value.and_then(|value| u32::try_from(value).ok()).ok_or(NoDeadLetter { header, problem: "is no count" })
        };
        let time = |header| text(header)?.parse().map_err(|_| NoDeadLetter { header, problem: "is no time" });
        let key = message.header(header::KEY).map(Key::new).transpose();
        Ok(Self {
            id: DeadLetterId(text(header::ID)?.to_owned()),
            function: FunctionName::new(text(header::FUNCTION)?)
                .map_err(|_| NoDeadLetter { header: header::FUNCTION, problem: "is no function name" })?,
            key: key.map_err(|_| NoDeadLetter { header: header::KEY, problem: "is no key" })?,
            epoch: Epoch(number(header::EPOCH)?),
            reason: Reason::parse(text(header::REASON)?)
                .ok_or(NoDeadLetter { header: header::REASON, problem: "is no reason that is known" })?,
            error: ErrorInfo::new(text(header::ERROR_TYPE)?, text(header::ERROR_MESSAGE)?),
            attempts: Attempt(number(header::ATTEMPTS)?),
            first_at: time(header::FIRST_AT)?,
            last_at: time(header::LAST_AT)?,
            trace_id: message.header(header::TRACE_ID).map(str::to_owned),
            message: requeue::original(message),
        })
    }
}

/// The headers of a dead letter.
pub mod header {
    pub const ID: &str = "weft-id";
    pub const FUNCTION: &str = crate::requeue::FUNCTION_HEADER;
    /// Absent when the event died before its key was known.
    pub const KEY: &str = "weft-key";
    pub const EPOCH: &str = crate::requeue::EPOCH_HEADER;
    /// One of [`super::Reason`].
    pub const REASON: &str = "weft-reason";
    /// The reason's stable code, which has a page: see [`super::Reason::code`].
    pub const CODE: &str = "weft-code";
    pub const ERROR_TYPE: &str = "weft-error-type";
    pub const ERROR_MESSAGE: &str = "weft-error-message";
    pub const ATTEMPTS: &str = "weft-attempts";
    /// RFC 3339, in UTC.
    pub const FIRST_AT: &str = "weft-first-at";
    /// RFC 3339, in UTC.
    pub const LAST_AT: &str = "weft-last-at";
    /// 32 hexadecimal digits; absent when the event was not traced.
    pub const TRACE_ID: &str = "weft-trace-id";
}

#[cfg(test)]
mod tests;
