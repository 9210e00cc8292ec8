//! From a message to an event.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;

use super::{DecodeError, Event, HEADER_PREFIX, SPEC_VERSION, is_json, media_type, structured};
use crate::{HeaderValue, Message};

/// The other separator that the AMQP binding allows.
const COLON_PREFIX: &str = "cloudEvents:";
const CLOUDEVENTS: &str = "application/cloudevents";
const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch";

/// Whether a content type means structured mode (batches too).
pub(super) fn is_cloudevents(content_type: &str) -> bool {
    starts_with(content_type, CLOUDEVENTS)
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.trim_start().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

pub(super) fn decode(message: &Message) -> Result<Event, DecodeError> {
    check_encoding(message)?;
    let content_type = message.properties.content_type.as_deref().filter(|text| !text.trim().is_empty());
    if let Some(content_type) = content_type.filter(|text| is_cloudevents(text)) {
        if starts_with(content_type, CLOUDEVENTS_BATCH) {
            return Err(DecodeError::because("a batch of events in one message: publish each event on its own"));
        }
        let media = media_type(content_type);
        if !media.eq_ignore_ascii_case(CLOUDEVENTS) && !is_json(media) {
            return Err(DecodeError::because(format!(
                "structured mode in another format than JSON ({})",
                short(media)
            )));
        }
        return structured::read(&message.body, message.properties.message_id.as_deref());
    }
    match prefix(message)? {
        Some(prefix) => binary(message, prefix, content_type),
        None => plain(message, content_type),
    }
}

/// A compressed body is not what the data of the event would be. (`utf-8` and the like, which some clients set, are
/// harmless.)
fn check_encoding(message: &Message) -> Result<(), DecodeError> {
    let Some(encoding) = message.properties.content_encoding.as_deref() else { return Ok(()) };
    let encoding = encoding.trim().to_ascii_lowercase();
    if ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "bzip2", "lzma"].contains(&encoding.as_str()) {
        return Err(DecodeError::because(format!("the body is compressed ({encoding}): publish it as it is")));
    }
    Ok(())
}

/// The prefix of this message's attribute headers, or `None` when it has no such header.
fn prefix(message: &Message) -> Result<Option<&'static str>, DecodeError> {
    let has = |prefix: &str| message.headers.keys().any(|name| name.starts_with(prefix));
    match (has(HEADER_PREFIX), has(COLON_PREFIX)) {
        (true, true) => Err(DecodeError::because("headers of both forms, cloudEvents_ and cloudEvents:")),
        (true, false) => Ok(Some(HEADER_PREFIX)),
        (false, true) => Ok(Some(COLON_PREFIX)),
        (false, false) => Ok(None),
    }
}

fn binary(message: &Message, prefix: &str, content_type: Option<&str>) -> Result<Event, DecodeError> {
    let mut event = Event::blank(message.body.clone());
    let mut spec_version = None;
    for (name, value) in &message.headers {
        let Some(name) = name.strip_prefix(prefix) else { continue };
        let Some(text) = canonical(name, value)? else { continue };
        match name {
            "specversion" => spec_version = Some(text),
            name => event.set_attribute(name, text)?,
        }
    }
    check_spec_version(spec_version.as_deref())?;
    if let Some(content_type) = content_type {
        if event.datacontenttype.as_deref().is_some_and(|other| other != content_type) {
            return Err(DecodeError::because("the content type and the header datacontenttype disagree"));
        }
        event.datacontenttype = Some(content_type.to_owned());
    }
    event.checked(message.properties.message_id.as_deref())
}

pub(super) fn check_spec_version(version: Option<&str>) -> Result<(), DecodeError> {
    match version {
        Some(SPEC_VERSION) => Ok(()),
        Some(other) => Err(DecodeError::because(format!("specversion {} is not known, only 1.0 is", short(other)))),
        None => Err(DecodeError::because("attribute specversion is missing")),
    }
}

/// The canonical string form of a header's value; `None` for a void, which is as good as absent.
fn canonical(name: &str, value: &HeaderValue) -> Result<Option<String>, DecodeError> {
    Ok(Some(match value {
        HeaderValue::Void => return Ok(None),
        HeaderValue::Text(text) => text.clone(),
        HeaderValue::Bool(value) => value.to_string(),
        HeaderValue::Bytes(bytes) => BASE64.encode(bytes),
        HeaderValue::Timestamp(seconds) => match from_seconds(*seconds) {
            Some(time) => time.to_string(),
            None => return Err(DecodeError::because(format!("attribute {} is no time", short(name)))),
        },
        other => match other.as_i64() {
            Some(number) => number.to_string(),
            None => {
                return Err(DecodeError::because(format!(
                    "attribute {} has a type that CloudEvents lacks",
                    short(name)
                )));
            }
        },
    }))
}

fn from_seconds(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
}

fn plain(message: &Message, content_type: Option<&str>) -> Result<Event, DecodeError> {
    if let Some(other) = content_type.filter(|content_type| !is_json(content_type)) {
        let what = format!("neither a CloudEvent nor JSON, but {}", short(other));
        return Err(DecodeError::because(what));
    }
    // What says that it is JSON is checked as every event is, at the end.
    let unchecked = content_type.is_none() || message.body.is_empty();
    if unchecked && let Err(error) = serde_json::from_slice::<serde_json::Value>(&message.body) {
        return Err(DecodeError::because(format!("neither a CloudEvent nor JSON: {}", super::place(&error))));
    }
    let (exchange, routing_key) = message.origin();
    let event = Event {
        source: format!("/{exchange}"),
        kind: routing_key.to_owned(),
        // Some clients write milliseconds here; such a time is out of range, and no time is better than a wrong one.
        time: message.properties.timestamp.and_then(from_seconds),
        datacontenttype: content_type.map(str::to_owned),
        ..Event::blank(message.body.clone())
    };
    event.checked(message.properties.message_id.as_deref())
}

fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
