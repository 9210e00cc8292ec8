//! CloudEvents' JSON form.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{DecodeError, Event, SPEC_VERSION, decode, is_json, place};

/// Reads the JSON form. `message_id` stands in for a missing id.
pub(super) fn read(document: &[u8], message_id: Option<&str>) -> Result<Event, DecodeError> {
    // The data stays raw, so that it keeps its bytes.
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(document)
        .map_err(|error| DecodeError::because(format!("the body is no JSON object: {}", place(&error))))?;
    let mut event = Event::blank(Bytes::new());
    let mut spec_version = None;
    let (mut data, mut data_base64) = (None, None);
    for (name, raw) in members {
        match name.as_str() {
            "data" => data = Some(raw),
            "data_base64" => data_base64 = text(&name, &raw)?,
            "specversion" => spec_version = text(&name, &raw)?,
            _ => {
                if let Some(value) = text(&name, &raw)? {
                    event.set_attribute(&name, value)?;
                }
            }
        }
    }
    decode::check_spec_version(spec_version.as_deref())?;
    event.data = match (data, data_base64) {
        (Some(_), Some(_)) => return Err(DecodeError::because("both data and data_base64")),
        (Some(raw), None) => embedded(&raw, event.datacontenttype.as_deref())?,
        (None, Some(encoded)) => {
            let bytes = BASE64.decode(encoded).map_err(|_| DecodeError::because("data_base64 is no Base64"))?;
            Bytes::from(bytes)
        }
        (None, None) => Bytes::new(),
    };
    event.checked(message_id)
}

/// The bytes of an embedded value: its own when it is JSON, those of the text when it is text of another type.
fn embedded(raw: &RawValue, content_type: Option<&str>) -> Result<Bytes, DecodeError> {
    let value: Value = serde_json::from_str(raw.get())
        .map_err(|error| DecodeError::because(format!("the data is not JSON: {}", place(&error))))?;
    Ok(match value {
        Value::String(text) if !content_type.is_none_or(is_json) => Bytes::from(text),
        _ => Bytes::from(raw.get().to_owned()),
    })
}

/// An attribute's canonical string form; `None` for null, which CloudEvents reads as unset.
fn text(name: &str, raw: &RawValue) -> Result<Option<String>, DecodeError> {
    let fault = || {
        let name: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        DecodeError::because(format!("attribute {name} is neither a text, a whole number nor a boolean"))
    };
    match serde_json::from_str::<Value>(raw.get()).map_err(|_| fault())? {
        Value::Null => Ok(None),
        value => super::scalar_text(&value).map(Some).ok_or_else(fault),
    }
}

/// Writes the JSON form.
pub(super) fn write(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + event.data.len());
    out.extend_from_slice(b"{\"specversion\":");
    string(SPEC_VERSION, &mut out);
    for (name, value) in event.attributes() {
        out.push(b',');
        string(name, &mut out);
        out.push(b':');
        string(&value, &mut out);
    }
    if !event.data.is_empty() {
        match raw_json(event) {
            Some(json) => {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(json.as_bytes());
            }
            None => {
                out.extend_from_slice(b",\"data_base64\":");
                string(&BASE64.encode(&event.data), &mut out);
            }
        }
    }
    out.push(b'}');
    out
}

/// The data's own text when it is JSON, without the white space around it.
fn raw_json(event: &Event) -> Option<&str> {
    event.data_json()?;
    std::str::from_utf8(&event.data).ok().map(str::trim_ascii)
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(Value::String(text.to_owned()).to_string().as_bytes());
}
