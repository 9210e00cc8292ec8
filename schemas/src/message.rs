//! A message as any broker of ours carries it: bytes, AMQP 0-9-1 basic properties, headers.
//!
//! It keeps every type that AMQP 0-9-1 can carry in a header, because a dead letter must hold the original untouched.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::TraceContext;
use crate::requeue::{EXCHANGE_HEADER, ROUTING_KEY_HEADER};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// A header's value, one variant for each AMQP 0-9-1 field type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HeaderValue {
    Void,
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal {
        scale: u8,
        value: u32,
    },
    /// A long string that is valid UTF-8.
    Text(String),
    /// A long string that is not valid UTF-8 (AMQP 0-9-1 does not say which encoding a long string has).
    Opaque(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A byte array (field type `x`).
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Seconds since the Unix epoch.
    Timestamp(u64),
    Array(Vec<HeaderValue>),
    Table(Headers),
}

impl HeaderValue {
    /// The text of a `Text` value.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Any integer type that fits in 64 bits, signed.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(n) => Some(n.into()),
            Self::U8(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::I64(n) => Some(n),
            _ => None,
        }
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Headers by name, in the order of their names.
pub type Headers = BTreeMap<String, HeaderValue>;

/// The basic properties of AMQP 0-9-1 other than the headers. Absent means that the publisher did not set it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// 1 transient, 2 persistent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Milliseconds, as text (AMQP's own form).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
}

/// One message on the wire, with where it was published to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The exchange it was published to; empty is AMQP's default exchange.
    pub exchange: String,
    pub routing_key: String,
    #[serde(default)]
    pub properties: Properties,
    #[serde(default)]
    pub headers: Headers,
    #[serde(default)]
    pub body: Bytes,
}

impl Message {
    /// The text of a header, or `None` when it is absent or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(HeaderValue::as_str)
    }

    /// Where the message was first published to: the exchange and the routing key. Those of a message that Weft has
    /// queued again are in its headers, because it comes by the default exchange then.
    pub fn origin(&self) -> (&str, &str) {
        match (self.header(EXCHANGE_HEADER), self.header(ROUTING_KEY_HEADER)) {
            (Some(exchange), Some(routing_key)) => (exchange, routing_key),
            _ => (&self.exchange, &self.routing_key),
        }
    }

    /// The trace that the message belongs to: plain `traceparent`/`tracestate` headers, else CloudEvents' extension of
    /// the same names. `None` when there is none, or one that is not in the W3C form.
    pub fn trace_context(&self) -> Option<TraceContext> {
        ["", "cloudEvents_", "cloudEvents:"].into_iter().find_map(|prefix| {
            let traceparent = self.header(&format!("{prefix}{TRACEPARENT}"))?;
            TraceContext::parse(traceparent, self.header(&format!("{prefix}{TRACESTATE}")))
        })
    }

    /// Sets the plain trace headers; an absent `tracestate` takes an old one away.
    pub fn set_trace_context(&mut self, trace: &TraceContext) {
        self.headers.insert(TRACEPARENT.to_owned(), HeaderValue::from(trace.traceparent.as_str()));
        match &trace.tracestate {
            Some(tracestate) => self.headers.insert(TRACESTATE.to_owned(), HeaderValue::from(tracestate.as_str())),
            None => self.headers.remove(TRACESTATE),
        };
    }
}
