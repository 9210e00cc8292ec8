//! Between Rust values and what both databases store: MessagePack with named fields, microseconds, text forms.

use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_schemas::{Attempt, Digest, Epoch, ErrorInfo, FunctionName, Key, Reason};

use crate::{Error, FailedAttempt, OutboxKind, State};

/// A thousand years: longer is stored as this, so that adding it to a time of today overflows in no database.
const LONGEST_MICROS: i64 = 1000 * 365 * 24 * 3600 * 1_000_000;

/// Whole microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(LONGEST_MICROS).min(LONGEST_MICROS)
}

/// A duration from microseconds; negative ones are zero.
pub(crate) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(crate) fn timestamp(micros: i64) -> Result<Timestamp, Error> {
    Timestamp::from_microsecond(micros).map_err(|_| corrupt("a time is out of range"))
}

pub(crate) fn corrupt(what: impl Into<String>) -> Error {
    Error::Corrupt { what: what.into() }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec_named(value)
        .map_err(|source| Error::Statement { doing: "encode a value for the ledger", source: Box::new(source) })
}

/// Reads what [`encode`] wrote. `what` names the value in the error.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(bytes).map_err(|error| corrupt(format!("{what} cannot be decoded: {error}")))
}

pub(crate) fn count(what: &str, number: impl TryInto<u32>) -> Result<u32, Error> {
    number.try_into().map_err(|_| corrupt(format!("{what} is out of range")))
}

pub(crate) fn function(text: &str) -> Result<FunctionName, Error> {
    FunctionName::new(text).map_err(|error| corrupt(error.to_string()))
}

pub(crate) fn key(text: &str) -> Result<Key, Error> {
    Key::new(text).map_err(|error| corrupt(error.to_string()))
}

pub(crate) fn digest_matches(stored: &[u8], digest: &Digest) -> bool {
    stored == digest.0.as_slice()
}

pub(crate) fn state(text: &str) -> Result<State, Error> {
    State::parse(text).ok_or_else(|| corrupt(format!("state {text:?} is unknown")))
}

pub(crate) fn reason(text: &str) -> Result<Reason, Error> {
    Reason::parse(text).ok_or_else(|| corrupt(format!("reason {text:?} is unknown")))
}

/// The failed attempts of an invocation, which both databases keep as a JSON array.
pub(crate) fn failures(json: Option<&str>) -> Result<Vec<FailedAttempt>, Error> {
    #[derive(Deserialize)]
    struct Entry {
        epoch: u32,
        attempt: u32,
        crashed: bool,
        kind: String,
        message: String,
        ended_us: i64,
        node: Option<String>,
    }
    let Some(json) = json else { return Ok(Vec::new()) };
    let entries: Vec<Entry> = serde_json::from_str(json)
        .map_err(|error| corrupt(format!("an invocation's failed attempts cannot be read: {error}")))?;
    let read = |entry: Entry| {
        Ok(FailedAttempt {
            epoch: Epoch(entry.epoch),
            attempt: Attempt(entry.attempt),
            crashed: entry.crashed,
            error: ErrorInfo { kind: entry.kind, message: entry.message },
            ended_at: timestamp(entry.ended_us)?,
            node: entry.node,
        })
    };
    entries.into_iter().map(read).collect()
}

pub(crate) fn error_info(kind: Option<String>, message: Option<String>) -> Option<ErrorInfo> {
    kind.map(|kind| ErrorInfo { kind, message: message.unwrap_or_default() })
}

/// 0 means the default of 100.
pub(crate) fn limit(limit: u32) -> i64 {
    if limit == 0 { 100 } else { i64::from(limit) }
}

impl OutboxKind {
    /// Every kind, for tables.
    pub const ALL: [Self; 5] = [Self::Retry, Self::DeadLetter, Self::Emit, Self::Reply, Self::Redrive];

    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
            Self::Emit => "emit",
            Self::Reply => "reply",
            Self::Redrive => "redrive",
        }
    }

    pub(crate) fn read(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| corrupt(format!("outbox kind {text:?} is unknown")))
    }
}
