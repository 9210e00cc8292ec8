//! An event: a CloudEvent 1.0 (<https://github.com/cloudevents/spec>), and how it is read from and written to a message.
//!
//! Three forms are read: binary mode (attributes in headers), structured mode (one JSON document) and plain JSON with a
//! `message_id`. Binary mode is written. This module judges the envelope only: whether the data satisfies a function's
//! schema is for admission to say.

mod canonical;
mod decode;
mod structured;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::NameError;
use crate::{Digest, HeaderValue, Key, Message, Properties, TraceContext, topic};

/// The version of CloudEvents that is spoken.
pub const SPEC_VERSION: &str = "1.0";
/// The prefix of attribute headers that is written. `cloudEvents:` is read too.
pub const HEADER_PREFIX: &str = "cloudEvents_";
/// The longest extension name, in bytes. With its prefix it is a header name, which AMQP limits to 255.
pub const MAX_EXTENSION_NAME_BYTES: usize = 128;

/// The extension that says how many steps an emitted event is away from the one that began it; absent on that one.
pub const DEPTH_EXTENSION: &str = "weftdepth";

/// Longest text of an AMQP property ("short string").
const MAX_SHORT_BYTES: usize = 255;
/// Attributes that are no extensions, and the members of the JSON form that are no attributes.
const RESERVED: [&str; 10] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64"];
/// In front of what is hashed, so that a later way to hash can never be taken for this one.
const DIGEST_VERSION: u8 = 1;

/// A CloudEvent 1.0. `data` is kept as the bytes that arrived; `datacontenttype` says what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: String,
    /// A URI reference.
    pub source: String,
    /// The event type, dotted; also its routing key.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataschema: Option<String>,
    /// Extension attributes by name, as text (CloudEvents' canonical string form).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    #[serde(default)]
    pub data: Bytes,
}

/// Why a message is no event. The texts name attributes and headers, never the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither a CloudEvents id nor a `message_id`: without one, a duplicate cannot be told from a new event.
    #[error("find the event's id: the message has neither a CloudEvents id nor a message_id")]
    NoId,
    /// Anything else; `what` says what is wrong with it.
    #[error("read the event: {what}")]
    Undecodable { what: String },
}

impl DecodeError {
    fn because(what: impl Into<String>) -> Self {
        Self::Undecodable { what: what.into() }
    }
}

impl Event {
    /// Reads an event from a message: structured mode when the content type says so, else binary mode when any
    /// CloudEvents header is there, else plain JSON (type = routing key, source = `/` and the exchange, id =
    /// `message_id`, time = the timestamp property). Requeued messages are read by where they were first published to.
    ///
    /// A missing CloudEvents id is taken from `message_id`. What is returned satisfies [`Self::check`], and its data is
    /// JSON of bounded depth when it says that it is JSON.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(message: &Message) -> Result<Self, DecodeError> {
        decode::decode(message)
    }

    /// Reads CloudEvents' JSON form. Data keeps the bytes that it has in the document.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn from_structured_json(document: &[u8]) -> Result<Self, DecodeError> {
        structured::read(document, None)
    }

    /// Writes CloudEvents' JSON form. Data is embedded when `datacontenttype` is JSON or absent and the bytes are JSON
    /// (white space around them is dropped), else it stands as `data_base64`. Empty data is left out.
    pub fn to_structured_json(&self) -> Vec<u8> {
        structured::write(self)
    }

    /// Writes binary mode, persistent, with `message_id` = id (when it fits AMQP's 255 bytes; the header always has it).
    pub fn to_message(&self, exchange: &str, routing_key: &str) -> Message {
        let mut message = Message {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            properties: Properties {
                content_type: self.datacontenttype.clone(),
                delivery_mode: Some(2),
                message_id: (self.id.len() <= MAX_SHORT_BYTES).then(|| self.id.clone()),
                ..Properties::default()
            },
            headers: BTreeMap::new(),
            body: self.data.clone(),
        };
        let mut put = |name: &str, value: &str| {
            message.headers.insert(format!("{HEADER_PREFIX}{name}"), HeaderValue::from(value));
        };
        put("specversion", SPEC_VERSION);
        for (name, value) in self.attributes() {
            // The content type property carries this one; the AMQP binding knows no header for it.
            if name != "datacontenttype" {
                put(name, &value);
            }
        }
        message
    }

    /// Says whether every wire form can carry this event: id, source and type present, type at most 255 bytes, names of
    /// extensions lower-case letters and digits, no control characters, no CloudEvent as data.
    ///
    /// # Errors
    /// [`DecodeError::NoId`] for an empty id, else [`DecodeError::Undecodable`].
    pub fn check(&self) -> Result<(), DecodeError> {
        let bad = |what: String| Err(DecodeError::Undecodable { what });
        if self.source.is_empty() {
            return bad("attribute source is missing".into());
        }
        if let Err(problem) = topic::check_type(&self.kind) {
            return bad(problem.to_string());
        }
        for (name, value) in self.attributes() {
            if value.is_empty() && RESERVED.contains(&name) && name != "id" {
                return bad(format!("attribute {name} is empty"));
            }
            if value.chars().any(char::is_control) {
                return bad(format!("attribute {name} holds a control character"));
            }
        }
        for name in self.extensions.keys() {
            check_extension_name(name)?;
        }
        if let Some(content_type) = &self.datacontenttype {
            if content_type.len() > MAX_SHORT_BYTES {
                return bad("attribute datacontenttype is longer than 255 bytes".into());
            }
            if decode::is_cloudevents(content_type) {
                return bad("the data says that it is a CloudEvent itself".into());
            }
        }
        if self.id.is_empty() {
            return Err(DecodeError::NoId);
        }
        Ok(())
    }

    /// The value at a JSON Pointer (RFC 6901) into the structured form, as text for a key: a string as it is, an integer
    /// of at most 64 bits in decimal, a boolean as `true` or `false`. `None` for anything else and for what is not there.
    pub fn pointer(&self, json_pointer: &str) -> Option<String> {
        let path = json_pointer.strip_prefix('/')?;
        let (first, rest) = match path.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        let first = first.replace("~1", "/").replace("~0", "~");
        if first == "data" {
            let data = self.data_json()?;
            return scalar_text(match rest {
                Some(rest) => data.pointer(&format!("/{rest}"))?,
                None => &data,
            });
        }
        if rest.is_some() {
            return None;
        }
        match first.as_str() {
            "specversion" => Some(SPEC_VERSION.to_owned()),
            "data_base64" if !self.data.is_empty() && self.data_json().is_none() => Some(BASE64.encode(&self.data)),
            name => self.attributes().find(|(known, _)| *known == name).map(|(_, value)| value.into_owned()),
        }
    }

    /// The key of an event whose function names none: source and id, or their hash when they are too long or not
    /// unambiguous side by side.
    ///
    /// # Errors
    /// The id or the source is empty.
    pub fn default_key(&self) -> Result<Key, NameError> {
        if self.id.is_empty() || self.source.is_empty() {
            return Key::new("");
        }
        let plain = self.source.len() + 1 + self.id.len() <= Key::MAX_BYTES
            && !self.source.contains([' ', '\0'])
            && !self.id.contains('\0');
        if plain {
            // The first space ends the source, so no two pairs share a key.
            return Key::new(format!("{} {}", self.source, self.id));
        }
        // Holds no space, so it is never taken for a plain pair.
        Key::new(format!("sha256:{}", Digest::of(&[self.source.as_bytes(), self.id.as_bytes()]).to_hex()))
    }

    /// The fingerprint of what the event says: type, datacontenttype and data. JSON data counts in canonical form (keys
    /// sorted, no white space, numbers as `serde_json` prints them), so that a duplicate that was written anew has the
    /// same digest. Id, source, time, subject, extensions and trace do not count. Of an HTTP request method, path, query
    /// and body count.
    pub fn digest(&self) -> Digest {
        let (content_type, data) = match self.data_json() {
            Some(value) => {
                let content_type = self.datacontenttype.as_deref().unwrap_or("application/json");
                let value = crate::request::identity(self, &value).unwrap_or(value);
                (media_type(content_type).to_ascii_lowercase(), Bytes::from(canonical::to_vec(&value)))
            }
            None => (self.datacontenttype.clone().unwrap_or_default(), self.data.clone()),
        };
        Digest::of(&[&[DIGEST_VERSION], self.kind.as_bytes(), content_type.as_bytes(), &data])
    }

    /// The data as JSON, or `None` when it says that it is something else, or is not JSON.
    pub fn data_json(&self) -> Option<Value> {
        self.data_may_be_json().then(|| serde_json::from_slice(&self.data).ok()).flatten()
    }

    /// The trace context that the event itself carries (CloudEvents' distributed-tracing extension): that of its making.
    /// The way that it took is in [`Message::trace_context`].
    pub fn trace_context(&self) -> Option<TraceContext> {
        let traceparent = self.extensions.get("traceparent")?;
        TraceContext::parse(traceparent, self.extensions.get("tracestate").map(String::as_str))
    }

    /// How many steps this event is away from the one that began it: 0 for one that no handler emitted, and for one whose
    /// [`DEPTH_EXTENSION`] is no number.
    pub fn depth(&self) -> u32 {
        self.extensions.get(DEPTH_EXTENSION).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Marks an event that a handler emitted while it ran for `cause`: one step further. Repeating it changes nothing,
    /// and an event that says it is further already keeps that.
    pub fn set_depth_after(&mut self, cause: &Event) {
        let depth = cause.depth().saturating_add(1).max(self.depth());
        self.extensions.insert(DEPTH_EXTENSION.to_owned(), depth.to_string());
    }

    /// Takes the depth away: the event begins anew.
    pub fn clear_depth(&mut self) {
        self.extensions.remove(DEPTH_EXTENSION);
    }

    /// Whether `datacontenttype` is JSON, or absent (which means JSON in CloudEvents' JSON form).
    fn data_may_be_json(&self) -> bool {
        self.datacontenttype.as_deref().is_none_or(is_json)
    }

    /// Every attribute but `specversion` that is set, in canonical string form, the extensions last.
    fn attributes(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        [
            ("id", Some(Cow::from(&self.id))),
            ("source", Some(Cow::from(&self.source))),
            ("type", Some(Cow::from(&self.kind))),
            ("subject", self.subject.as_deref().map(Cow::from)),
            ("time", self.time.map(|time| Cow::from(time.to_string()))),
            ("datacontenttype", self.datacontenttype.as_deref().map(Cow::from)),
            ("dataschema", self.dataschema.as_deref().map(Cow::from)),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .chain(self.extensions.iter().map(|(name, value)| (name.as_str(), Cow::from(value))))
    }

    /// Sets one attribute by its CloudEvents name from its canonical string form. An empty optional attribute is unset.
    fn set_attribute(&mut self, name: &str, value: String) -> Result<(), DecodeError> {
        let optional = |value: String| (!value.is_empty()).then_some(value);
        match name {
            "id" => self.id = value,
            "source" => self.source = value,
            "type" => self.kind = value,
            "subject" => self.subject = optional(value),
            "datacontenttype" => self.datacontenttype = optional(value),
            "dataschema" => self.dataschema = optional(value),
            "time" if value.is_empty() => self.time = None,
            "time" => {
                let time = value.parse().map_err(|_| DecodeError::because("attribute time is no RFC 3339 time"))?;
                self.time = Some(time);
            }
            name => {
                check_extension_name(name)?;
                self.extensions.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    /// An event with nothing in it, to be filled by a decoder.
    fn blank(data: Bytes) -> Self {
        Self {
            id: String::new(),
            source: String::new(),
            kind: String::new(),
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            extensions: BTreeMap::new(),
            data,
        }
    }

    /// The checks that end every decoding.
    fn checked(mut self, message_id: Option<&str>) -> Result<Self, DecodeError> {
        if self.id.is_empty() {
            self.id = message_id.unwrap_or_default().to_owned();
        }
        if self.datacontenttype.as_deref().is_some_and(is_json)
            && !self.data.is_empty()
            && let Err(error) = serde_json::from_slice::<Value>(&self.data)
        {
            return Err(DecodeError::because(format!("the data says that it is JSON and is not: {}", place(&error))));
        }
        self.check()?;
        Ok(self)
    }
}

fn check_extension_name(name: &str) -> Result<(), DecodeError> {
    let fits = !name.is_empty()
        && name.len() <= MAX_EXTENSION_NAME_BYTES
        && !RESERVED.contains(&name)
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(DecodeError::because(format!("{name:?} is no attribute name: 1 to 128 of a-z and 0-9, and not a reserved one")))
}

/// What a JSON error is and where, without the text around it (which may hold data).
fn place(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it is of the wrong type",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
            "it is not well formed or nested too deep"
        }
    };
    format!("{kind} at line {} column {}", error.line(), error.column())
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// A content type without its parameters.
fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn is_json(content_type: &str) -> bool {
    let media = media_type(content_type).to_ascii_lowercase();
    media.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}
