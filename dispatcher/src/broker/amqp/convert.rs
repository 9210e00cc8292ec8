//! Messages to and from lapin's types. Every AMQP 0-9-1 header type has a variant of its own on both sides, so that
//! what was received can be published again untouched.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString};
use weft_schemas::message::{HeaderValue, Headers};
use weft_schemas::{Message, Properties};

/// Why AMQP cannot carry a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the {what} is {bytes} bytes long; AMQP carries at most 255")]
    TooLong { what: String, bytes: usize },
    #[error("its properties and headers take {bytes} bytes; this connection carries at most {limit}")]
    HeadersTooLarge { bytes: usize, limit: usize },
}

/// Properties and headers from a delivery. Lossless.
pub fn from_properties(properties: &BasicProperties) -> (Properties, Headers) {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let ours = Properties {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        delivery_mode: *properties.delivery_mode(),
        priority: *properties.priority(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        expiration: text(properties.expiration()),
        message_id: text(properties.message_id()),
        timestamp: *properties.timestamp(),
        kind: text(properties.kind()),
        user_id: text(properties.user_id()),
        app_id: text(properties.app_id()),
    };
    let headers = properties.headers().as_ref().map(from_table).unwrap_or_default();
    (ours, headers)
}

/// Properties and headers for a publish. Always persistent; an empty table of headers is left out.
///
/// # Errors
/// A property or a header's name is longer than 255 bytes, or the whole is larger than `limit` bytes (it must fit into
/// one frame: a larger one makes the broker close the connection).
pub fn to_properties(message: &Message, limit: usize) -> Result<BasicProperties, Unfit> {
    // Destructured, so that a new property cannot be forgotten here.
    let Properties {
        content_type,
        content_encoding,
        delivery_mode: _,
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp,
        kind,
        user_id,
        app_id,
    } = &message.properties;
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    let mut bytes = 64;
    macro_rules! texts {
        ($($value:ident, $what:literal, $with:ident;)*) => {$(
            if let Some(text) = $value {
                bytes += text.len() + 1;
                properties = properties.$with(short(text, $what)?);
            }
        )*};
    }
    texts! {
        content_type, "content type", with_content_type;
        content_encoding, "content encoding", with_content_encoding;
        correlation_id, "correlation id", with_correlation_id;
        reply_to, "reply-to address", with_reply_to;
        expiration, "expiration", with_expiration;
        message_id, "message id", with_message_id;
        kind, "type", with_type;
        user_id, "user id", with_user_id;
        app_id, "application id", with_app_id;
    }
    if let Some(priority) = priority {
        properties = properties.with_priority(*priority);
    }
    if let Some(timestamp) = timestamp {
        properties = properties.with_timestamp(*timestamp);
    }
    if !message.headers.is_empty() {
        bytes += table_bytes(&message.headers);
        properties = properties.with_headers(to_table(&message.headers)?);
    }
    if bytes > limit {
        return Err(Unfit::HeadersTooLarge { bytes, limit });
    }
    Ok(properties)
}

/// Whether AMQP could carry a message: what [`to_properties`] says, and the lengths of exchange and routing key.
///
/// # Errors
/// As for [`to_properties`].
pub fn check(message: &Message, limit: usize) -> Result<(), Unfit> {
    short(&message.exchange, "name of the exchange")?;
    short(&message.routing_key, "routing key")?;
    to_properties(message, limit).map(drop)
}

/// A short string, checked: lapin's own conversion panics above 255 bytes.
///
/// # Errors
/// It is longer than 255 bytes.
pub fn short(text: &str, what: &str) -> Result<ShortString, Unfit> {
    ShortString::try_new(text).map_err(|_| Unfit::TooLong { what: what.to_owned(), bytes: text.len() })
}

fn from_table(table: &FieldTable) -> Headers {
    table.into_iter().map(|(name, value)| (name.as_str().to_owned(), from_value(value))).collect()
}

fn to_table(headers: &Headers) -> Result<FieldTable, Unfit> {
    let table: BTreeMap<ShortString, AMQPValue> = headers
        .iter()
        .map(|(name, value)| Ok((short(name, "name of a header")?, to_value(value)?)))
        .collect::<Result<_, Unfit>>()?;
    Ok(table.into())
}

fn from_value(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Void => HeaderValue::Void,
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::I8(*value),
        AMQPValue::ShortShortUInt(value) => HeaderValue::U8(*value),
        AMQPValue::ShortInt(value) => HeaderValue::I16(*value),
        AMQPValue::ShortUInt(value) => HeaderValue::U16(*value),
        AMQPValue::LongInt(value) => HeaderValue::I32(*value),
        AMQPValue::LongUInt(value) => HeaderValue::U32(*value),
        AMQPValue::LongLongInt(value) => HeaderValue::I64(*value),
        AMQPValue::Float(value) => HeaderValue::F32(*value),
        AMQPValue::Double(value) => HeaderValue::F64(*value),
        AMQPValue::DecimalValue(value) => HeaderValue::Decimal { scale: value.scale, value: value.value },
        // Has no type octet, so it never arrives in a table.
        AMQPValue::ShortString(value) => HeaderValue::Text(value.as_str().to_owned()),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => HeaderValue::Text(text.to_owned()),
            Err(_) => HeaderValue::Opaque(value.as_bytes().to_vec()),
        },
        AMQPValue::ByteArray(value) => HeaderValue::Bytes(value.as_slice().to_vec()),
        AMQPValue::Timestamp(value) => HeaderValue::Timestamp(*value),
        AMQPValue::FieldArray(values) => HeaderValue::Array(values.as_slice().iter().map(from_value).collect()),
        AMQPValue::FieldTable(table) => HeaderValue::Table(from_table(table)),
    }
}

fn to_value(value: &HeaderValue) -> Result<AMQPValue, Unfit> {
    Ok(match value {
        HeaderValue::Void => AMQPValue::Void,
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::I8(value) => AMQPValue::ShortShortInt(*value),
        HeaderValue::U8(value) => AMQPValue::ShortShortUInt(*value),
        HeaderValue::I16(value) => AMQPValue::ShortInt(*value),
        HeaderValue::U16(value) => AMQPValue::ShortUInt(*value),
        HeaderValue::I32(value) => AMQPValue::LongInt(*value),
        HeaderValue::U32(value) => AMQPValue::LongUInt(*value),
        HeaderValue::I64(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::F32(value) => AMQPValue::Float(*value),
        HeaderValue::F64(value) => AMQPValue::Double(*value),
        HeaderValue::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value }),
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
        HeaderValue::Opaque(bytes) => AMQPValue::LongString(LongString::from(bytes.as_slice())),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.as_slice())),
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        HeaderValue::Array(values) => {
            let values: Vec<AMQPValue> = values.iter().map(to_value).collect::<Result<_, Unfit>>()?;
            AMQPValue::FieldArray(FieldArray::from(values))
        }
        HeaderValue::Table(headers) => AMQPValue::FieldTable(to_table(headers)?),
    })
}

/// How many bytes a table takes on the wire.
fn table_bytes(headers: &Headers) -> usize {
    4 + headers.iter().map(|(name, value)| 1 + name.len() + value_bytes(value)).sum::<usize>()
}

fn value_bytes(value: &HeaderValue) -> usize {
    1 + match value {
        HeaderValue::Void => 0,
        HeaderValue::Bool(_) | HeaderValue::I8(_) | HeaderValue::U8(_) => 1,
        HeaderValue::I16(_) | HeaderValue::U16(_) => 2,
        HeaderValue::I32(_) | HeaderValue::U32(_) | HeaderValue::F32(_) => 4,
        HeaderValue::Decimal { .. } => 5,
        HeaderValue::I64(_) | HeaderValue::F64(_) | HeaderValue::Timestamp(_) => 8,
        HeaderValue::Text(text) => 4 + text.len(),
        HeaderValue::Opaque(bytes) | HeaderValue::Bytes(bytes) => 4 + bytes.len(),
        HeaderValue::Array(values) => 4 + values.iter().map(value_bytes).sum::<usize>(),
        HeaderValue::Table(headers) => table_bytes(headers),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 128 * 1024;

    fn header_value() -> impl Strategy<Value = HeaderValue> {
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
            any::<f32>().prop_map(HeaderValue::F32),
            any::<f64>().prop_map(HeaderValue::F64),
            (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| HeaderValue::Decimal { scale, value }),
            any::<String>().prop_map(HeaderValue::Text),
            prop::collection::vec(any::<u8>(), 0..40)
                .prop_filter("a text", |bytes| std::str::from_utf8(bytes).is_err())
                .prop_map(HeaderValue::Opaque),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(HeaderValue::Bytes),
            any::<u64>().prop_map(HeaderValue::Timestamp),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(HeaderValue::Array),
                prop::collection::btree_map(".{0,20}", inner, 0..6).prop_map(HeaderValue::Table),
            ]
        })
    }

    fn properties() -> impl Strategy<Value = Properties> {
        let text = || prop::option::of(".{0,40}");
        (
            (text(), text(), text(), text(), text(), text()),
            (text(), text(), text(), prop::option::of(any::<u8>()), prop::option::of(any::<u64>())),
        )
            .prop_map(|((a, b, c, d, e, f), (g, h, i, priority, timestamp))| Properties {
                content_type: a,
                content_encoding: b,
                delivery_mode: Some(2),
                priority,
                correlation_id: c,
                reply_to: d,
                expiration: e,
                message_id: f,
                timestamp,
                kind: g,
                user_id: h,
                app_id: i,
            })
    }

    proptest! {
        #[test]
        fn what_is_published_is_read_back(
            properties in properties(),
            headers in prop::collection::btree_map(".{0,30}", header_value(), 0..8),
        ) {
            let message = Message { properties, headers, ..Message::default() };
            let wire = to_properties(&message, LIMIT).unwrap();
            let (properties, headers) = from_properties(&wire);
            prop_assert_eq!(&properties, &message.properties);
            prop_assert_eq!(&headers, &message.headers);
            // And back: what lapin holds comes out the same.
            prop_assert_eq!(to_properties(&Message { properties, headers, ..Message::default() }, LIMIT).unwrap(), wire);
        }
    }

    #[test]
    fn a_name_that_amqp_cannot_carry_is_refused_and_does_not_panic() {
        let long = "x".repeat(256);
        let mut message = Message::default();
        message.headers.insert(long.clone(), HeaderValue::Void);
        assert!(matches!(to_properties(&message, LIMIT), Err(Unfit::TooLong { bytes: 256, .. })));
        let mut message = Message::default();
        message.properties.correlation_id = Some(long);
        assert!(matches!(to_properties(&message, LIMIT), Err(Unfit::TooLong { bytes: 256, .. })));
    }

    #[test]
    fn headers_that_fill_a_frame_are_refused() {
        let mut message = Message::default();
        message.headers.insert("big".to_owned(), HeaderValue::Text("x".repeat(LIMIT)));
        assert!(matches!(to_properties(&message, LIMIT), Err(Unfit::HeadersTooLarge { .. })));
    }
}
