//! One trace follows an event from its publisher to the ack, over real OTLP, through the real processes.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span as Exported;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use serde_json::json;
use weft_tests::poll;

use crate::system_stage::{LIMIT, Stage, complaints, started, stop};

const MANIFEST: &str = r#"
[functions.flaky]
command = ["HANDLERS"]
handler = "traced"
events = ["flaky.event"]
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }

[functions.second]
command = ["HANDLERS"]
handler = "noop"
events = ["second.event"]

[functions.fail]
command = ["HANDLERS"]
events = ["fail.event"]
"#;

/// A span, and the service that made it.
#[derive(Debug, Clone)]
pub struct Span {
    service: String,
    pub span: Exported,
}

impl Span {
    pub fn attribute(&self, name: &str) -> Option<String> {
        let value = self.span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
        Some(match value {
            Any::StringValue(text) => text,
            Any::IntValue(number) => number.to_string(),
            Any::BoolValue(yes) => yes.to_string(),
            other => format!("{other:?}"),
        })
    }
}

pub type Received = Arc<Mutex<Vec<Span>>>;

async fn take(State(received): State<Received>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
        let service = match name.and_then(|attribute| attribute.value?.value) {
            Some(Any::StringValue(name)) => name,
            other => panic!("a service without a name: {other:?}"),
        };
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        received.lock().unwrap().extend(spans.map(|span| Span { service: service.clone(), span }));
    }
    StatusCode::OK
}

/// An OTLP/HTTP receiver on a free port.
pub async fn receiver() -> (String, Received) {
    let received = Received::default();
    let app = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, received)
}

/// Everything that was received, to be asked for its shape.
pub struct Spans(Vec<Span>);

impl Spans {
    pub fn of(received: &Received) -> Self {
        Self(received.lock().unwrap().clone())
    }

    pub fn named(&self, name: &str) -> Vec<&Span> {
        let mut found: Vec<_> = self.0.iter().filter(|span| span.span.name == name).collect();
        found.sort_by_key(|span| span.span.start_time_unix_nano);
        found
    }

    /// The only span of that name.
    #[track_caller]
    fn one(&self, name: &str) -> &Span {
        let found = self.named(name);
        assert_eq!(found.len(), 1, "{name}:\n{}", self.tree());
        found[0]
    }

    pub fn children(&self, parent: &Span) -> Vec<&Span> {
        let mut found: Vec<_> = self.0.iter().filter(|span| span.span.parent_span_id == parent.span.span_id).collect();
        found.sort_by_key(|span| span.span.start_time_unix_nano);
        found
    }

    /// The children's names, in the order of their starts.
    fn below(&self, parent: &Span) -> Vec<&str> {
        self.children(parent).iter().map(|span| span.span.name.as_str()).collect()
    }

    /// The only child of that name, in its parent's trace.
    #[track_caller]
    fn child(&self, parent: &Span, name: &str) -> &Span {
        let found: Vec<_> = self.children(parent).into_iter().filter(|span| span.span.name == name).collect();
        assert_eq!(found.len(), 1, "{name} below {}:\n{}", parent.span.name, self.tree());
        assert_eq!(found[0].span.trace_id, parent.span.trace_id, "{name} is in another trace");
        found[0]
    }

    /// For the failure's text.
    pub fn tree(&self) -> String {
        let line = |span: &Span| {
            let ids = [&span.span.trace_id, &span.span.parent_span_id, &span.span.span_id];
            let [trace, parent, own] = ids.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            format!("{trace:.6} {parent:>16} > {own} {} [{}]", span.span.name, span.service)
        };
        let mut spans: Vec<_> = self.0.iter().collect();
        spans.sort_by_key(|span| span.span.start_time_unix_nano);
        spans.into_iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[track_caller]
fn kind(span: &Span, kind: SpanKind, service: &str) {
    assert_eq!((span.span.kind(), span.service.as_str()), (kind, service), "{}", span.span.name);
    assert!(span.span.end_time_unix_nano >= span.span.start_time_unix_nano, "{}", span.span.name);
}

#[track_caller]
fn linked(span: &Span, to: &Span) {
    let links: Vec<_> = span.span.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
    assert_eq!(links, [(&to.span.trace_id, &to.span.span_id)], "{} is not linked to {}", span.span.name, to.span.name);
}

/// One attempt below its `process` span; returns the handler's span.
fn attempt<'a>(spans: &'a Spans, process: &'a Span, number: &str, cold: bool, outcome: &str) -> &'a Span {
    kind(process, SpanKind::Consumer, "weft");
    let queue = process.span.name.trim_start_matches("process ");
    let ack = format!("ack {queue}");
    assert_eq!(spans.below(process), ["claim", "wait", "invoke flaky", "settle", ack.as_str()], "{}", spans.tree());
    kind(spans.child(process, &ack), SpanKind::Client, "weft");
    assert_eq!(spans.child(process, "claim").attribute("weft.verdict").as_deref(), Some("run"));
    let wait = spans.child(process, "wait");
    assert_eq!(spans.below(wait), if cold { &["cold_start"][..] } else { &[] });
    let invoke = spans.child(process, "invoke flaky");
    kind(invoke, SpanKind::Client, "weft");
    assert_eq!(invoke.attribute("weft.attempt").as_deref(), Some(number));
    assert_eq!(invoke.attribute("faas.coldstart"), Some(cold.to_string()));
    let handler = spans.child(invoke, "flaky");
    kind(handler, SpanKind::Server, "flaky");
    assert_eq!(handler.attribute("weft.outcome").as_deref(), Some(outcome));
    assert_eq!(handler.attribute("faas.name").as_deref(), Some("flaky"));
    kind(spans.child(handler, "inner work"), SpanKind::Internal, "flaky");
    handler
}

#[tokio::test]
async fn one_trace_follows_an_event_and_what_follows_from_it_is_linked() {
    let (endpoint, received) = receiver().await;
    let stage = Stage::real().await.manifest(MANIFEST);
    let variable = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let dispatcher = started(stage.dispatcher(&[]).env(variable, &endpoint)).await;
    let data = json!({ "from_attempt": 2, "emit": "second.event" }).to_string();
    let publish = stage.weft(&["publish", "flaky.event", "--id", "one", "--data", &data]).env(variable, &endpoint);
    publish.run(LIMIT).await.success();
    stage.invocations_in("second", "succeeded", 1).await;
    // The stop exports what is finished, the workers' spans included.
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
    let (flaky, second) = (stage.queue("flaky"), stage.queue("second"));
    poll("all spans have arrived", LIMIT, || async {
        let spans = Spans::of(&received);
        let (acks, handlers) = (spans.named(&format!("ack {second}")).len(), spans.named("flaky").len());
        if (acks, handlers) == (1, 2) { Ok(()) } else { Err(spans.tree()) }
    })
    .await;
    let spans = Spans::of(&received);

    let events = format!("send {}.events", stage.prefix);
    let sent = spans.named(&events);
    assert_eq!(sent.len(), 2, "{}", spans.tree());
    let (publish, emit) = (sent[0], sent[1]);
    kind(publish, SpanKind::Producer, "weft");
    assert!(publish.span.parent_span_id.is_empty() && publish.span.links.is_empty());

    let processed = spans.named(&format!("process {flaky}"));
    assert_eq!(processed.len(), 2, "{}", spans.tree());
    let (first, again) = (processed[0], processed[1]);
    assert_eq!(first.span.parent_span_id, publish.span.span_id, "{}", spans.tree());
    assert!(first.span.links.is_empty());
    attempt(&spans, first, "1", true, "retry");
    let failed = spans.child(first, "invoke flaky");
    assert_eq!(failed.attribute("error.type").as_deref(), Some("NotYet"));

    // The retry stays in the trace, and says which attempt it follows.
    assert_eq!(again.span.trace_id, publish.span.trace_id, "{}", spans.tree());
    linked(again, failed);
    let handler = attempt(&spans, again, "2", false, "succeeded");
    let retry = spans.one(&format!("send {flaky}"));
    assert_eq!(
        (retry.attribute("weft.kind").as_deref(), &retry.span.trace_id),
        (Some("retry"), &publish.span.trace_id)
    );

    // The emitted event has a trace of its own, which says where it came from.
    assert_eq!(emit.attribute("weft.kind").as_deref(), Some("emit"));
    assert_ne!(emit.span.trace_id, publish.span.trace_id);
    assert!(emit.span.parent_span_id.is_empty());
    linked(emit, spans.child(handler, "inner work"));
    let next = spans.one(&format!("process {second}"));
    assert_eq!((&next.span.trace_id, &next.span.parent_span_id), (&emit.span.trace_id, &emit.span.span_id));
    let served = spans.child(spans.child(next, "invoke second"), "second");
    kind(served, SpanKind::Server, "second");

    let mut traces: Vec<_> = spans.0.iter().map(|span| span.span.trace_id.clone()).collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 2, "{}", spans.tree());
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_traced_and_nothing_is_said_about_it() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&["--log", "debug"]).await;
    stage.publish("fail.event", "one", &json!({})).await;
    stage.invocations_in("fail", "dead", 1).await;
    // Nobody made a trace up.
    assert_eq!(stage.json(&["dlq", "ls", "--json"]).await[0]["trace_id"], json!(null));
    let text = stop(dispatcher).await.text().to_lowercase();
    for word in ["otel", "otlp", "telemetry", "export"] {
        assert!(!text.contains(word), "{word} is in:\n{text}");
    }
}
