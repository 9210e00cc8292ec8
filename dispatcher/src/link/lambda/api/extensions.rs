//! The Extensions API: registered, told of invocations and of the end, heard when they fail.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::super::answer;
use super::super::machine::{ExtensionEvent, Machine, Refused};
use super::body::{MAX_SMALL_BYTES, Rejected, collect};
use super::reply::{Answer, accepted, json_answer, put};
use super::{Api, Said, State, error_type, one_line};

/// How long an extension is told that it has when the worker is ended.
const SHUTDOWN_MS: u64 = 2_000;

const EXTENSION_NAME: &str = "lambda-extension-name";
const EXTENSION_ID: &str = "lambda-extension-identifier";

impl Api {
    /// Tells waiting extensions what there is for them.
    pub(in super::super) fn tell_extensions(&self) {
        let mut state = self.state();
        let State { machine, listening, .. } = &mut *state;
        tell_extensions(machine, listening);
    }

    pub(super) async fn register(&self, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        let (body, _) = collect(body, MAX_SMALL_BYTES).await?;
        let named = headers.get(EXTENSION_NAME).is_some_and(|name| !name.is_empty());
        if !named {
            return Err(Rejected { why: Refused::NoExtensionName, rest: None });
        }
        let wanted: Value = serde_json::from_slice(&body).unwrap_or_default();
        let wants =
            |event: &str| wanted["events"].as_array().is_some_and(|events| events.iter().any(|wanted| wanted == event));
        let identifier = uuid::Uuid::new_v4().to_string();
        self.state()
            .machine
            .register(identifier.clone(), wants("INVOKE"), wants("SHUTDOWN"))
            .map_err(|why| Rejected { why, rest: None })?;
        self.extensions.store(true, Ordering::Relaxed);
        let who = json!({
            "functionName": self.function.as_str(), "functionVersion": "$LATEST", "handler": self.lambda.handler,
        });
        let mut answer = json_answer(StatusCode::OK, &who);
        put(answer.headers_mut(), HeaderName::from_static(EXTENSION_ID), &identifier);
        Ok(answer)
    }

    pub(super) async fn extension_next(&self, headers: &HeaderMap) -> Result<Answer, Refused> {
        let identifier = self.extension(headers)?;
        let waits = {
            let mut state = self.state();
            match state.machine.extension_event(&identifier)? {
                Some(event) => Err(event),
                None => {
                    let (event, waits) = oneshot::channel();
                    if !state.closed {
                        // One that asked before and waits still is gone.
                        state.listening.insert(identifier, event);
                    }
                    Ok(waits)
                }
            }
        };
        let event = match waits {
            Err(event) => event,
            Ok(waits) => waits.await.map_err(|_| Refused::Transition { from: "gone", to: "asking for an event" })?,
        };
        let event = match event {
            ExtensionEvent::Invoke { request, deadline_ms, trace } => {
                let mut event = json!({
                    "eventType": "INVOKE", "deadlineMs": deadline_ms, "requestId": &*request,
                    "invokedFunctionArn": self.lambda.arn,
                });
                if let Some(trace) = trace {
                    event["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": trace });
                }
                event
            }
            ExtensionEvent::Shutdown => {
                let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
                json!({ "eventType": "SHUTDOWN", "shutdownReason": "spindown", "deadlineMs": now + SHUTDOWN_MS })
            }
        };
        let mut answer = json_answer(StatusCode::OK, &event);
        let id = uuid::Uuid::new_v4().to_string();
        put(answer.headers_mut(), HeaderName::from_static("lambda-extension-event-identifier"), &id);
        Ok(answer)
    }

    fn extension(&self, headers: &HeaderMap) -> Result<String, Refused> {
        let identifier = headers.get(EXTENSION_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        if self.state().machine.knows_extension(identifier) {
            Ok(identifier.to_owned())
        } else {
            Err(Refused::UnknownExtension)
        }
    }

    /// An extension failed: before the runtime was ready that is a failed start, later a line in the log.
    pub(super) async fn extension_failed(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        what: &str,
    ) -> Result<Answer, Rejected> {
        let (body, _) = collect(body, MAX_SMALL_BYTES).await?;
        self.extension(headers).map_err(|why| Rejected { why, rest: None })?;
        let error = answer::error(error_type(headers), &body);
        let failed = self.state().machine.init_error().is_ok();
        if failed {
            self.say(Said::InitFailed(format!("an extension cannot {what}: {}", one_line(&error))));
        } else {
            tracing::warn!(
                function = %self.function, worker = self.worker, kind = error.kind, error = error.message, what,
                "an extension of a worker failed"
            );
        }
        Ok(accepted())
    }
}

pub(super) fn tell_extensions(machine: &mut Machine, listening: &mut HashMap<String, oneshot::Sender<ExtensionEvent>>) {
    let ready: Vec<String> = listening.keys().cloned().collect();
    for identifier in ready {
        if let Ok(Some(event)) = machine.extension_event(&identifier)
            && let Some(waits) = listening.remove(&identifier)
        {
            let _ = waits.send(event);
        }
    }
}

/// As AWS's emulator answers a subscription to what it has none of.
pub(super) async fn unsupported(body: Incoming, what: &str) -> Result<Answer, Rejected> {
    collect(body, MAX_SMALL_BYTES).await?;
    let text =
        json!({ "errorMessage": format!("{what} API is not supported"), "errorType": format!("{what}.NotSupported") });
    Ok(json_answer(StatusCode::ACCEPTED, &text))
}
