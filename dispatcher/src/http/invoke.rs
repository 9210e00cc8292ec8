//! The operation Invoke: a payload to a function, and its answer back.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_schemas::request::{CLIENT_CONTEXT_EXTENSION, LOG_EXTENSION};
use weft_schemas::{ErrorInfo, Reason, RequestKind};

use super::call::{LATEST, Named};
use super::error::ApiError;
use super::functions::empty;
use super::{Front, Served, Whole, key, log};
use crate::requests::{Answer, AskError, Request};
use crate::status::Throttle;

/// The largest payload of an invocation that nobody waits for, in bytes, as AWS has it.
const MOST_ASYNC_BYTES: usize = 1 << 20;
/// The largest client context, in characters of base64, as AWS has it.
const MOST_CONTEXT: usize = 3_583;
/// What is given to the way there and back, beyond the function's own time.
const MARGIN: Duration = Duration::from_secs(30);

/// How a function is invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match headers.get("x-amz-invocation-type").map(HeaderValue::as_bytes) {
            None | Some(b"RequestResponse") => Ok(Self::RequestResponse),
            Some(b"Event") => Ok(Self::Event),
            Some(b"DryRun") => Ok(Self::DryRun),
            Some(_) => Err(ApiError::parameter("X-Amz-Invocation-Type is none of RequestResponse, Event and DryRun")),
        }
    }
}

impl Front {
    /// `kind`: where the operation itself says it.
    pub(super) async fn invoke(&self, named: &Named, whole: Whole, kind: Option<Kind>) -> Result<Response, ApiError> {
        let served = self.served(named, &whole.query)?;
        let kind = kind.map_or_else(|| Kind::of(&whole.headers), Ok)?;
        let Whole { id, headers, body, seat, .. } = whole;
        if kind == Kind::Event && body.len() > MOST_ASYNC_BYTES {
            return Err(ApiError::too_large(format!("an asynchronous payload may have {MOST_ASYNC_BYTES} bytes")));
        }
        let name = key::given(&headers).map_err(ApiError::parameter)?.unwrap_or_else(|| id.clone());
        let request = served.invocation(&name, &headers, body, kind == Kind::RequestResponse)?;
        let key = request.key.clone();
        let unanswered = |error: AskError| served.unanswered(&error, &name);
        let mut response = match kind {
            Kind::DryRun => empty(StatusCode::NO_CONTENT),
            Kind::Event => {
                self.requests.post(&request).await.map_err(unanswered)?;
                empty(StatusCode::ACCEPTED)
            }
            Kind::RequestResponse => {
                let asked = self.requests.ask(seat, &request, &served.door, served.limit()).await;
                let (answer, took) = asked.map_err(unanswered)?;
                let mut response = respond(answer, &id, served.function.timeout)?;
                log::tell(&mut response, &took, &id, served.function.memory_bytes);
                response
            }
        };
        put(&mut response, "x-weft-key", key.as_str());
        Ok(response)
    }
}

impl Served {
    /// How long a caller waits at most.
    pub(super) fn limit(&self) -> Duration {
        self.function.timeout + self.function.init_timeout + MARGIN
    }

    /// What the caller is told who has no answer.
    pub(super) fn unanswered(&self, error: &AskError, name: &str) -> ApiError {
        if matches!(error, AskError::Throttled) {
            self.stats.throttled(Throttle::Reserved);
        }
        ApiError::unanswered(error, name)
    }

    /// The request that a payload makes, checked as the function's own events are, so that a fault is the caller's to mend
    /// and no dead letter.
    fn invocation(&self, name: &str, headers: &HeaderMap, body: Bytes, waits: bool) -> Result<Request, ApiError> {
        let payload = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
        if let Err(error) = serde_json::from_slice::<Value>(&payload) {
            let place = format!("line {} column {}", error.line(), error.column());
            return Err(ApiError::content(format!("Could not parse request body into json: at {place}")));
        }
        let mut event = RequestKind::Invoke.event(name, payload, Timestamp::now(), waits);
        if log::is_wanted(headers)? && waits {
            event.extensions.insert(LOG_EXTENSION.to_owned(), "tail".to_owned());
        }
        if let Some(context) = client_context(headers)? {
            event.extensions.insert(CLIENT_CONTEXT_EXTENSION.to_owned(), context);
        }
        self.admit(event)
    }

    /// Admits an event before it is sent.
    pub(super) fn admit(&self, event: weft_schemas::Event) -> Result<Request, ApiError> {
        let admitted = self.admission.admit(event.to_message("", ""), false, Timestamp::now()).map_err(|refusal| {
            let text = refusal.error.message;
            match refusal.reason {
                Reason::TooLarge => ApiError::too_large(text),
                _ => ApiError::content(text),
            }
        })?;
        Ok(Request { function: self.function.name.clone(), key: admitted.key, event })
    }
}

/// What the caller says of itself, as it came: base64 of a JSON object.
fn client_context(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("x-amz-client-context").filter(|value| !value.is_empty()) else { return Ok(None) };
    let bad = || ApiError::content("Client context must be a valid Base64-encoded JSON object.");
    let text = value.to_str().map_err(|_| bad())?;
    if text.len() > MOST_CONTEXT {
        return Err(ApiError::content(format!("Client context may have {MOST_CONTEXT} characters.")));
    }
    let document = BASE64.decode(text).map_err(|_| bad())?;
    serde_json::from_slice::<serde_json::Map<String, Value>>(&document).map_err(|_| bad())?;
    Ok(Some(text.to_owned()))
}

/// What became of it, as clients of AWS read it. A function's own error is an answer; only what kept it from running is an
/// error of the call.
fn respond(answer: Answer, id: &str, timeout: Duration) -> Result<Response, ApiError> {
    let mut response = match answer {
        Answer::Succeeded { result } => (StatusCode::OK, result).into_response(),
        Answer::Dead { reason, error } => match reason.as_deref() {
            Some("mismatch") => {
                let text = "the idempotency key is known with another payload";
                return Err(ApiError::parameter(text));
            }
            Some("schema" | "no_key" | "undecodable") => return Err(ApiError::content(error.message)),
            Some("too_large") => return Err(ApiError::too_large(error.message)),
            reason => {
                let body = function_error(reason, &error, id, timeout).to_string();
                let mut response = (StatusCode::OK, body).into_response();
                put(&mut response, "x-amz-function-error", "Unhandled");
                response
            }
        },
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    put(&mut response, "x-amz-executed-version", LATEST);
    Ok(response)
}

/// An error in the shape that AWS gives it.
pub(super) fn function_error(reason: Option<&str>, error: &ErrorInfo, id: &str, timeout: Duration) -> Value {
    match reason {
        Some("timed_out") => json!({
            "errorType": "Sandbox.Timedout",
            "errorMessage": format!("RequestId: {id} Error: Task timed out after {:.2} seconds", timeout.as_secs_f64()),
        }),
        Some("crashed") => json!({
            "errorType": "Runtime.ExitError",
            "errorMessage": format!("RequestId: {id} Error: {}", error.message),
        }),
        _ => {
            let (message, stack) = apart(&error.message, &error.kind);
            json!({ "errorMessage": message, "errorType": error.kind, "stackTrace": stack })
        }
    }
}

/// The message, and the stack that the ledger keeps in the lines behind it: from the first line on that looks like a frame
/// of Python or of Node, or like Node's repetition of the error above its frames.
fn apart<'a>(text: &'a str, kind: &str) -> (&'a str, Vec<&'a str>) {
    let is_frame = |line: &str| line.starts_with("  File \"") || line.starts_with("    at ");
    let (mut at, mut above) = (0, None::<(usize, &str)>);
    for line in text.split_inclusive('\n') {
        if at > 0 && is_frame(line) {
            let repeated = above.filter(|(start, line)| *start > 0 && line.starts_with(kind));
            let begins = repeated.map_or(at, |(start, _)| start);
            let Some((message, stack)) = text.split_at_checked(begins) else { break };
            return (message.trim_end_matches('\n'), stack.lines().collect());
        }
        above = Some((at, line));
        at += line.len();
    }
    (text, Vec::new())
}

/// Sets a header, unless its text is none that one may have.
pub(super) fn put(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_told_from_the_message_before_it() {
        for (text, message, frames) in [
            ("no stock\n  File \"app.py\", line 3, in handler\n    raise", "no stock", 2),
            ("no\nstock\n  File \"app.py\", line 3", "no\nstock", 1),
            ("x is no function\nTypeError: x is no function\n    at handler (app.js:1:2)", "x is no function", 2),
            ("two\nlines", "two\nlines", 0),
            ("", "", 0),
            ("    at once", "    at once", 0),
        ] {
            let (got, stack) = apart(text, "TypeError");
            assert_eq!((got, stack.len()), (message, frames), "{text:?}");
        }
    }

    #[test]
    fn a_time_out_and_a_crash_are_told_as_lambda_tells_them() {
        let error = ErrorInfo::new("TimedOut", "no answer within 3000 ms");
        let body = function_error(Some("timed_out"), &error, "id", Duration::from_secs(3));
        assert_eq!(body["errorType"], "Sandbox.Timedout");
        assert_eq!(body["errorMessage"], "RequestId: id Error: Task timed out after 3.00 seconds");
        let body = function_error(Some("crashed"), &error, "id", Duration::from_secs(3));
        assert_eq!(body["errorType"], "Runtime.ExitError");
        let body = function_error(Some("terminal"), &error, "id", Duration::from_secs(3));
        assert_eq!(body, json!({ "errorMessage": error.message, "errorType": "TimedOut", "stackTrace": [] }));
    }
}
