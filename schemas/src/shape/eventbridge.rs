//! Amazon EventBridge: one event.
//! <https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Envelope, Item, sent, text};

/// Whole seconds.
const TIME: &str = "%Y-%m-%dT%H:%M:%SZ";

#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    id: &'a str,
    #[serde(rename = "detail-type")]
    detail_type: &'a str,
    source: &'a str,
    account: &'a str,
    time: String,
    region: &'a str,
    resources: Vec<&'a str>,
    detail: Box<RawValue>,
}

/// The detail is the event's data, byte for byte. A detail is an object: what is none stands as `data` in one.
pub(super) fn request(envelope: &Envelope<'_>, item: &Item<'_>) -> String {
    let event = item.event;
    let document = Document {
        version: "0",
        id: &event.id,
        detail_type: &event.kind,
        source: &event.source,
        account: envelope.account,
        time: sent(item).strftime(TIME).to_string(),
        region: envelope.region,
        resources: event.subject.as_deref().into_iter().collect(),
        detail: detail(item),
    };
    serde_json::to_string(&document).unwrap_or_default()
}

fn detail(item: &Item<'_>) -> Box<RawValue> {
    let event = item.event;
    let raw = |text: String| RawValue::from_string(text).ok();
    match event.data_json() {
        Some(value) if value.is_object() => std::str::from_utf8(&event.data).ok().and_then(|text| raw(text.to_owned())),
        Some(value) => raw(serde_json::json!({ "data": value }).to_string()),
        None if event.data.is_empty() => None,
        None => raw(serde_json::json!({ "data": text(event) }).to_string()),
    }
    .unwrap_or_else(empty)
}

fn empty() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
