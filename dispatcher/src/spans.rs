//! The spans of an event's way through the dispatcher, from what the loop knows. Names live in
//! [`weft_process::telemetry`].

use tracing::Span;
use weft_ledger::{Claim, Due, OutboxKind, Verdict};
use weft_process::telemetry::{self, spans};
use weft_schemas::{FunctionName, Message, Outcome, TraceContext};

use crate::admission::Admitted;
use crate::link::WorkerId;

/// Carries the `traceparent` of the attempt that a retry follows, so that the next one can link to it.
const LINK: &str = "weft-trace-link";

/// A span's context as the contract writes it; `None` where nothing is exported.
pub(crate) fn context(span: &Span) -> Option<TraceContext> {
    let context = telemetry::of(span)?;
    Some(TraceContext { traceparent: context.traceparent, tracestate: context.tracestate })
}

/// The root in this dispatcher: a child of the publisher's span, linked to the attempt that it retries.
pub(crate) fn process(queue: &str, function: &FunctionName, admitted: &Admitted) -> Span {
    let span = spans::process(queue, function.as_str(), Some(admitted.key.as_str()), &admitted.event.id);
    if span.is_disabled() {
        return span;
    }
    if let Some(parent) = admitted.message.trace_context().or_else(|| admitted.event.trace_context()) {
        telemetry::set_parent(&span, &parent.traceparent, parent.tracestate.as_deref());
    }
    if let Some(previous) = admitted.message.header(LINK) {
        telemetry::link(&span, previous, None);
    }
    span
}

pub(crate) fn claim(parent: &Span) -> Span {
    spans::claim(parent)
}

pub(crate) fn verdict(step: &Span, process: &Span, verdict: &Verdict) {
    let text = match verdict {
        Verdict::Run(claim) => {
            spans::attempt(step, claim.attempt.0, claim.fence.0);
            "run"
        }
        Verdict::Replay { .. } => "replay",
        Verdict::Busy { .. } => "busy",
        Verdict::Deferred { .. } => "deferred",
        Verdict::Mismatch => "mismatch",
        Verdict::Dead => "dead",
    };
    spans::verdict(step, text);
    spans::verdict(process, text);
}

pub(crate) fn wait(parent: &Span) -> Span {
    spans::wait(parent)
}

/// A scaling decision, as the spans of those that wait for it tell it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub why: &'static str,
    /// Workers that there should be, and that there were.
    pub wanted: u32,
    pub workers: u32,
    pub waiting: u32,
    pub behind: Option<u64>,
}

impl Scale {
    fn told(self) -> spans::Scale {
        let Self { why, wanted, workers, waiting, behind } = self;
        spans::Scale { reason: why, wanted, workers, waiting, behind }
    }
}

pub(crate) fn cold_start(wait: &Span, function: &FunctionName, scale: Scale) -> Span {
    let span = spans::cold_start(wait, function.as_str(), scale.why);
    spans::scale(&span, scale.told());
    span
}

/// Its event waits because of a bound.
pub(crate) fn throttled(wait: &Span, limit: &'static str, scale: Scale) {
    spans::reason(wait, limit);
    spans::scale(wait, scale.told());
}

pub(crate) fn invoke(
    parent: &Span,
    function: &FunctionName,
    key: &str,
    claim: &Claim,
    cold: bool,
    worker: WorkerId,
) -> Span {
    let attempt = spans::Attempt {
        function: function.as_str(),
        key,
        attempt: claim.attempt.0,
        fence: claim.fence.0,
        cold_start: cold,
    };
    spans::invoke(parent, attempt, worker.0)
}

/// Records how the attempt ended, on its own span and on the event's.
pub(crate) fn outcome(step: &Span, process: &Span, outcome: &Outcome) {
    let (text, error) = match outcome {
        Outcome::Succeeded { .. } => ("succeeded", None),
        Outcome::Committed { .. } => ("committed", None),
        Outcome::Retry { error, .. } => ("retry", Some((error.kind.as_str(), error.message.as_str()))),
        Outcome::Outage { error, .. } => ("outage", Some((error.kind.as_str(), error.message.as_str()))),
        Outcome::Failed { error } => ("failed", Some((error.kind.as_str(), error.message.as_str()))),
        Outcome::TimedOut => ("timed_out", Some(("timed_out", "no answer before the deadline"))),
        Outcome::Crashed { error } => ("crashed", Some(("crashed", error.message.as_str()))),
        Outcome::Superseded => ("superseded", None),
        Outcome::Drained => ("drained", None),
    };
    for span in [step, process] {
        spans::outcome(span, text);
        if let Some((kind, message)) = error {
            spans::failed(span, kind, message);
        }
    }
}

pub(crate) fn settle(parent: &Span) -> Span {
    spans::settle(parent)
}

/// The ack is coalesced with others and not confirmed by the broker: its span marks the moment that it was given out.
pub(crate) fn ack(parent: &Span, queue: &str) {
    drop(spans::ack(parent, queue));
}

/// Leaves word of this attempt for the one that retries it.
pub(crate) fn leave_link(message: &mut Message, step: &Span) {
    if let Some(context) = context(step) {
        message.headers.insert(LINK.to_owned(), context.traceparent.into());
    }
}

/// The span of an outbox row's publish. An emitted event begins a trace of its own, linked to the handler that emitted
/// it; a retry or dead letter stays in the trace of its event.
pub(crate) fn relay(due: &Due, message: &mut Message) -> Span {
    let kind = match due.kind {
        OutboxKind::Retry => "retry",
        OutboxKind::DeadLetter => "dead_letter",
        OutboxKind::Emit => "emit",
        OutboxKind::Reply => "reply",
        OutboxKind::Redrive => "redrive",
    };
    let span = spans::relay(kind, &message.exchange, &message.routing_key);
    if span.is_disabled() {
        return span;
    }
    let origin = message.trace_context();
    match (due.kind, origin) {
        (OutboxKind::Emit, Some(origin)) => {
            telemetry::link(&span, &origin.traceparent, origin.tracestate.as_deref());
            if let Some(own) = context(&span) {
                message.set_trace_context(&own);
            }
        }
        (_, Some(origin)) => {
            telemetry::set_parent(&span, &origin.traceparent, origin.tracestate.as_deref());
        }
        (_, None) => {}
    }
    span
}

pub(crate) fn failed(span: &Span, message: &str) {
    spans::failed(span, "not_published", message);
}
