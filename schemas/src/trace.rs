//! W3C Trace Context as plain text, so that it can cross any wire.

use serde::{Deserialize, Serialize};

/// A `traceparent` and its optional `tracestate` (W3C Trace Context, level 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    pub traceparent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// Checks a `traceparent` and takes it with its `tracestate`; `None` when it is not in the W3C form (then a new trace
    /// begins). Later versions, which may append fields, are accepted as the specification asks.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let some_bit = |text: &str| text.bytes().any(|b| b != b'0');
        let mut parts = traceparent.splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let well_formed = hex(version, 2)
            && version != "ff"
            && (version != "00" || parts.next().is_none())
            && hex(trace, 32)
            && some_bit(trace)
            && hex(span, 16)
            && some_bit(span)
            && hex(flags, 2);
        let tracestate = tracestate.filter(|text| !text.is_empty()).map(str::to_owned);
        well_formed.then(|| Self { traceparent: traceparent.to_owned(), tracestate })
    }

    /// The 32 hexadecimal digits of the trace id, or `None` when `traceparent` is not in the W3C form.
    pub fn trace_id(&self) -> Option<&str> {
        let mut parts = self.traceparent.split('-');
        let (_version, id) = (parts.next()?, parts.next()?);
        (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
    }
}
