//! Generators of whatever the wire can carry, for the property tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::message::Headers;
use crate::{
    Attempt, DeadLetter, DeadLetterId, Epoch, ErrorInfo, Event, FunctionName, HeaderValue, Key, Message, Properties,
    Reason,
};

/// Any value of a header, nested ones too. No NaN, which is not equal to itself.
pub(crate) fn header_value() -> impl Strategy<Value = HeaderValue> {
    let leaf = prop_oneof![
        Just(HeaderValue::Void),
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<i8>().prop_map(HeaderValue::I8),
        any::<u8>().prop_map(HeaderValue::U8),
        any::<i16>().prop_map(HeaderValue::I16),
        any::<u16>().prop_map(HeaderValue::U16),
        any::<i32>().prop_map(HeaderValue::I32),
        any::<u32>().prop_map(HeaderValue::U32),
        any::<i64>().prop_map(HeaderValue::I64),
        (-1.0e9_f32..1.0e9).prop_map(HeaderValue::F32),
        (-1.0e9_f64..1.0e9).prop_map(HeaderValue::F64),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| HeaderValue::Decimal { scale, value }),
        any::<String>().prop_map(HeaderValue::Text),
        "[ -~]{0,12}".prop_map(HeaderValue::Text),
        vec(any::<u8>(), 0..12).prop_map(HeaderValue::Opaque),
        vec(any::<u8>(), 0..12).prop_map(HeaderValue::Bytes),
        any::<u64>().prop_map(HeaderValue::Timestamp),
        (0_u64..4_000_000_000).prop_map(HeaderValue::Timestamp),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(HeaderValue::Array),
            btree_map("[a-z-]{1,8}", inner, 0..4).prop_map(HeaderValue::Table),
        ]
    })
}

/// Names that mean something to us, and any others.
fn header_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "cloudEvents_id",
        "cloudEvents:id",
        "cloudEvents_specversion",
        "cloudEvents_source",
        "cloudEvents_type",
        "cloudEvents_time",
        "cloudEvents_data",
        "cloudEvents_",
        "traceparent",
        "tracestate",
        "x-death",
        "x-first-death-queue",
        "x-delivery-count",
        "CC",
        "weft-exchange",
        "weft-routing-key",
        "weft-fence",
        "weft-epoch",
        "weft-redriven-as",
        "weft-redriven-from",
        "weft-id",
        "weft-expiration",
        "weft-user-id",
    ]);
    prop_oneof![known.prop_map(str::to_owned), "[a-zA-Z_:-]{1,12}", any::<String>()]
}

pub(crate) fn headers() -> impl Strategy<Value = Headers> {
    btree_map(header_name(), header_value(), 0..8)
}

pub(crate) fn properties() -> impl Strategy<Value = Properties> {
    let text = || option::of("[ -~]{0,20}");
    let content_type = prop_oneof![
        option::of(any::<String>()),
        prop::sample::select(vec![
            "application/json",
            "application/cloudevents+json; charset=utf-8",
            "Application/CloudEvents",
            "application/cloudevents-batch+json",
            "text/plain",
        ])
        .prop_map(|text| Some(text.to_owned())),
    ];
    (
        (content_type, text(), option::of(0_u8..3), option::of(any::<u8>()), text(), text()),
        (text(), text(), option::of(any::<u64>()), text(), text(), text()),
    )
        .prop_map(
            |(
                (content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to),
                (expiration, message_id, timestamp, kind, user_id, app_id),
            )| Properties {
                content_type,
                content_encoding,
                delivery_mode,
                priority,
                correlation_id,
                reply_to,
                expiration,
                message_id,
                timestamp,
                kind,
                user_id,
                app_id,
            },
        )
}

/// Bytes that are often nearly what a decoder looks for.
pub(crate) fn body() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        json_text().prop_map(Bytes::from),
        "\\{\"(id|source|type|specversion|data|data_base64|time)\":(\"1.0\"|1|null|\\{\\}|[a-z]{0,3})[,}]{0,2}"
            .prop_map(Bytes::from),
    ]
}

/// Any message at all.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    ("[a-z.]{0,9}", any::<String>(), properties(), headers(), body()).prop_map(
        |(exchange, routing_key, properties, headers, body)| Message {
            exchange,
            routing_key,
            properties,
            headers,
            body,
        },
    )
}

/// A message as publishers make them: nothing of ours in it, nothing of the broker's.
pub(crate) fn published() -> impl Strategy<Value = Message> {
    message().prop_map(|mut message| {
        message.headers.retain(|name, _| !["weft-", "x-", "CC", "BCC"].iter().any(|prefix| name.starts_with(prefix)));
        message
    })
}

/// A text that CloudEvents allows in an attribute.
fn attribute() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,20}", "\\PC{1,20}"]
        .prop_filter("no control characters", |text| !text.chars().any(char::is_control))
}

pub(crate) fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        (-1.0e12_f64..1.0e12).prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn json_text() -> impl Strategy<Value = String> {
    json().prop_map(|value| value.to_string())
}

/// A time of a day that Weft may see, to the nanosecond.
pub(crate) fn time() -> impl Strategy<Value = Timestamp> {
    (0_i64..4_000_000_000, 0_i32..1_000_000_000)
        .prop_map(|(second, nanosecond)| Timestamp::new(second, nanosecond).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Any event that [`Event::check`] accepts.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    let data = prop_oneof![
        (
            prop::sample::select(vec![None, Some("application/json"), Some("application/geo+json; charset=utf-8")]),
            json_text()
        )
            .prop_map(|(content_type, text)| (content_type.map(str::to_owned), Bytes::from(text))),
        (prop::sample::select(vec!["text/plain", "application/octet-stream", "x"]), vec(any::<u8>(), 0..40))
            .prop_map(|(content_type, bytes)| (Some(content_type.to_owned()), Bytes::from(bytes))),
        Just((None, Bytes::new())),
    ];
    let extensions = btree_map("(x[a-z0-9]{0,10}|traceparent)", attribute(), 0..4);
    (
        (attribute(), attribute(), attribute()),
        (option::of(attribute()), option::of(time()), option::of(attribute()), extensions, data),
    )
        .prop_map(|((id, source, kind), (subject, time, dataschema, extensions, (datacontenttype, data)))| Event {
            id,
            source,
            kind,
            subject,
            time,
            datacontenttype,
            dataschema,
            extensions,
            data,
        })
}

pub(crate) fn function_name() -> impl Strategy<Value = FunctionName> {
    "[a-z][a-z0-9_-]{0,20}".prop_filter_map("a name", |text| FunctionName::new(text).ok())
}

pub(crate) fn key() -> impl Strategy<Value = Key> {
    prop_oneof!["[ -~]{1,40}", any::<String>()].prop_filter_map("a key", |text| Key::new(text).ok())
}

pub(crate) fn error() -> impl Strategy<Value = ErrorInfo> {
    (any::<String>(), any::<String>()).prop_map(|(kind, message)| ErrorInfo::new(kind, message))
}

pub(crate) fn dead_letter() -> impl Strategy<Value = DeadLetter> {
    (
        ("[0-9a-f]{32}", function_name(), option::of(key()), any::<u32>(), prop::sample::select(Reason::ALL.to_vec())),
        (error(), any::<u32>(), time(), time(), option::of("[0-9a-f]{32}"), published()),
    )
        .prop_map(
            |((id, function, key, epoch, reason), (error, attempts, first_at, last_at, trace_id, message))| {
                DeadLetter {
                    id: DeadLetterId(id),
                    function,
                    key,
                    epoch: Epoch(epoch),
                    reason,
                    error,
                    attempts: Attempt(attempts),
                    first_at,
                    last_at,
                    trace_id,
                    message,
                }
            },
        )
}

/// A message with these headers, published to `shop` as `orders.placed`.
pub(crate) fn message_with(content_type: Option<&str>, headers: &[(&str, HeaderValue)], body: &str) -> Message {
    Message {
        exchange: "shop".to_owned(),
        routing_key: "orders.placed".to_owned(),
        properties: Properties { content_type: content_type.map(str::to_owned), ..Properties::default() },
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<BTreeMap<_, _>>(),
        body: Bytes::from(body.to_owned()),
    }
}
