//! Answers to requests: as AWS's emulator gives them, errors always as JSON.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::super::machine::Refused;

pub(in super::super) type Answer = Response<Full<Bytes>>;

pub(super) fn accepted() -> Answer {
    plain(StatusCode::ACCEPTED, Bytes::from_static(b"{\"status\":\"OK\"}\n"), "application/json")
}

pub(super) fn refused(why: Refused) -> Answer {
    let status = StatusCode::from_u16(why.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &json!({ "errorMessage": why.message(), "errorType": why.kind() }))
}

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Answer {
    plain(status, body.to_string().into(), "application/json")
}

pub(super) fn plain(status: StatusCode, body: Bytes, content_type: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A text that no header can hold is left out.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
