//! What a function answers, as the ledger takes it: a streamed response becomes whole, an error becomes an [`ErrorInfo`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use weft_schemas::{ErrorInfo, http_event};

/// The content type of an HTTP response that is streamed: a JSON prelude, eight NUL bytes, the body.
pub(crate) const HTTP_INTEGRATION: &str = http_event::STREAM_TYPE;
/// The type of an error that does not say what it is.
const UNKNOWN: &str = "Runtime.Unknown";

/// A body as its function would have posted it at once: a streamed HTTP response becomes the object of one that is not,
/// with `statusCode`, `headers`, `cookies` and `body`. Any other body stays as it is.
pub(crate) fn whole(content_type: Option<&str>, body: Bytes) -> Bytes {
    match content_type {
        Some(kind) if kind.starts_with(HTTP_INTEGRATION) => {
            http_event::buffered(&body).map_or(body, |response| response.to_string().into())
        }
        _ => body,
    }
}

/// An error as the clients of each language write it.
#[derive(Debug, Default, Deserialize)]
struct Written {
    #[serde(default, rename = "errorType")]
    kind: Option<String>,
    #[serde(default, rename = "errorMessage")]
    message: Option<Value>,
    /// Python and Java.
    #[serde(default, rename = "stackTrace")]
    stack: Option<Value>,
    /// Node.
    #[serde(default)]
    trace: Option<Value>,
}

/// An error: its type, and its message with the stack in the lines after it. The body's own type goes before the header's,
/// in which some clients say `unhandled` of every error.
pub(crate) fn error(header: Option<&str>, body: &[u8]) -> ErrorInfo {
    let written: Option<Written> = serde_json::from_slice(body).ok();
    let Some(written) = written else {
        let text = String::from_utf8_lossy(body).trim().to_owned();
        let text = if text.is_empty() { "the function did not say what went wrong".to_owned() } else { text };
        return ErrorInfo::new(header.unwrap_or(UNKNOWN), text);
    };
    let given = written.kind.filter(|kind| !kind.is_empty());
    let kind = given.or_else(|| header.map(str::to_owned)).unwrap_or_else(|| UNKNOWN.to_owned());
    let mut message = match written.message {
        Some(Value::String(text)) => text,
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    for line in lines(written.stack).into_iter().chain(lines(written.trace)) {
        if !message.is_empty() {
            message.push('\n');
        }
        message.push_str(line.trim_end());
    }
    ErrorInfo::new(kind, message)
}

/// A stack as it may be written: a list of texts, or one text.
fn lines(stack: Option<Value>) -> Vec<String> {
    match stack {
        Some(Value::Array(lines)) => lines
            .into_iter()
            .map(|line| match line {
                Value::String(line) => line,
                other => other.to_string(),
            })
            .collect(),
        Some(Value::String(text)) => text.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The error in the trailers of a response that broke off: its type, and its body in base64.
pub(crate) fn broken_off(kind: &str, body: Option<&str>) -> ErrorInfo {
    let body = body.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    error(Some(kind), &body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(content_type: Option<&str>, body: &'static [u8]) -> String {
        String::from_utf8(whole(content_type, Bytes::from_static(body)).to_vec()).unwrap()
    }

    #[test]
    fn a_streamed_http_response_becomes_the_object_of_one_that_is_not() {
        let body = b"{\"statusCode\":201,\"cookies\":[\"a=b\"]}\0\0\0\0\0\0\0\0hello";
        let value: Value = serde_json::from_str(&text(Some(HTTP_INTEGRATION), body)).unwrap();
        assert_eq!(value, json!({ "statusCode": 201, "cookies": ["a=b"], "body": "hello", "isBase64Encoded": false }));
        let bytes = text(Some(HTTP_INTEGRATION), b"{}\0\0\0\0\0\0\0\0\xff");
        assert_eq!(bytes, "{\"body\":\"/w==\",\"isBase64Encoded\":true,\"statusCode\":200}");
        assert_eq!(text(Some(HTTP_INTEGRATION), b"no prelude"), "no prelude");
        assert_eq!(text(None, b"{}\0\0\0\0\0\0\0\0a"), "{}\0\0\0\0\0\0\0\0a");
    }

    #[test]
    fn an_error_has_type_message_and_stack_whatever_language_wrote_it() {
        let python = br#"{"errorMessage":"no stock","errorType":"OutOfStock","requestId":"x","stackTrace":["  File \"app.py\", line 3, in handler\n    raise\n"]}"#;
        let seen = error(None, python);
        assert_eq!(seen.kind, "OutOfStock");
        assert_eq!(seen.message, "no stock\n  File \"app.py\", line 3, in handler\n    raise");
        let node = br#"{"errorType":"TypeError","errorMessage":"x is not a function","trace":["TypeError: x is not a function","    at handler (app.js:1:2)"]}"#;
        let seen = error(Some("TypeError"), node);
        assert!(seen.message.ends_with("\n    at handler (app.js:1:2)"), "{}", seen.message);
        let rust = br#"{"errorType":"orders::ValidationError","errorMessage":"bad"}"#;
        assert_eq!(error(Some("unhandled"), rust), ErrorInfo::new("orders::ValidationError", "bad"));
    }

    #[test]
    fn an_error_that_says_little_is_an_error_all_the_same() {
        assert_eq!(error(Some("Function.Bad"), b"oops"), ErrorInfo::new("Function.Bad", "oops"));
        assert_eq!(error(None, b"{}").kind, UNKNOWN);
        assert_eq!(error(None, b"").message, "the function did not say what went wrong");
        assert_eq!(error(None, br#"{"errorMessage":{"a":1}}"#).message, "{\"a\":1}");
        assert_eq!(error(None, b"[1]").kind, UNKNOWN);
    }

    proptest! {
        /// Whatever a function posts is an answer: what is no HTTP response stays as it is, and every error has a type.
        #[test]
        fn any_body_is_a_response_or_an_error(
            body in prop::collection::vec(any::<u8>(), 0..200), header in prop::option::of("[ -~]{1,20}"),
        ) {
            let bytes = Bytes::from(body.clone());
            prop_assert_eq!(whole(None, bytes.clone()), bytes.clone());
            if !body.windows(8).any(|part| part == [0; 8]) {
                prop_assert_eq!(whole(Some(HTTP_INTEGRATION), bytes.clone()), bytes);
            }
            prop_assert!(!error(header.as_deref(), &body).kind.is_empty());
            let text = String::from_utf8_lossy(&body).into_owned();
            prop_assert!(!broken_off("x", Some(&text)).kind.is_empty());
        }

        #[test]
        fn a_streamed_body_is_given_back_whole(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let streamed = [b"{\"statusCode\":200}".as_slice(), [0; 8].as_slice(), &body].concat();
            let response: Value = serde_json::from_slice(&whole(Some(HTTP_INTEGRATION), streamed.into())).unwrap();
            let text = response["body"].as_str().unwrap();
            let back = if response["isBase64Encoded"] == true { STANDARD.decode(text).unwrap() } else { text.as_bytes().to_vec() };
            prop_assert_eq!(back, body);
        }
    }

    #[test]
    fn trailers_carry_an_error_too() {
        let body = STANDARD.encode(r#"{"errorMessage":"half way","errorType":"Late"}"#);
        assert_eq!(broken_off("Function.Late", Some(&body)), ErrorInfo::new("Late", "half way"));
        assert_eq!(broken_off("Function.Late", Some("%%%")).kind, "Function.Late");
    }
}
