//! The spans that follow an event: one constructor for each, so that their names and attributes have one place.
//!
//! All have the target [`TRACE_TARGET`](super::names::TRACE_TARGET). Where nothing is exported a constructor returns a
//! disabled span after one relaxed load, and formats and allocates nothing.
//!
//! Order matters: call [`set_parent`](super::set_parent) on a span before it is entered, before it becomes the parent
//! of another, and before [`of`](super::of) reads it.

use opentelemetry::KeyValue;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::names::{Attr, SpanName, TRACE_TARGET};

/// An event is handed to the broker (PRODUCER, `send {destination}`). Child of the current span.
/// Put [`of`](super::of) of it into the message.
pub fn publish(destination: &str, routing_key: &str, message_id: &str) -> Span {
    info_span!(
        target: TRACE_TARGET,
        SpanName::Publish.as_str(),
        otel.name = %format_args!("send {destination}"),
        otel.kind = "producer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::MessagingSystem.as_str() } = "rabbitmq",
        { Attr::MessagingOperationName.as_str() } = "send",
        { Attr::MessagingOperationType.as_str() } = "send",
        { Attr::MessagingDestinationName.as_str() } = destination,
        { Attr::MessagingRoutingKey.as_str() } = routing_key,
        { Attr::MessagingMessageId.as_str() } = message_id,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// One delivery from receive to ack (CONSUMER, `process {queue}`): the dispatcher's root span, never a child of the
/// current span. Set its parent from the event's `traceparent`. Later: [`key`], [`verdict`], [`outcome`], [`failed`].
pub fn process(queue: &str, function: &str, key: Option<&str>, message_id: &str) -> Span {
    let span = info_span!(
        target: TRACE_TARGET,
        parent: None,
        SpanName::Process.as_str(),
        otel.name = %format_args!("process {queue}"),
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::MessagingSystem.as_str() } = "rabbitmq",
        { Attr::MessagingOperationName.as_str() } = "process",
        { Attr::MessagingOperationType.as_str() } = "process",
        { Attr::MessagingDestinationName.as_str() } = queue,
        { Attr::MessagingMessageId.as_str() } = message_id,
        { Attr::FaasInvokedName.as_str() } = function,
        { Attr::Key.as_str() } = Empty,
        { Attr::Verdict.as_str() } = Empty,
        { Attr::Outcome.as_str() } = Empty,
        { Attr::Reason.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    );
    if let Some(text) = key {
        self::key(&span, text);
    }
    span
}

/// The ledger is asked whether the event may run. Later: [`verdict`], [`attempt`].
pub fn claim(parent: &Span) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: parent,
        SpanName::Claim.as_str(),
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::Verdict.as_str() } = Empty,
        { Attr::Attempt.as_str() } = Empty,
        { Attr::Fence.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// A claimed event waits for a free slot.
pub fn wait(parent: &Span) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: parent,
        SpanName::Wait.as_str(),
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::Reason.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// A worker is started for a waiting event. `reason` is the scaling decision's. Later: [`worker`].
pub fn cold_start(parent: &Span, function: &str, reason: &str) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: parent,
        SpanName::ColdStart.as_str(),
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::FaasName.as_str() } = function,
        { Attr::Reason.as_str() } = reason,
        { Attr::Worker.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// What identifies one attempt on a span.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub function: &'a str,
    pub key: &'a str,
    /// From 1.
    pub attempt: u32,
    pub fence: i64,
    /// Whether the attempt waited for a worker to start.
    pub cold_start: bool,
}

/// The dispatcher's view of one attempt (CLIENT, `invoke {function}`). Send [`of`](super::of) of it with the frame.
pub fn invoke(parent: &Span, attempt: Attempt<'_>, worker: u64) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: parent,
        SpanName::Invoke.as_str(),
        otel.name = %format_args!("invoke {}", attempt.function),
        otel.kind = "client",
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::FaasInvokedName.as_str() } = attempt.function,
        { Attr::Key.as_str() } = attempt.key,
        { Attr::Attempt.as_str() } = attempt.attempt,
        { Attr::Fence.as_str() } = attempt.fence,
        { Attr::FaasColdstart.as_str() } = attempt.cold_start,
        { Attr::Worker.as_str() } = worker,
        { Attr::Outcome.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// The worker's view of one attempt (SERVER, named as the function). Never a child of the current span: set its parent
/// from the frame's `traceparent`. The handler must run inside it (`.instrument(span)`), innermost if there are several:
/// its own spans, the trace id of its log lines and [`of`](super::of) the current span follow from that.
pub fn handler(attempt: Attempt<'_>) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: None,
        SpanName::Handler.as_str(),
        otel.name = attempt.function,
        otel.kind = "server",
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::FaasTrigger.as_str() } = "pubsub",
        { Attr::FaasName.as_str() } = attempt.function,
        { Attr::FaasInvocationId.as_str() } =
            %format_args!("{}/{}/{}", attempt.function, attempt.key, attempt.attempt),
        { Attr::FaasColdstart.as_str() } = attempt.cold_start,
        { Attr::Key.as_str() } = attempt.key,
        { Attr::Attempt.as_str() } = attempt.attempt,
        { Attr::Fence.as_str() } = attempt.fence,
        { Attr::Outcome.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// The outcome is written to the ledger.
pub fn settle(parent: &Span) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: parent,
        SpanName::Settle.as_str(),
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::Outcome.as_str() } = Empty,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// The delivery is acknowledged (CLIENT, `ack {queue}`).
pub fn ack(parent: &Span, queue: &str) -> Span {
    info_span!(
        target: TRACE_TARGET,
        parent: parent,
        SpanName::Ack.as_str(),
        otel.name = %format_args!("ack {queue}"),
        otel.kind = "client",
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::MessagingSystem.as_str() } = "rabbitmq",
        { Attr::MessagingOperationName.as_str() } = "ack",
        { Attr::MessagingOperationType.as_str() } = "settle",
        { Attr::MessagingDestinationName.as_str() } = queue,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// A row of the outbox is published (PRODUCER, `send {destination}`). Never a child of the current span, which belongs
/// to the relay's batch: set its parent from the row's `traceparent`.
pub fn relay(kind: &str, destination: &str, routing_key: &str) -> Span {
    // The default exchange has no name of its own; the queue is the useful one.
    let name = if destination.is_empty() { routing_key } else { destination };
    info_span!(
        target: TRACE_TARGET,
        parent: None,
        SpanName::Relay.as_str(),
        otel.name = %format_args!("send {name}"),
        otel.kind = "producer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        { Attr::MessagingSystem.as_str() } = "rabbitmq",
        { Attr::MessagingOperationName.as_str() } = "send",
        { Attr::MessagingOperationType.as_str() } = "send",
        { Attr::MessagingDestinationName.as_str() } = name,
        { Attr::MessagingRoutingKey.as_str() } = routing_key,
        { Attr::Kind.as_str() } = kind,
        { Attr::ErrorType.as_str() } = Empty,
    )
}

/// Records the idempotency key, once it is known.
pub fn key(span: &Span, key: &str) {
    span.record(Attr::Key.as_str(), key);
}

/// Records the ledger's answer to a claim.
pub fn verdict(span: &Span, verdict: &str) {
    span.record(Attr::Verdict.as_str(), verdict);
}

/// Records what a claim that may run was given.
pub fn attempt(span: &Span, attempt: u32, fence: i64) {
    span.record(Attr::Attempt.as_str(), attempt);
    span.record(Attr::Fence.as_str(), fence);
}

/// Records the worker that a cold start ended in.
pub fn worker(span: &Span, worker: u64) {
    span.record(Attr::Worker.as_str(), worker);
}

/// Records how an attempt ended. The span's status stays unset: a retry is not by itself an error of this span.
pub fn outcome(span: &Span, outcome: &str) {
    span.record(Attr::Outcome.as_str(), outcome);
}

/// Records why: a throttle, a dead letter's reason code.
pub fn reason(span: &Span, reason: &str) {
    span.record(Attr::Reason.as_str(), reason);
}

/// A decision on the number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Why, in one word.
    pub reason: &'static str,
    /// Workers that there should be.
    pub wanted: u32,
    /// Workers that there were.
    pub workers: u32,
    /// Events that wait for a slot.
    pub waiting: u32,
    /// Events at the broker behind them; `None`: not known.
    pub behind: Option<u64>,
}

/// Adds the decision that the span's event waits for, as a span event called `scale`. Nothing on a disabled span.
pub fn scale(span: &Span, scale: Scale) {
    if span.is_disabled() {
        return;
    }
    let number = |key: &'static str, value: u64| KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX));
    let mut attributes = vec![
        KeyValue::new(Attr::Reason.as_str(), scale.reason),
        number("weft.scale.wanted", scale.wanted.into()),
        number("weft.scale.workers", scale.workers.into()),
        number("weft.scale.waiting", scale.waiting.into()),
    ];
    attributes.extend(scale.behind.map(|behind| number("weft.scale.behind", behind)));
    span.add_event("scale", attributes);
}

/// Marks the span as failed. `error_type` is a word of low cardinality (`timed_out`, `BrokerUnreachable`); `message`
/// is for people and never holds a secret.
pub fn failed(span: &Span, error_type: &str, message: &str) {
    span.record(Attr::ErrorType.as_str(), error_type);
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", message);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use tracing::span::{Attributes, Id};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::super::names::Metric;
    use super::*;

    #[derive(Default, Clone)]
    struct Seen(Arc<Mutex<(BTreeSet<&'static str>, BTreeSet<&'static str>)>>);

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            let mut seen = self.0.lock().unwrap();
            let metadata = attributes.metadata();
            assert_eq!(metadata.target(), TRACE_TARGET);
            seen.0.insert(metadata.name());
            for field in metadata.fields().iter().filter(|field| !field.name().starts_with("otel.")) {
                seen.1.insert(field.name());
            }
        }
    }

    fn every_span() {
        let attempt = Attempt { function: "f", key: "k", attempt: 1, fence: 7, cold_start: true };
        let root = process("weft.fn.f", "f", Some("k"), "m");
        drop((publish("weft.events", "orders.placed", "m"), claim(&root), wait(&root)));
        drop((cold_start(&root, "f", "first event"), invoke(&root, attempt, 3), handler(attempt)));
        drop((settle(&root), ack(&root, "weft.fn.f"), relay("retry", "", "weft.fn.f")));
    }

    #[test]
    fn every_name_is_used_by_a_constructor() {
        let _alone = super::super::tests::alone();
        let seen = Seen::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(seen.clone()), every_span);
        let seen = seen.0.lock().unwrap();
        let names: BTreeSet<_> = SpanName::ALL.iter().map(|name| name.as_str()).collect();
        let keys: BTreeSet<_> = Attr::ALL.iter().map(|key| key.as_str()).collect();
        assert_eq!(seen.0, names);
        assert_eq!(seen.1, keys);
    }

    #[test]
    fn every_name_is_documented() {
        let page = include_str!("../../../docs/telemetry.md");
        let spans = SpanName::ALL.iter().map(|name| name.as_str());
        let keys = Attr::ALL.iter().map(|key| key.as_str());
        let metrics = Metric::ALL.iter().map(|metric| metric.as_str());
        let missing: Vec<_> = spans.chain(keys).chain(metrics).filter(|n| !page.contains(&format!("`{n}`"))).collect();
        assert!(missing.is_empty(), "not in docs/telemetry.md: {missing:?}");
    }
}
