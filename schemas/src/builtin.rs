//! The platform's own events, published like any other so that functions can run on them. Their source is
//! [`SOURCE`], their data JSON; the JSON Schemas are in `schemas/json`.

use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DeadLetter, Digest, Event, Reason};

/// The source of every event that Weft itself makes, followed by the node's name.
pub const SOURCE: &str = "/weft/";

/// An event of the platform: what its type is, and what names one occurrence of it.
pub trait Builtin: Serialize {
    /// The event type.
    const TYPE: &'static str;

    /// What is the same each time the same occurrence is reported, so that reporting it twice is one event.
    fn occurrence(&self) -> String;

    /// The event as `node` publishes it.
    ///
    /// # Errors
    /// The payload cannot be written as JSON, which the types of this module cannot cause.
    fn to_event(&self, node: &str, time: Timestamp) -> Result<Event, serde_json::Error> {
        let id = Digest::of(&[Self::TYPE.as_bytes(), self.occurrence().as_bytes()]).to_hex();
        Ok(Event {
            id,
            source: format!("{SOURCE}{node}"),
            kind: Self::TYPE.to_owned(),
            subject: None,
            time: Some(time),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: std::collections::BTreeMap::new(),
            data: Bytes::from(serde_json::to_vec(self)?),
        })
    }
}

/// Data of `weft.function.unhealthy`: a function's workers fail to start, and its events wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionUnhealthy {
    pub function: String,
    /// The node whose workers fail.
    pub node: String,
    /// Starts that have failed in a row.
    pub failed_starts: u32,
    /// Why the last one failed.
    pub problem: String,
    /// When the first of them failed; RFC 3339, in UTC.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
}

impl Builtin for FunctionUnhealthy {
    const TYPE: &'static str = "weft.function.unhealthy";

    fn occurrence(&self) -> String {
        format!("{} {} {}", self.function, self.node, self.since)
    }
}

/// Data of `weft.deadletter.created`: an event was given up. It does not hold the event itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterCreated {
    /// The dead letter's id, for `weft dlq show`.
    pub id: String,
    pub function: String,
    /// Absent when the event died before its key was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub reason: Reason,
    pub error_type: String,
    pub error_message: String,
    /// Attempts made; 0 when the event was refused at admission.
    pub attempts: u32,
    /// RFC 3339, in UTC.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub first_at: Timestamp,
    /// RFC 3339, in UTC.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl Builtin for DeadLetterCreated {
    const TYPE: &'static str = "weft.deadletter.created";

    fn occurrence(&self) -> String {
        self.id.clone()
    }
}

impl From<&DeadLetter> for DeadLetterCreated {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            id: letter.id.to_string(),
            function: letter.function.to_string(),
            key: letter.key.as_ref().map(ToString::to_string),
            reason: letter.reason,
            error_type: letter.error.kind.clone(),
            error_message: letter.error.message.clone(),
            attempts: letter.attempts.0,
            first_at: letter.first_at,
            last_at: letter.last_at,
            trace_id: letter.trace_id.clone(),
        }
    }
}
