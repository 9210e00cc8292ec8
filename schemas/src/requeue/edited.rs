//! A dead letter that is brought back with other data: a new event, with an id and a key of its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{KEY_HEADER, REDRIVEN_AS_HEADER, REDRIVEN_FROM_HEADER, redrive_message, redriven_as};
use crate::event::DecodeError;
use crate::{DeadLetter, DeadLetterId, Event, HeaderValue, Key, Message};

/// Longest text of an AMQP property, where the id stands too.
const MAX_ID_BYTES: usize = 255;
/// How much of a dead letter's id tells a successor from its predecessor.
const SUFFIX_CHARS: usize = 12;

/// An edited event, ready for its function's queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Edited {
    pub message: Message,
    /// What it runs under: the old key with a part of the letter's id behind it, or the letter's id when it had no key.
    pub key: Key,
    /// The new event's id, made in the same way.
    pub event_id: String,
}

/// The message that runs a dead letter's function on `body` in the place of the letter's own.
///
/// Headers and properties stay, but for the event's id and `message_id`. The key is in a header that admission honours,
/// because a key that a JSON Pointer finds in the data may well be the old one. Both follow from the letter alone:
/// editing the same letter twice makes two events of one key.
///
/// # Errors
/// The outcome is no event: it says that it is JSON and is not, or the envelope itself lacks what an event must have.
pub fn edited_message(letter: &DeadLetter, prefix: &str, body: Bytes) -> Result<Edited, DecodeError> {
    let mut message = redrive_message(letter, prefix);
    message.body = body;
    let event_id = successor(current_id(&message), &letter.id, MAX_ID_BYTES);
    if is_structured(&message) {
        // A document that cannot be read is left as it is: decoding says below what is wrong with it.
        if let Some(body) = with_id(&message.body, &letter.id) {
            message.body = body;
        }
    } else {
        for name in ["cloudEvents_id", "cloudEvents:id"] {
            if let Some(id) = message.headers.get_mut(name) {
                *id = HeaderValue::from(event_id.as_str());
            }
        }
    }
    message.properties.message_id = Some(event_id);
    let event = Event::decode(&message)?;

    let old = letter.key.clone().or_else(|| redriven_as(&letter.message));
    let key = successor(old.map(String::from).as_deref(), &letter.id, Key::MAX_BYTES);
    let key = Key::new(key).map_err(|error| DecodeError::Undecodable { what: error.to_string() })?;
    message.headers.remove(KEY_HEADER);
    message.headers.insert(REDRIVEN_AS_HEADER.to_owned(), HeaderValue::from(key.as_str()));
    message.headers.insert(REDRIVEN_FROM_HEADER.to_owned(), HeaderValue::from(letter.id.0.as_str()));
    Ok(Edited { message, key, event_id: event.id })
}

/// A text that is new, can be seen to come from the old one, and fits.
fn successor(old: Option<&str>, letter: &DeadLetterId, max_bytes: usize) -> String {
    let Some(old) = old.filter(|old| !old.is_empty()) else { return letter.0.clone() };
    let suffix: String = std::iter::once('~').chain(letter.0.chars().take(SUFFIX_CHARS)).collect();
    let kept = old.get(..old.floor_char_boundary(max_bytes.saturating_sub(suffix.len()))).unwrap_or_default();
    format!("{kept}{suffix}")
}

/// The id that the message has by its headers and properties.
fn current_id(message: &Message) -> Option<&str> {
    let header = ["cloudEvents_id", "cloudEvents:id"].into_iter().find_map(|name| message.header(name));
    header.or(message.properties.message_id.as_deref())
}

fn is_structured(message: &Message) -> bool {
    let content_type = message.properties.content_type.as_deref().unwrap_or_default();
    content_type.trim_start().to_ascii_lowercase().starts_with("application/cloudevents")
}

/// A CloudEvents document under a new id; every other member keeps its bytes. `None` when it is no JSON object.
fn with_id(document: &[u8], letter: &DeadLetterId) -> Option<Bytes> {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(document).ok()?;
    let old: Option<String> = members.get("id").and_then(|raw| serde_json::from_str(raw.get()).ok());
    let id = serde_json::to_string(&successor(old.as_deref(), letter, MAX_ID_BYTES)).ok()?;
    members.insert("id".to_owned(), RawValue::from_string(id).ok()?);
    serde_json::to_vec(&members).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests;
