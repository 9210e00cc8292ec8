//! Errors in the shape in which AWS's clients read them: a status, a header with the kind, a JSON body.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::requests::AskError;

/// Whose fault it is, as the body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    User,
    Service,
}

/// An error of the Invoke API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// The name of the exception that clients raise.
    pub(super) kind: &'static str,
    pub(super) message: String,
    blame: Blame,
    /// What was reached, of a throttled request.
    reason: Option<&'static str>,
    /// Seconds.
    retry_after: Option<u32>,
}

impl ApiError {
    fn user(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), blame: Blame::User, reason: None, retry_after: None }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::user(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
    }

    pub(super) fn unknown_operation() -> Self {
        Self::user(StatusCode::NOT_FOUND, "UnknownOperationException", "no such operation here; see docs/http.md")
    }

    pub(super) fn method() -> Self {
        Self::user(StatusCode::METHOD_NOT_ALLOWED, "UnknownOperationException", "no such method of this path")
    }

    /// The payload is not what it has to be.
    pub(super) fn content(message: impl Into<String>) -> Self {
        Self::user(StatusCode::BAD_REQUEST, "InvalidRequestContentException", message)
    }

    /// A header, a path or a parameter is not what it has to be.
    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self::user(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::user(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", message)
    }

    pub(super) fn slow() -> Self {
        let text = "the request's body did not arrive in time";
        Self::user(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", text)
    }

    /// Not signed as it has to be; `kind` says how.
    pub(super) fn signature(kind: &'static str, message: impl Into<String>) -> Self {
        Self::user(StatusCode::FORBIDDEN, kind, message)
    }

    pub(super) fn throttled(reason: &'static str, message: impl Into<String>, retry_after: u32) -> Self {
        Self {
            reason: Some(reason),
            retry_after: Some(retry_after),
            ..Self::user(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", message)
        }
    }

    pub(super) fn service(status: StatusCode, message: impl Into<String>) -> Self {
        let blame = Blame::Service;
        Self { blame, ..Self::user(status, "ServiceException", message) }
    }

    /// Seconds.
    pub(super) fn retry_after(&self) -> Option<u32> {
        self.retry_after
    }

    /// Too many wait here.
    pub(super) fn full() -> Self {
        Self::throttled("CallerRateLimitExceeded", "too many requests wait for answers at this dispatcher", 1)
    }

    /// `key`: to ask again with.
    pub(super) fn unanswered(error: &AskError, key: &str) -> Self {
        let again = format!("{error}; ask again with the same key ({key})");
        match error {
            AskError::Throttled => {
                Self::throttled("ReservedFunctionConcurrentInvocationLimitExceeded", "Rate Exceeded.", 1)
            }
            AskError::Refused => Self::throttled("ConcurrentInvocationLimitExceeded", again, 1),
            AskError::Broker(_) | AskError::Stopping => {
                Self { retry_after: Some(1), ..Self::service(StatusCode::SERVICE_UNAVAILABLE, again) }
            }
            AskError::Late(_) => Self::service(StatusCode::GATEWAY_TIMEOUT, again),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = match self.blame {
            Blame::User => "User",
            Blame::Service => "Service",
        };
        // Some shapes name it with a capital letter and some without; clients read the one that theirs has.
        let mut body = json!({ "Type": kind, "Message": self.message, "message": self.message });
        if let (Some(reason), Some(object)) = (self.reason, body.as_object_mut()) {
            object.insert("Reason".to_owned(), reason.into());
        }
        if let (Some(seconds), Some(object)) = (self.retry_after, body.as_object_mut()) {
            object.insert("retryAfterSeconds".to_owned(), seconds.to_string().into());
        }
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-amzn-errortype", HeaderValue::from_static(self.kind));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
