//! Requests: events that one caller makes of one function and whose answer it wants, by the Invoke API or by HTTP.
//!
//! They go straight to the function's queue, and no pattern routes them. What the handler of a function in the manner of
//! AWS Lambda gets of such an event is its data alone, whatever else the function says of the shape of its events.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Event;

/// How many attempts the event may have at most, on events whose caller waits: it decides itself whether to ask again.
/// Never more than the function's own policy allows.
pub const ATTEMPTS_EXTENSION: &str = "weftattempts";
/// What the caller says of itself, as base64 of JSON: a Lambda function finds it in its context.
pub const CLIENT_CONTEXT_EXTENSION: &str = "weftclientcontext";

/// `tail`: the caller wants the last of what its invocation writes, and what it took of memory.
pub const LOG_EXTENSION: &str = "weftlog";

/// What kind of request an event is. The mark of a request is its type together with its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// By the Invoke API: the data is the payload, byte for byte.
    Invoke,
    /// By HTTP: the data is the request as a JSON document (payload format 2.0).
    Http,
}

impl RequestKind {
    /// The kind of an event; `None`: it is no request.
    pub fn of(event: &Event) -> Option<Self> {
        [Self::Invoke, Self::Http].into_iter().find(|kind| event.kind == kind.kind() && event.source == kind.source())
    }

    /// The type of such an event.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Invoke => "weft.invoke",
            Self::Http => "weft.http",
        }
    }

    /// The source of such an event. With the id it is the key: what callers choose can be no other event's key.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Invoke => "/weft/invoke",
            Self::Http => "/weft/http",
        }
    }

    /// A request with JSON as its data. `waits`: its caller does, so there is one attempt.
    pub fn event(self, id: impl Into<String>, data: Bytes, time: Timestamp, waits: bool) -> Event {
        let attempts = waits.then(|| (ATTEMPTS_EXTENSION.to_owned(), "1".to_owned()));
        Event {
            id: id.into(),
            source: self.source().to_owned(),
            kind: self.kind().to_owned(),
            subject: None,
            time: Some(time),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: attempts.into_iter().collect::<BTreeMap<_, _>>(),
            data,
        }
    }
}

/// The attempts that an event allows at most; `None`: as many as the function's policy.
pub fn most_attempts(event: &Event) -> Option<u32> {
    RequestKind::of(event)?;
    event.extensions.get(ATTEMPTS_EXTENSION)?.parse().ok().filter(|attempts| *attempts > 0)
}

/// Whether the caller of a request wants to see what its invocation writes.
pub fn wants_log(event: &Event) -> bool {
    RequestKind::of(event).is_some() && event.extensions.get(LOG_EXTENSION).is_some_and(|wanted| wanted == "tail")
}

/// What the caller of a request says of itself, as JSON in ASCII; `None`: nothing, or nothing that can be read.
pub fn client_context(event: &Event) -> Option<String> {
    RequestKind::of(event)?;
    let document = BASE64.decode(event.extensions.get(CLIENT_CONTEXT_EXTENSION)?).ok()?;
    let text = serde_json::from_slice::<Value>(&document).ok()?.to_string();
    let mut ascii = String::with_capacity(text.len());
    for unit in text.chars() {
        match unit {
            // Only texts hold other characters, and a text may have each as an escape.
            ' '..='~' => ascii.push(unit),
            _ => unit.encode_utf16(&mut [0; 2]).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    Some(ascii)
}

/// What of an HTTP request makes it the same as another: method, path, query and body. Its time, its id and its headers
/// differ with each repeat. `None` for any other event.
pub(crate) fn identity(event: &Event, data: &Value) -> Option<Value> {
    if RequestKind::of(event) != Some(RequestKind::Http) {
        return None;
    }
    let of = |name: &str| data.get(name).cloned().unwrap_or_default();
    let method = data.pointer("/requestContext/http/method").cloned().unwrap_or_default();
    Some(json!([method, of("rawPath"), of("rawQueryString"), of("body"), of("isBase64Encoded")]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn http(id: &str, data: &Value) -> Event {
        RequestKind::Http.event(id, data.to_string().into(), Timestamp::UNIX_EPOCH, true)
    }

    #[test]
    fn a_request_survives_the_wire_with_its_marks_and_its_payload() {
        let event = RequestKind::Invoke.event("k", Bytes::from_static(b" [1, 2] "), Timestamp::UNIX_EPOCH, true);
        let read = Event::decode(&event.to_message("", "weft.fn.f")).unwrap();
        assert_eq!(read, event);
        assert_eq!((RequestKind::of(&read), most_attempts(&read)), (Some(RequestKind::Invoke), Some(1)));
        assert_eq!(read.default_key().unwrap().as_str(), "/weft/invoke k");
        let later = RequestKind::Invoke.event("k", Bytes::from_static(b"1"), Timestamp::UNIX_EPOCH, false);
        assert_eq!(most_attempts(&later), None);
    }

    #[test]
    fn an_event_of_another_source_is_no_request_and_bounds_no_attempts() {
        let mut event = RequestKind::Invoke.event("k", Bytes::from_static(b"1"), Timestamp::UNIX_EPOCH, true);
        event.source = "/shop".to_owned();
        assert_eq!((RequestKind::of(&event), most_attempts(&event)), (None, None));
    }

    #[test]
    fn who_wants_to_see_the_log_is_told_by_a_mark_that_only_requests_have() {
        let mut event = RequestKind::Invoke.event("k", Bytes::from_static(b"1"), Timestamp::UNIX_EPOCH, true);
        let (digest, before) = (event.digest(), wants_log(&event));
        event.extensions.insert(LOG_EXTENSION.to_owned(), "tail".to_owned());
        assert_eq!((before, wants_log(&event)), (false, true));
        assert_eq!(event.digest(), digest, "a repeat that wants to see more is the same request");
        event.source = "/shop".to_owned();
        assert!(!wants_log(&event));
    }

    #[test]
    fn what_a_caller_says_of_itself_is_json_that_a_header_can_hold() {
        let mut event = RequestKind::Invoke.event("k", Bytes::from_static(b"1"), Timestamp::UNIX_EPOCH, true);
        assert_eq!(client_context(&event), None);
        let given = json!({ "custom": { "name": "Zoë 🦀" } });
        event.extensions.insert(CLIENT_CONTEXT_EXTENSION.to_owned(), BASE64.encode(given.to_string()));
        let text = client_context(&event).unwrap();
        assert!(text.is_ascii() && text.contains("\\ud83e\\udd80"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), given);
        event.source = "/shop".to_owned();
        assert_eq!(client_context(&event), None);
    }

    #[test]
    fn an_http_request_is_the_same_whatever_its_time_and_headers_and_another_with_another_body() {
        let request = |time: &str, body: &str| {
            json!({
                "rawPath": "/a", "rawQueryString": "q=1", "headers": { "date": time }, "body": body,
                "isBase64Encoded": false, "requestContext": { "time": time, "http": { "method": "POST" } },
            })
        };
        let first = http("k", &request("1", "x")).digest();
        assert_eq!(first, http("k", &request("2", "x")).digest());
        assert_ne!(first, http("k", &request("1", "y")).digest());
        // Anybody may name his data so: only a request is told by parts of it.
        let mut event = http("k", &request("1", "x"));
        event.kind = "other".to_owned();
        let mut later = http("k", &request("2", "x"));
        later.kind = "other".to_owned();
        assert_ne!(event.digest(), later.digest());
    }
}
