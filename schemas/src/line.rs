//! A line of a file of messages to publish: NDJSON, one message to a line.
//!
//! A line with `specversion` is a CloudEvent in its JSON form and is published as it stands, in structured mode. Any other
//! line describes a message by its parts, so that every wire form, and what is no event at all, can be written down. The
//! text of a line is kept, so that what is published is, byte for byte, what stands in the file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{HeaderValue, Message, Properties};

/// One message to publish.
#[derive(Debug, Clone)]
pub enum Line {
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
    /// The queue that wants the answer: with it the message is a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// What the answer names, so that the asker knows what it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
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
pub enum LineError {
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

impl Line {
    /// Reads one line; `line` is its number, from 1, for the error.
    ///
    /// # Errors
    /// The line is no JSON object of either form.
    pub fn parse(text: &str, line: usize) -> Result<Self, LineError> {
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
        let json = |source| LineError::Json { line, source };
        let text = text.trim();
        let head: Head = serde_json::from_str(text).map_err(json)?;
        if head.specversion.is_some() {
            let Event { kind, id, data } = serde_json::from_str(text).map_err(json)?;
            return Ok(Self::Event(EventLine { text: text.to_owned(), kind, id, data }));
        }
        let message: MessageLine = serde_json::from_str(text).map_err(json)?;
        if message.data.is_some() == message.raw.is_some() {
            return Err(LineError::Body { line });
        }
        Ok(Self::Message(Box::new(message)))
    }

    /// The line as it stands in the file, without a line end.
    ///
    /// # Errors
    /// Never for a line that was parsed.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
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
            properties: Properties {
                reply_to: self.reply_to.clone(),
                correlation_id: self.correlation_id.clone(),
                ..properties(content_type, self.id.as_ref())
            },
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Event;

    #[test]
    fn the_three_modes_carry_the_same_event() {
        let line = |mode: &str| {
            let text = format!(r#"{{"mode":"{mode}","type":"t.u","id":"1","source":"/s","data":{{"a":"ä"}}}}"#);
            Event::decode(&Line::parse(&text, 1).unwrap().to_message("x")).unwrap()
        };
        let (binary, structured, plain) = (line("binary"), line("structured"), line("plain"));
        assert_eq!(binary, structured);
        assert_eq!((plain.id.as_str(), plain.kind.as_str(), &plain.data), ("1", "t.u", &binary.data));
        assert_eq!(plain.digest(), binary.digest());
    }

    #[test]
    fn a_cloud_event_is_published_as_it_stands() {
        let text = r#"{ "specversion":"1.0","id":"1","source":"/s","type":"t.u", "data":{"a" : 1.50}}"#;
        let line = Line::parse(&format!("  {text}\r\n"), 1).unwrap();
        let message = line.to_message("x");
        assert_eq!((&message.body[..], message.routing_key.as_str()), (text.as_bytes(), "t.u"));
        assert_eq!(
            (line.id(), line.data(), line.to_text().unwrap().as_str()),
            (Some("1"), Some(r#"{"a" : 1.50}"#), text)
        );
        assert_eq!(Event::decode(&message).unwrap().data, r#"{"a" : 1.50}"#);
    }

    #[test]
    fn a_raw_body_is_sent_as_it_is() {
        let line = r#"{"mode":"plain","type":"t","exchange":"e","headers":{"a":"b"},"raw":"no JSON \u2713"}"#;
        let message = Line::parse(line, 1).unwrap().to_message("x");
        assert_eq!((&message.body[..], message.exchange.as_str()), ("no JSON ✓".as_bytes(), "e"));
        assert_eq!((message.header("a"), &message.properties.message_id), (Some("b"), &None));
    }

    #[test]
    fn a_request_says_who_wants_its_answer_and_as_what() {
        let line = r#"{"mode":"plain","type":"t","id":"1","reply_to":"mine","correlation_id":"c","data":1}"#;
        let line = Line::parse(line, 1).unwrap();
        let properties = line.to_message("x").properties;
        assert_eq!((properties.reply_to.as_deref(), properties.correlation_id.as_deref()), (Some("mine"), Some("c")));
        assert!(line.to_text().unwrap().contains(r#""reply_to":"mine","correlation_id":"c""#));
    }

    #[test]
    fn a_line_that_says_too_much_or_too_little_is_refused() {
        for line in [
            "",
            "[]",
            r#"{"mode":"plain","type":"t"}"#,
            r#"{"mode":"plain","type":"t","data":1,"raw":"x"}"#,
            r#"{"mode":"plain","type":"t","data":1,"date":"x"}"#,
            r#"{"mode":"odd","type":"t","data":1}"#,
            r#"{"specversion":"1.0","id":"1"}"#,
        ] {
            assert!(Line::parse(line, 1).is_err(), "{line}");
        }
    }
}
