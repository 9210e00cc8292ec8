//! The file of orders: how its lines are read, written and turned into messages. `data/README.md` describes the format
//! to people.
//!
//! A line is kept as the text that it is, so that what is published is, byte for byte, what stands in the file.

mod catalogue;
mod generate;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use weft_schemas::{HeaderValue, Message, Properties};

pub use catalogue::{Account, accounts, counter_names};
pub use generate::{GenerateError, MIN_COUNT, generate};

/// The seed of the committed file.
pub const SEED: u64 = 2026;
/// The number of lines of the committed file.
pub const COUNT: usize = 300;

/// The committed file, `data/orders.ndjson`.
pub const FILE: &str = include_str!("../data/orders.ndjson");

/// One line: one message to publish.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A CloudEvent in its JSON form, published as it stands (structured mode). Recognised by its `specversion`.
    Event(EventLine),
    /// Anything else: a message described by its parts.
    Message(Box<MessageLine>),
}

/// The text of a CloudEvent, and what publishing needs of it.
#[derive(Debug, Clone)]
pub struct EventLine {
    text: String,
    kind: String,
    id: Option<String>,
    data: Option<Box<RawValue>>,
}

/// A message described by its parts. Unknown fields are refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageLine {
    /// For people; never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub mode: Mode,
    /// The exchange; default: that of the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// Event type and routing key.
    #[serde(rename = "type")]
    pub kind: String,
    /// Event id; also the message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// CloudEvents source; ignored in plain mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// CloudEvents time, RFC 3339; ignored in plain mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Further headers, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The data, JSON. Exactly one of `data` and `raw` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// The whole body, whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// How an event is written into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// CloudEvents binary mode: attributes in headers, data in the body.
    Binary,
    /// CloudEvents structured mode: the whole event in the body.
    Structured,
    /// Plain JSON: data in the body, the id in the message id, the type in the routing key.
    Plain,
}

/// A line that cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It is no JSON object, lacks a field or has one that is not known.
    #[error("read line {line}")]
    Json {
        /// From 1.
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    /// It has both `data` and `raw`, or neither.
    #[error("read line {line}: it needs either data or raw")]
    Body { line: usize },
}

impl Entry {
    /// Reads one line; `line` is its number, from 1, for the error.
    ///
    /// # Errors
    /// The line is no JSON object of either form.
    pub fn parse(text: &str, line: usize) -> Result<Self, EntryError> {
        #[derive(Deserialize)]
        struct Head {
            specversion: Option<serde::de::IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Event {
            #[serde(rename = "type")]
            kind: String,
            id: Option<String>,
            data: Option<Box<RawValue>>,
        }
        let json = |source| EntryError::Json { line, source };
        let text = text.trim();
        let head: Head = serde_json::from_str(text).map_err(json)?;
        if head.specversion.is_some() {
            let Event { kind, id, data } = serde_json::from_str(text).map_err(json)?;
            return Ok(Self::Event(EventLine { text: text.to_owned(), kind, id, data }));
        }
        let message: MessageLine = serde_json::from_str(text).map_err(json)?;
        if message.data.is_some() == message.raw.is_some() {
            return Err(EntryError::Body { line });
        }
        Ok(Self::Message(Box::new(message)))
    }

    /// The line as it stands in the file, without a line end.
    ///
    /// # Errors
    /// Never for an entry that was parsed or generated.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Event(event) => Ok(event.text.clone()),
            Self::Message(message) => serde_json::to_string(message),
        }
    }

    /// The text of the event's data, or `None` when the body is not described by its data.
    pub fn data(&self) -> Option<&str> {
        match self {
            Self::Event(event) => event.data.as_deref().map(RawValue::get),
            Self::Message(message) => message.data.as_deref().map(RawValue::get),
        }
    }

    /// The event's id, if it has one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Event(event) => event.id.as_deref(),
            Self::Message(message) => message.id.as_deref(),
        }
    }

    /// The event type, which is also the routing key.
    pub fn kind(&self) -> &str {
        match self {
            Self::Event(event) => &event.kind,
            Self::Message(message) => &message.kind,
        }
    }

    /// How it is written into a message.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Event(_) => Mode::Structured,
            Self::Message(message) => message.mode,
        }
    }

    /// The message to publish. `events_exchange` is where it goes unless the line names an exchange.
    pub fn to_message(&self, events_exchange: &str) -> Message {
        match self {
            Self::Event(event) => Message {
                exchange: events_exchange.to_owned(),
                routing_key: event.kind.clone(),
                properties: properties(STRUCTURED, event.id.as_ref()),
                headers: BTreeMap::new(),
                body: event.text.clone().into_bytes().into(),
            },
            Self::Message(message) => message.to_message(events_exchange),
        }
    }
}

impl MessageLine {
    fn to_message(&self, events_exchange: &str) -> Message {
        let data = self.data.as_deref().map_or("null", RawValue::get);
        let mut headers: BTreeMap<String, HeaderValue> =
            self.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let (content_type, body) = match self.mode {
            Mode::Plain => (JSON, data.to_owned()),
            Mode::Structured => (STRUCTURED, self.structured(data)),
            Mode::Binary => {
                let attributes =
                    [("specversion", Some("1.0")), ("type", Some(self.kind.as_str())), ("id", self.id.as_deref())];
                let optional = [("source", self.source.as_deref()), ("time", self.time.as_deref())];
                for (name, value) in attributes.into_iter().chain(optional) {
                    if let Some(value) = value {
                        headers.insert(format!("cloudEvents_{name}"), value.into());
                    }
                }
                (JSON, data.to_owned())
            }
        };
        Message {
            exchange: self.exchange.clone().unwrap_or_else(|| events_exchange.to_owned()),
            routing_key: self.kind.clone(),
            properties: properties(content_type, self.id.as_ref()),
            headers,
            body: self.raw.clone().unwrap_or(body).into_bytes().into(),
        }
    }

    /// The event in structured form around the text of its data.
    fn structured(&self, data: &str) -> String {
        let mut text = String::from(r#"{"specversion":"1.0""#);
        for (name, value) in [
            ("id", self.id.as_deref()),
            ("source", self.source.as_deref()),
            ("type", Some(self.kind.as_str())),
            ("time", self.time.as_deref()),
        ] {
            if let Some(value) = value {
                text.push_str(&format!(r#","{name}":{}"#, serde_json::Value::from(value)));
            }
        }
        text.push_str(r#","datacontenttype":"application/json","data":"#);
        text.push_str(data);
        text.push('}');
        text
    }
}

const JSON: &str = "application/json";
const STRUCTURED: &str = "application/cloudevents+json";

fn properties(content_type: &str, id: Option<&String>) -> Properties {
    Properties {
        content_type: Some(content_type.to_owned()),
        delivery_mode: Some(2),
        message_id: id.cloned(),
        ..Properties::default()
    }
}

/// Reads a file of lines; empty lines are skipped.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Entry>, EntryError> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| Entry::parse(line, index + 1))
        .collect()
}

/// The committed orders.
///
/// # Errors
/// Never, as a test holds; the type is that of [`parse`].
pub fn committed() -> Result<Vec<Entry>, EntryError> {
    parse(FILE)
}

/// Writes entries as a file: one line each.
///
/// # Errors
/// Never for entries that were parsed or generated.
pub fn to_text(entries: &[Entry]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for entry in entries {
        text.push_str(&entry.to_line()?);
        text.push('\n');
    }
    Ok(text)
}
