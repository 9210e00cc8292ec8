//! Function URLs: any HTTP request below `/fn/NAME` becomes an event of that function, and its answer the response.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::json;
use weft_schemas::http_event::{self, Arrived};
use weft_schemas::{Event, FunctionName, RequestKind};

use super::error::ApiError;
use super::invoke::put;
use super::{Front, Served, key};
use crate::requests::{Answer, AskError, Request};

/// Where a function's own root begins.
const ROOT: &str = "/fn/";
/// What is the platform's below a function's root.
const OURS: &str = "/_weft/invocations/";
/// How soon it is worth asking again how an invocation stands.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("1");

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place<'a> {
    /// To the function; the path below its root.
    Function(FunctionName, &'a str),
    /// How an invocation stands, or the answer of one that has ended.
    Invocation { function: FunctionName, id: String, answer: bool },
}

fn place(path: &str) -> Option<Place<'_>> {
    let rest = path.strip_prefix(ROOT)?;
    let (name, below) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let function = FunctionName::new(name).ok()?;
    let Some(id) = below.strip_prefix(OURS) else { return Some(Place::Function(function, below)) };
    let (id, answer) = id.strip_suffix("/answer").map_or((id, false), |id| (id, true));
    let id = percent_encoding::percent_decode_str(id).decode_utf8().ok()?.into_owned();
    (!id.is_empty() && id.len() <= key::MOST_BYTES).then_some(Place::Invocation { function, id, answer })
}

/// Whether the caller does not want to wait (RFC 7240).
fn is_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut all = preferences.flat_map(|value| value.split(','));
    all.any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("respond-async"))
}

fn plain(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

pub(super) async fn answer(
    State(front): State<Arc<Front>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: HttpRequest,
) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let mut response = front.url(&id, from, request).await.unwrap_or_else(refusal);
    put(&mut response, "x-amzn-requestid", &id);
    response
}

/// The status that HTTP has for it, without the shapes of AWS's clients.
fn refusal(error: ApiError) -> Response {
    let mut response = plain(error.status, &error.message);
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

impl Front {
    async fn url(&self, id: &str, from: SocketAddr, request: HttpRequest) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        let unknown = || ApiError::not_found("Not Found");
        let path = parts.uri.path().to_owned();
        let place = place(&path).ok_or_else(unknown)?;
        let (function, below) = match place {
            Place::Function(function, below) => (function, below),
            Place::Invocation { function, id, answer } => {
                let served = self.functions.get(&function).ok_or_else(unknown)?;
                return self.standing(served, &id, answer, &parts.method).await;
            }
        };
        let served = self.functions.get(&function).ok_or_else(unknown)?;
        let (body, seat) = self.body(&parts.headers, body).await?;
        let waits = !is_async(&parts.headers);
        let name = key::given(&parts.headers).map_err(ApiError::parameter)?.unwrap_or_else(|| id.to_owned());
        let now = Timestamp::now();
        let arrived = Arrived {
            function: function.as_str(),
            method: parts.method.as_str(),
            path: below,
            query: parts.uri.query().unwrap_or_default(),
            protocol: protocol(parts.version),
            headers: texts(&parts.headers),
            body: &body,
            source_ip: &from.ip().to_string(),
            request_id: id,
            time: now,
        };
        let event = RequestKind::Http.event(&name, arrived.document().to_string().into(), now, waits);
        let request = served.admit(event)?;
        drop(body);
        if !waits {
            self.requests.post(&request).await.map_err(|error| ApiError::unanswered(&error, &name))?;
            return Ok(accepted(&function, &name));
        }
        match self.requests.ask(seat, &request, &served.door, served.limit()).await {
            Ok((answer, _)) => Ok(respond(answer)),
            Err(error @ AskError::Late(_)) => {
                tracing::debug!(function = %function, %error, "caller of a function URL was not answered in time");
                Ok(plain(StatusCode::GATEWAY_TIMEOUT, &format!("{error}; ask again with the same Idempotency-Key")))
            }
            Err(error) => Err(served.unanswered(&error, &name)),
        }
    }

    /// How an invocation stands, by the ledger; or its answer, as it was or would have been given.
    async fn standing(&self, served: &Served, id: &str, answer: bool, method: &Method) -> Result<Response, ApiError> {
        if *method != Method::GET && *method != Method::HEAD {
            return Err(ApiError::method());
        }
        let away = |error: weft_ledger::Error| {
            let text = format!("the ledger does not answer: {error}");
            ApiError::service(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let request = served.key_of(id)?;
        let record = self.requests.record(&request.function, &request.key).await.map_err(away)?;
        let Some(record) = record else {
            // It waits in its queue; or there is none, which nobody can tell from here.
            return Ok(pending(json!({ "id": id, "status": "unclaimed" })));
        };
        let document = json!({
            "id": id,
            "status": record.state,
            "attempt": record.attempt,
            "first_seen_at": record.first_seen_at,
            "updated_at": record.updated_at,
        });
        let ended = self.requests.answer(record).await.map_err(away)?;
        Ok(match ended {
            None => pending(document),
            Some(ended) if answer => respond(ended),
            Some(_) => (StatusCode::OK, Json(document)).into_response(),
        })
    }
}

impl Served {
    /// What names the invocation that a URL's caller has called `id`.
    fn key_of(&self, id: &str) -> Result<Request, ApiError> {
        let event: Event = RequestKind::Http.event(id, "null".into(), Timestamp::UNIX_EPOCH, false);
        let key = event.default_key().map_err(|error| ApiError::parameter(error.to_string()))?;
        Ok(Request { function: self.function.name.clone(), key, event })
    }
}

fn pending(document: serde_json::Value) -> Response {
    let mut response = (StatusCode::ACCEPTED, Json(document)).into_response();
    response.headers_mut().insert(RETRY_AFTER, ASK_AGAIN);
    response
}

fn accepted(function: &FunctionName, name: &str) -> Response {
    let escaped = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let place = format!("{ROOT}{function}{OURS}{escaped}");
    let mut response = pending(json!({ "id": name, "status": "unclaimed", "location": place }));
    response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

fn protocol(version: Version) -> &'static str {
    if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" }
}

fn texts(headers: &HeaderMap) -> Vec<(&str, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

/// What became of it, as HTTP has it. What a function's error says is its owner's business and not the caller's.
fn respond(answer: Answer) -> Response {
    let bad = || plain(StatusCode::BAD_GATEWAY, "Internal Server Error");
    let result = match answer {
        Answer::Succeeded { result } => result,
        Answer::Dead { reason, error } => {
            return match reason.as_deref() {
                Some("mismatch") => {
                    plain(StatusCode::UNPROCESSABLE_ENTITY, "the Idempotency-Key was used before, for another request")
                }
                Some("schema" | "no_key" | "undecodable") => plain(StatusCode::BAD_REQUEST, &error.message),
                Some("too_large") => plain(StatusCode::PAYLOAD_TOO_LARGE, &error.message),
                Some("timed_out") => plain(StatusCode::GATEWAY_TIMEOUT, "the function did not answer in time"),
                _ => bad(),
            };
        }
    };
    let http_event::Answer { status, headers, body } = match http_event::Answer::of_result(&result) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, "function's answer is none of HTTP's");
            return bad();
        }
    };
    let Ok(status) = StatusCode::from_u16(status) else { return bad() };
    let mut response = (status, Body::from(body)).into_response();
    response.headers_mut().remove("content-type");
    for (name, value) in headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => response.headers_mut().append(name, value),
            _ => return bad(),
        };
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_leads_to_a_function_or_to_one_of_its_invocations() {
        let name = |text: &str| FunctionName::new(text).unwrap();
        assert_eq!(place("/fn/shop"), Some(Place::Function(name("shop"), "/")));
        assert_eq!(place("/fn/shop/"), Some(Place::Function(name("shop"), "/")));
        assert_eq!(place("/fn/shop/a%20b//c"), Some(Place::Function(name("shop"), "/a%20b//c")));
        assert_eq!(place("/fn/shop/_weftling"), Some(Place::Function(name("shop"), "/_weftling")));
        let invocation = |id: &str, answer| Place::Invocation { function: name("shop"), id: id.to_owned(), answer };
        assert_eq!(place("/fn/shop/_weft/invocations/a%2Fb"), Some(invocation("a/b", false)));
        assert_eq!(place("/fn/shop/_weft/invocations/k/answer"), Some(invocation("k", true)));
        for path in ["/", "/fn", "/fn/", "/fn/Shop", "/health", "/fn/shop/_weft/invocations/", "/fn//x"] {
            assert_eq!(place(path), None, "{path}");
        }
    }

    #[test]
    fn a_caller_says_by_prefer_that_it_does_not_wait() {
        for (value, expected) in [
            ("respond-async", true),
            ("return=minimal, Respond-Async; wait=10", true),
            ("wait=10", false),
            ("respond-asynchronously", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(value));
            assert_eq!(is_async(&headers), expected, "{value}");
        }
    }

    #[test]
    fn an_error_of_the_function_is_not_shown_to_its_callers() {
        let error = weft_schemas::ErrorInfo::new("Secret", "s3cret");
        for (reason, status) in [
            (Some("terminal"), 502),
            (Some("exhausted"), 502),
            (Some("crashed"), 502),
            (None, 502),
            (Some("timed_out"), 504),
            (Some("mismatch"), 422),
        ] {
            let reason = reason.map(str::to_owned);
            assert_eq!(respond(Answer::Dead { reason, error: error.clone() }).status().as_u16(), status);
        }
        let of = |result: &'static str| respond(Answer::Succeeded { result: result.into() }).status().as_u16();
        assert_eq!(of(r#"{"statusCode":418}"#), 418);
        assert_eq!(of(r#"{"statusCode":200,"headers":{"bad name":"x"}}"#), 502);
        assert_eq!(of(r#"{"statusCode":200,"headers":{"x":"a\nb"}}"#), 502);
    }
}
