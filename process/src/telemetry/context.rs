//! W3C trace context, in and out of spans.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// What travels with an event so that its next step joins the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// `00-{trace id}-{span id}-{flags}`.
    pub traceparent: String,
    /// Other vendors' part, passed on as it came; `None` if there is none.
    pub tracestate: Option<String>,
}

/// The span's context, to send along. `None` if the span is disabled (nothing is exported): then pass on, untouched,
/// the context that came with the event, so that the trace does not break at us.
///
/// It starts the span: [`set_parent`] has no effect afterwards.
pub fn of(span: &Span) -> Option<Context> {
    let context = valid(span)?;
    let state = context.trace_state().header();
    Some(Context {
        traceparent: format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            context.trace_flags().to_u8() & 1
        ),
        tracestate: (!state.is_empty()).then_some(state),
    })
}

/// The span's trace id: 32 lower-case hex digits. `None` if the span is disabled. It starts the span, as [`of`] does.
pub fn trace_id(span: &Span) -> Option<String> {
    valid(span).map(|context| context.trace_id().to_string())
}

/// Makes the span a child of a remote one. Call it before the span is entered, is read by [`of`], or has children.
/// Returns whether it took effect: not if the text is no valid `traceparent`, the span is disabled, or it is too late.
pub fn set_parent(span: &Span, traceparent: &str, tracestate: Option<&str>) -> bool {
    if span.is_disabled() {
        return false;
    }
    let context = extract(traceparent, tracestate);
    context.span().span_context().is_valid() && span.set_parent(context).is_ok()
}

/// Links the span to a remote one that caused it but is not its parent: a retry to the attempt before, a redrive to
/// the dead letter, an emitted event to its emitter. Returns whether the text is a valid `traceparent`.
pub fn link(span: &Span, traceparent: &str, tracestate: Option<&str>) -> bool {
    if span.is_disabled() {
        return false;
    }
    let remote = extract(traceparent, tracestate).span().span_context().clone();
    let valid = remote.is_valid();
    span.add_link(remote);
    valid
}

/// The trace id of the span that this thread is in, for log lines. Reads only; starts nothing.
pub(super) fn current_trace_id() -> Option<String> {
    opentelemetry::Context::map_current(|context| {
        let span = context.span();
        let context = span.span_context();
        context.is_valid().then(|| context.trace_id().to_string())
    })
}

fn valid(span: &Span) -> Option<SpanContext> {
    if span.is_disabled() {
        return None;
    }
    Some(span.context().span().span_context().clone()).filter(SpanContext::is_valid)
}

fn extract(traceparent: &str, tracestate: Option<&str>) -> opentelemetry::Context {
    let carrier = Carrier { traceparent, tracestate };
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &carrier)
}

struct Carrier<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
