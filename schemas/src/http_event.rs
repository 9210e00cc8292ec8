//! HTTP as a function sees it: AWS's payload format 2.0, there and back. Pure.
//!
//! What the function gets is described at
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>. What it answers
//! is read as AWS reads it: an object with a `statusCode`, else any value, which is the body of a 200; or a stream with a
//! prelude, as one piece.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

/// The content type of a streamed answer that begins with a prelude.
pub const STREAM_TYPE: &str = "application/vnd.awslambda.http-integration-response";
/// What stands between a prelude and its body.
const DELIMITER: [u8; 8] = [0; 8];
/// Headers that are about one connection and not about the answer. The length is written anew.
const OF_THE_CONNECTION: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived<'a> {
    pub function: &'a str,
    pub method: &'a str,
    /// Below the function's own root, as it was sent (with its escapes); begins with `/`.
    pub path: &'a str,
    /// Without the question mark, as it was sent; may be empty.
    pub query: &'a str,
    /// Such as `HTTP/1.1`.
    pub protocol: &'a str,
    /// In order, repeated ones too. Bytes that are no text are replaced.
    pub headers: Vec<(&'a str, String)>,
    pub body: &'a [u8],
    pub source_ip: &'a str,
    pub request_id: &'a str,
    pub time: Timestamp,
}

impl Arrived<'_> {
    /// The document that the function gets.
    pub fn document(&self) -> Value {
        let (headers, cookies) = self.headers();
        let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let (host, agent) = (header("host"), header("user-agent"));
        let text = text_of(&header("content-type"), self.body);
        let mut document = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": self.path,
            "rawQueryString": self.query,
            "headers": headers,
            "requestContext": {
                "accountId": "anonymous",
                "apiId": self.function,
                "domainName": host,
                "domainPrefix": self.function,
                "http": {
                    "method": self.method,
                    "path": self.path,
                    "protocol": self.protocol,
                    "sourceIp": self.source_ip,
                    "userAgent": agent,
                },
                "requestId": self.request_id,
                "routeKey": "$default",
                "stage": "$default",
                "time": self.time.to_zoned(TimeZone::UTC).strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
                "timeEpoch": self.time.as_millisecond(),
            },
            "isBase64Encoded": !self.body.is_empty() && text.is_none(),
        });
        let mut put =
            |name: &str, value: Value| document.as_object_mut().map(|object| object.insert(name.to_owned(), value));
        if !cookies.is_empty() {
            put("cookies", json!(cookies));
        }
        if let Some(parameters) = parameters(self.query) {
            put("queryStringParameters", json!(parameters));
        }
        if !self.body.is_empty() {
            put("body", text.map_or_else(|| BASE64.encode(self.body), str::to_owned).into());
        }
        document
    }

    /// Names in lower case, repeated ones joined by a comma; cookies by themselves.
    fn headers(&self) -> (BTreeMap<String, String>, Vec<String>) {
        let (mut headers, mut cookies) = (BTreeMap::<String, String>::new(), Vec::new());
        for (name, value) in &self.headers {
            let name = name.to_ascii_lowercase();
            if name == "cookie" {
                cookies.extend(
                    value.split(';').map(|cookie| cookie.trim().to_owned()).filter(|cookie| !cookie.is_empty()),
                );
                continue;
            }
            match headers.get_mut(&name) {
                Some(known) => {
                    known.push(',');
                    known.push_str(value);
                }
                None => {
                    headers.insert(name, value.clone());
                }
            }
        }
        (headers, cookies)
    }
}

/// The body as text, where its type says that it is text and it is.
fn text_of<'a>(content_type: &str, body: &'a [u8]) -> Option<&'a str> {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/')?;
    let textual = kind == "text"
        || kind == "application"
            && (["json", "xml", "javascript"].contains(&subtype)
                || subtype.ends_with("+json")
                || subtype.ends_with("+xml"));
    textual.then(|| std::str::from_utf8(body).ok()).flatten()
}

/// The query's parameters, decoded; repeated ones joined by a comma. `None` where there is none.
fn parameters(query: &str) -> Option<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::<String, String>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        match parameters.get_mut(&name) {
            Some(known) => {
                known.push(',');
                known.push_str(&value);
            }
            None => {
                parameters.insert(name, value);
            }
        }
    }
    (!parameters.is_empty()).then_some(parameters)
}

/// A form's escapes undone (<https://url.spec.whatwg.org/#urlencoded-parsing>): what is no escape stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match pair {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// An answer as it goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// In lower case; several may have one name. Not yet known to be fit for the wire.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// A function's answer that is none. The text never holds what the function answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the function's answer: {what}")]
pub struct Malformed {
    what: &'static str,
}

fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

impl Answer {
    /// Reads a result: JSON, or a stream with a prelude.
    ///
    /// # Errors
    /// It is neither, or a part of it is not what it has to be.
    pub fn of_result(result: &[u8]) -> Result<Self, Malformed> {
        if let Some((prelude, body)) = split(result) {
            return Self::of_stream(prelude, body);
        }
        let Ok(value) = serde_json::from_slice::<Value>(result) else { return malformed("it is no JSON") };
        match value {
            Value::Object(object) if object.contains_key("statusCode") => Self::of_object(&object),
            // A text is its own body; anything else as it was written.
            Value::String(text) => Ok(Self::plain(Bytes::from(text))),
            _ => Ok(Self::plain(Bytes::copy_from_slice(result))),
        }
    }

    fn plain(body: Bytes) -> Self {
        Self { status: 200, headers: vec![("content-type".to_owned(), "application/json".to_owned())], body }
    }

    fn of_object(object: &Map<String, Value>) -> Result<Self, Malformed> {
        let encoded = match object.get("isBase64Encoded") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(encoded)) => *encoded,
            Some(_) => return malformed("isBase64Encoded is no boolean"),
        };
        let body = match object.get("body") {
            None | Some(Value::Null) => Bytes::new(),
            Some(Value::String(text)) if encoded => match BASE64.decode(text) {
                Ok(bytes) => Bytes::from(bytes),
                Err(_) => return malformed("the body is no base64"),
            },
            Some(Value::String(text)) => Bytes::from(text.clone()),
            Some(_) => return malformed("the body is no text"),
        };
        let mut headers = headers(object)?;
        if !body.is_empty() && !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        Ok(Self { status: status(object)?, headers, body })
    }

    fn of_stream(prelude: &[u8], body: &[u8]) -> Result<Self, Malformed> {
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(prelude) else {
            return malformed("the prelude is no JSON object");
        };
        let mut headers = headers(&object)?;
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/octet-stream".to_owned()));
        }
        Ok(Self { status: status(&object)?, headers, body: Bytes::copy_from_slice(body) })
    }
}

/// A streamed answer, complete, as the JSON of one that was not streamed: what the ledger keeps of it.
///
/// # Errors
/// Its prelude is none.
pub fn buffered(stream: &[u8]) -> Result<Value, Malformed> {
    let Some((prelude, body)) = split(stream) else { return malformed("it has no prelude") };
    let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(prelude) else {
        return malformed("the prelude is no JSON object");
    };
    object.entry("statusCode").or_insert(200.into());
    match std::str::from_utf8(body) {
        // Postgres takes no NUL, wherever it may pass by as text.
        Ok(text) if !text.contains('\0') => {
            object.insert("body".to_owned(), text.into());
            object.insert("isBase64Encoded".to_owned(), false.into());
        }
        _ => {
            object.insert("body".to_owned(), BASE64.encode(body).into());
            object.insert("isBase64Encoded".to_owned(), true.into());
        }
    }
    Ok(Value::Object(object))
}

/// Prelude and body of a stream; `None` where there is no prelude. JSON itself holds no NUL.
fn split(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = stream.windows(DELIMITER.len()).position(|window| window == DELIMITER)?;
    Some((stream.get(..at)?, stream.get(at + DELIMITER.len()..)?))
}

fn status(object: &Map<String, Value>) -> Result<u16, Malformed> {
    let number = match object.get("statusCode") {
        None => Some(200),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    // An informational one is no answer.
    match number.and_then(|number| u16::try_from(number).ok()).filter(|number| (200..=599).contains(number)) {
        Some(status) => Ok(status),
        None => malformed("statusCode is no number from 200 to 599"),
    }
}

fn headers(object: &Map<String, Value>) -> Result<Vec<(String, String)>, Malformed> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Null => return Ok(()),
            Value::Array(_) | Value::Object(_) => return malformed("a header is no text"),
        };
        let name = name.to_ascii_lowercase();
        if !OF_THE_CONNECTION.contains(&name.as_str()) {
            all.push((name, text));
        }
        Ok(())
    };
    let several = match object.get("multiValueHeaders") {
        None | Some(Value::Null) => None,
        Some(Value::Object(several)) => Some(several),
        Some(_) => return malformed("multiValueHeaders is no object"),
    };
    match object.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Object(single)) => {
            let is_several =
                |name: &str| several.is_some_and(|s| s.keys().any(|known| known.eq_ignore_ascii_case(name)));
            for (name, value) in single.iter().filter(|(name, _)| !is_several(name)) {
                add(name, value)?;
            }
        }
        Some(_) => return malformed("headers is no object"),
    }
    for (name, values) in several.into_iter().flatten() {
        let Value::Array(values) = values else { return malformed("a value of multiValueHeaders is no array") };
        for value in values {
            add(name, value)?;
        }
    }
    match object.get("cookies") {
        None | Some(Value::Null) => {}
        Some(Value::Array(cookies)) => {
            for cookie in cookies {
                add("set-cookie", cookie)?;
            }
        }
        Some(_) => return malformed("cookies is no array"),
    }
    Ok(all)
}

#[cfg(test)]
#[path = "http_event/tests.rs"]
mod tests;
