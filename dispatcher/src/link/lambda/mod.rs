//! The Lambda link: a worker that speaks AWS Lambda's Runtime API.
//!
//! Each worker has a listener of its own on loopback, which closes with it: what is asked there is asked by that worker, so
//! that no request needs to say whose it is. The rules are in [`machine`] (pure); [`api`] serves them over HTTP/1.1;
//! [`answer`] makes outcomes of bodies. To the pool a Lambda worker is a worker like any other: it gets the same frames and
//! says the same things (see [`super`]).
//!
//! What the Runtime API has no word for is done from outside: an attempt cannot be cancelled, so a worker that goes on after
//! its deadline is replaced; a worker is drained by leaving its question for the next invocation unanswered, and ended when
//! nothing is under way.

pub(crate) mod answer;
mod api;
pub(crate) mod environment;
pub(crate) mod machine;
mod peer;
mod report;
pub(crate) mod route;
mod serve;
mod tmp;

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use weft_schemas::TraceContext;
use weft_schemas::frame::Invoke;
use weft_schemas::manifest::{Function, Runtime};

pub(super) use serve::{Bound, Drained, Ways, Whose, serve};
pub(crate) use tmp::{TMP, needs_shared_tmp};

use machine::{Call, RequestId};

/// What the workers of a Lambda function are told of it.
#[derive(Debug, Clone)]
pub struct Lambda {
    pub(crate) arn: String,
    pub(crate) handler: String,
    /// Calls at once.
    pub(crate) slots: usize,
    pub(crate) memory_mib: u64,
    /// Each call is of several events.
    pub(crate) batch: bool,
}

impl Lambda {
    /// `None`: the function is not one. `env`: its workers' environment, for the region.
    pub(crate) fn of(function: &Function, env: &[(OsString, OsString)]) -> Option<Self> {
        (function.runtime == Runtime::Lambda).then(|| Self {
            arn: environment::arn(function, env),
            handler: function.handler.clone(),
            slots: function.slots as usize,
            memory_mib: function.memory_bytes >> 20,
            batch: function.batch.is_some(),
        })
    }

    /// The call of some attempts, to be handed out under a new id. `now`: of the frame that they came in.
    pub(crate) fn call(&self, invokes: Vec<Invoke>, now: Timestamp) -> Call {
        let remaining = invokes.iter().map(|invoke| invoke.remaining_ms).min().unwrap_or_default();
        let now = u64::try_from(now.as_millisecond()).unwrap_or_default();
        Call {
            request: uuid::Uuid::new_v4().to_string().into(),
            payload: payload(&invokes, self.batch),
            deadline_ms: now.saturating_add(remaining),
            trace: invokes.first().and_then(|invoke| invoke.trace.as_ref()).and_then(xray),
            invokes,
        }
    }
}

/// What a function gets: its event in CloudEvents' JSON form; of a batch a list of them.
fn payload(invokes: &[Invoke], batch: bool) -> Bytes {
    match invokes {
        [only] if !batch => only.event.to_structured_json().into(),
        several => {
            let mut list = vec![b'['];
            for (n, invoke) in several.iter().enumerate() {
                if n > 0 {
                    list.push(b',');
                }
                list.extend(invoke.event.to_structured_json());
            }
            list.push(b']');
            list.into()
        }
    }
}

/// A trace context in the form of AWS X-Ray's tracing header: the same ids, cut where X-Ray cuts them.
fn xray(trace: &TraceContext) -> Option<String> {
    let mut parts = trace.traceparent.split('-').skip(1);
    let (id, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let (epoch, rest) = (id.get(..8)?, id.get(8..)?);
    let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    Some(format!("Root=1-{epoch}-{rest};Parent={span};Sampled={}", u8::from(sampled)))
}

/// Which call a worker has in its hands, for the lines that it writes. Kept until the next: what is written at the end of a
/// call is read after it.
#[derive(Debug, Clone, Default)]
pub(super) struct Current(Arc<Mutex<Option<RequestId>>>);

impl Current {
    fn set(&self, request: Option<RequestId>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = request;
    }

    pub(super) fn get(&self) -> Option<RequestId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The folder that a function's workers run in.
pub(super) fn task_root(function: &Function, root: &Path) -> std::io::Result<std::path::PathBuf> {
    std::path::absolute(function.root.as_ref().map_or_else(|| root.to_owned(), |own| root.join(own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_under_the_same_ids() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceContext::parse(parent, None);
        assert_eq!(
            trace.as_ref().and_then(xray).as_deref(),
            Some("Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1")
        );
        assert_eq!(xray(&TraceContext { traceparent: "x".into(), tracestate: None }), None);
    }
}
