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
    /// The 32 hexadecimal digits of the trace id, or `None` when `traceparent` is not in the W3C form.
    pub fn trace_id(&self) -> Option<&str> {
        let mut parts = self.traceparent.split('-');
        let (_version, id) = (parts.next()?, parts.next()?);
        (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
    }
}
