//! Telemetry of a worker: the spans of an attempt, the trace context of what it emits, and where spans go.

use std::future::Future;
use std::sync::Arc;

use tracing::{Instrument, Span, debug, error_span};
use weft_process::telemetry::{self, Export, LogFormat, LogTarget, Settings, spans};
use weft_schemas::frame::{Invoke, Start, ToDispatcher};
use weft_schemas::{Event, FunctionName, Outcome};

use crate::link::Outgoing;
use crate::session::Flush;

/// Sets the process's telemetry up: log lines as JSON on stdout, which the dispatcher passes on, and spans, where they
/// are wanted, over the link. Opens no connection.
pub(crate) fn init(start: &Start, outgoing: &Outgoing) -> Flush {
    let mut settings = Settings::new(start.function.as_str(), start.worker.as_str());
    settings.log = LogFormat::Json;
    settings.log_target = LogTarget::Stdout;
    if start.spans {
        let outgoing = outgoing.clone();
        // Called on the exporter's thread, which must not wait: with no room on the link the spans are dropped.
        settings.export = Export::Sink(Arc::new(move |spans| {
            outgoing.offer(&ToDispatcher::Spans(spans));
        }));
    }
    match telemetry::init(settings) {
        Ok(telemetry) => Box::new(move || telemetry.shutdown()),
        Err(error) => {
            // A worker without telemetry still does its work; stderr reaches the dispatcher's log.
            eprintln!("warning: failed to {}", weft_process::report::chain(&error));
            Box::new(|| {})
        }
    }
}

/// The pair of spans that an attempt runs in.
#[derive(Clone)]
pub(crate) struct AttemptSpans {
    /// Follows the event: named as the function, child of the dispatcher's span. Disabled when spans are not wanted.
    /// Entered last, so that the handler's own spans become its children.
    trace: Span,
    /// Gives every log line of the attempt its fields. Never exported.
    log: Span,
}

impl AttemptSpans {
    /// Made before anything enters them, because a parent can be set only then. `first`: no attempt ran in this worker
    /// before.
    pub(crate) fn new(function: &FunctionName, invoke: &Invoke, first: bool) -> Self {
        let trace = spans::handler(spans::Attempt {
            function: function.as_str(),
            key: invoke.key.as_str(),
            attempt: invoke.attempt.0,
            fence: invoke.fence.0,
            cold_start: first,
        });
        if let Some(parent) = &invoke.trace {
            telemetry::set_parent(&trace, &parent.traceparent, parent.tracestate.as_deref());
        }
        // At the level ERROR, so that it is there for whatever is logged at all.
        let log = error_span!(
            target: "weft_log",
            parent: &trace,
            "attempt",
            function = function.as_str(),
            key = invoke.key.as_str(),
            attempt = invoke.attempt.0,
        );
        Self { trace, log }
    }

    /// Runs a future inside both.
    pub(crate) fn wrap<F: Future>(&self, run: F) -> impl Future<Output = F::Output> + use<F> {
        run.instrument(self.trace.clone()).instrument(self.log.clone())
    }

    /// Runs a closure inside both.
    pub(crate) fn in_scope<T>(&self, run: impl FnOnce() -> T) -> T {
        self.log.in_scope(|| self.trace.in_scope(run))
    }

    /// Writes down how the attempt ended. Call it once.
    pub(crate) fn end(&self, outcome: &Outcome) {
        self.in_scope(|| self.record(outcome));
    }

    fn record(&self, outcome: &Outcome) {
        let word = word(outcome);
        spans::outcome(&self.trace, word);
        match outcome {
            Outcome::Retry { error, .. }
            | Outcome::Outage { error, .. }
            | Outcome::Failed { error }
            | Outcome::Crashed { error } => {
                spans::failed(&self.trace, &error.kind, &error.message);
                // The dispatcher, which decides what follows, is the one to report it.
                debug!(outcome = word, kind = error.kind, error = error.message, "attempt ended");
                return;
            }
            Outcome::TimedOut => spans::failed(&self.trace, word, "the deadline passed"),
            Outcome::Succeeded { .. } | Outcome::Committed { .. } | Outcome::Drained | Outcome::Superseded => {}
        }
        debug!(outcome = word, "attempt ended");
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded { .. } => "succeeded",
        Outcome::Committed { .. } => "committed",
        Outcome::Retry { .. } => "retry",
        Outcome::Outage { .. } => "outage",
        Outcome::Failed { .. } => "failed",
        Outcome::TimedOut => "timed_out",
        Outcome::Crashed { .. } => "crashed",
        Outcome::Superseded => "superseded",
        Outcome::Drained => "drained",
    }
}

/// Puts the current span's trace context on an event that leaves, so that its consumer's trace links back here. Where
/// spans are not wanted, the context of the event that came in is passed on.
pub(crate) fn stamp(event: &mut Event, incoming: &Event) {
    let context = match telemetry::of(&Span::current()) {
        Some(context) => Some((context.traceparent, context.tracestate)),
        None => incoming.trace_context().map(|context| (context.traceparent, context.tracestate)),
    };
    if let Some((traceparent, tracestate)) = context {
        event.extensions.insert("traceparent".to_owned(), traceparent);
        if let Some(tracestate) = tracestate {
            event.extensions.insert("tracestate".to_owned(), tracestate);
        }
    }
}
