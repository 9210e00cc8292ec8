//! A Lambda function as its workers see it: what it is called, what it gets for an event, what its answers come to.

use std::ffi::OsString;

use jiff::Timestamp;
use weft_schemas::frame::Invoke;
use weft_schemas::manifest::{Function, Runtime};
use weft_schemas::shape::{Envelope, Item, Shape};
use weft_schemas::{FunctionName, Outcome, RequestKind, TraceContext};

use super::environment;
use super::machine::Call;

/// What the workers of a Lambda function are told of it.
#[derive(Debug, Clone)]
pub struct Lambda {
    pub(crate) function: FunctionName,
    pub(crate) arn: String,
    region: String,
    /// What it gets for an event.
    pub(crate) shape: Shape,
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
            function: function.name.clone(),
            arn: environment::arn(function, env),
            region: environment::region(env),
            shape: function.shape,
            handler: function.handler.clone(),
            slots: function.slots as usize,
            memory_mib: function.memory_bytes >> 20,
            batch: function.batch.is_some(),
        })
    }

    /// What each attempt of a call came to, as the function's answer says it.
    pub(crate) fn outcomes(&self, call: &Call, queue: &str, body: &[u8]) -> Vec<Outcome> {
        let traces = vec![None; call.invokes.len()];
        self.envelope(queue, &call.invokes).answers(&items(&call.invokes, &traces, call.received), body)
    }

    /// What a call is packed in; a request in nothing: its caller speaks to the function itself.
    fn envelope<'a>(&'a self, queue: &'a str, invokes: &[Invoke]) -> Envelope<'a> {
        let requested = matches!(invokes, [only] if RequestKind::of(&only.event).is_some());
        Envelope {
            shape: if requested { Shape::Data } else { self.shape },
            batch: self.batch && !requested,
            function: &self.function,
            queue,
            vhost: "/",
            region: &self.region,
            account: environment::ACCOUNT,
        }
    }

    /// The call of some attempts, to be handed out under a new id. `queue`: the one that feeds the function. `received`: when
    /// the frame came that they are in.
    pub(crate) fn call(&self, invokes: Vec<Invoke>, queue: &str, received: Timestamp) -> Call {
        let traces: Vec<_> = invokes.iter().map(trace_of).collect();
        let remaining = invokes.iter().map(|invoke| invoke.remaining_ms).min().unwrap_or_default();
        let now = u64::try_from(received.as_millisecond()).unwrap_or_default();
        Call {
            request: uuid::Uuid::new_v4().to_string().into(),
            payload: self.envelope(queue, &invokes).request(&items(&invokes, &traces, received)),
            deadline_ms: now.saturating_add(remaining),
            trace: traces.into_iter().next().flatten(),
            invokes,
            received,
        }
    }
}

fn items<'a>(invokes: &'a [Invoke], traces: &'a [Option<String>], received: Timestamp) -> Vec<Item<'a>> {
    let traces = traces.iter().map(Option::as_deref);
    let item = |(invoke, trace): (&'a Invoke, _)| {
        let Invoke { event, key, attempt, .. } = invoke;
        Item { event, key, attempt: *attempt, received, trace }
    };
    invokes.iter().zip(traces).map(item).collect()
}

/// The attempt's own span where it has one, else what the event came with.
fn trace_of(invoke: &Invoke) -> Option<String> {
    let own = invoke.trace.clone().or_else(|| invoke.event.trace_context());
    own.as_ref().and_then(xray)
}

/// A trace context in the form of AWS X-Ray's tracing header: the same ids, cut where X-Ray cuts them.
fn xray(trace: &TraceContext) -> Option<String> {
    let mut parts = trace.traceparent.split('-').skip(1);
    let (id, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let (epoch, rest) = (id.get(..8)?, id.get(8..)?);
    let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    Some(format!("Root=1-{epoch}-{rest};Parent={span};Sampled={}", u8::from(sampled)))
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
