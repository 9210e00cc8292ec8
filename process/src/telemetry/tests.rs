#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::trace::v1::Span as Exported;
use prost::Message;
use tracing::{Dispatch, dispatcher::with_default};

use super::init::build;
use super::names::{Metric, TRACE_TARGET};
use super::spans::Attempt;
use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const LIMIT: Duration = Duration::from_secs(20);

/// Tests with a subscriber run one at a time: a callsite that is first reached while another thread makes a subscriber
/// may stay disabled for good. A process has one subscriber, made before all else.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request that the HTTP sink received.
struct Received {
    path: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

/// An HTTP server on a free loopback port that answers each request with 200, once `answer` allows it.
fn server(answer: Option<Receiver<()>>) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = sync_channel(1024);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            while let Some(request) = read_request(&mut stream) {
                if sender.send(request).is_err() {
                    return;
                }
                if let Some(answer) = &answer {
                    let _ = answer.recv();
                }
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        }
    });
    (address, receiver)
}

fn read_request(stream: &mut impl BufRead) -> Option<Received> {
    let mut first = String::new();
    if stream.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        headers.push(line.trim().to_ascii_lowercase());
    }
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(Received { path: first.split(' ').nth(1).unwrap().to_owned(), headers, body })
}

fn spans_of(body: &[u8]) -> Vec<Exported> {
    let request = ExportTraceServiceRequest::decode(body).expect("an OTLP body");
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        other => format!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where log lines go in tests.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn set_up(export: Export) -> (Dispatch, Telemetry, Arc<Mutex<Vec<u8>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let memory = Memory(Arc::clone(&lines));
    let writer = move || memory.clone();
    let mut settings = Settings::new("weft", "node-1");
    (settings.export, settings.log, settings.filter) = (export, LogFormat::Json, Some("trace".to_owned()));
    let (dispatch, telemetry) = build(&settings, writer, false).unwrap();
    (dispatch, telemetry, lines)
}

/// An export into memory, and what arrived there.
fn memory() -> (Export, impl Fn() -> Vec<Exported>) {
    let bodies = Arc::new(Mutex::new(Vec::<Bytes>::new()));
    let (into, from) = (Arc::clone(&bodies), bodies);
    let export = Export::Sink(Arc::new(move |body| into.lock().unwrap().push(body)));
    (export, move || from.lock().unwrap().iter().flat_map(|body| spans_of(body)).collect())
}

fn attempt() -> Attempt<'static> {
    Attempt { function: "create-order", key: "o-1", attempt: 2, fence: 41, cold_start: true }
}

#[test]
fn an_endpoint_receives_the_tree_of_an_event() {
    let _alone = alone();
    let (endpoint, received) = server(None);
    let (dispatch, telemetry, _) = set_up(Export::Http { endpoint, headers: vec![("x-team".into(), "a".into())] });
    with_default(&dispatch, || {
        let root = spans::process("weft.fn.create-order", "create-order", Some("o-1"), "m-1");
        assert!(set_parent(&root, PARENT, Some("vendor=1")));
        let claim = spans::claim(&root);
        spans::verdict(&claim, "run");
        drop(claim);
        spans::failed(&root, "timed_out", "the attempt passed its deadline");
        assert_eq!(trace_id(&root).as_deref(), Some(TRACE));
        let context = of(&root).unwrap();
        assert!(context.traceparent.starts_with(&format!("00-{TRACE}-")) && context.traceparent.ends_with("-01"));
        assert_eq!(context.tracestate.as_deref(), Some("vendor=1"));
    });
    telemetry.flush();

    let request = received.recv_timeout(LIMIT).unwrap();
    assert_eq!(request.path, "/v1/traces");
    assert!(request.headers.contains(&"x-team: a".to_owned()), "{:?}", request.headers);
    assert!(request.headers.contains(&"content-type: application/x-protobuf".to_owned()));
    let resource = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap().resource_spans.remove(0);
    let resource = resource.resource.unwrap().attributes;
    assert_eq!(text_of(&resource, "service.name").as_deref(), Some("weft"));
    assert_eq!(text_of(&resource, "service.instance.id").as_deref(), Some("node-1"));
    assert_eq!(text_of(&resource, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));

    let spans = spans_of(&request.body);
    let root = spans.iter().find(|span| span.name == "process weft.fn.create-order").expect("the root");
    let claim = spans.iter().find(|span| span.name == "claim").expect("the claim");
    assert_eq!((hex(&root.trace_id), hex(&root.parent_span_id)), (TRACE.to_owned(), "b7ad6b7169203331".to_owned()));
    assert_eq!((&claim.trace_id, &claim.parent_span_id), (&root.trace_id, &root.span_id));
    assert_eq!((root.kind, claim.kind), (5, 1), "consumer, internal");
    let status = root.status.clone().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "the attempt passed its deadline"));
    assert_eq!(text_of(&root.attributes, "error.type").as_deref(), Some("timed_out"));
    assert_eq!(text_of(&claim.attributes, "weft.verdict").as_deref(), Some("run"));
    telemetry.shutdown();
}

#[test]
fn a_worker_exports_its_spans_and_its_handlers_into_a_sink() {
    let _alone = alone();
    let (export, exported) = memory();
    let (dispatch, telemetry, _) = set_up(export);
    with_default(&dispatch, || {
        drop(tracing::info_span!("outside any invocation"));
        let handler = spans::handler(attempt());
        assert!(set_parent(&handler, PARENT, None));
        handler.in_scope(|| {
            drop(tracing::info_span!("charge the card", amount = 5));
            drop(tracing::debug_span!("too small"));
        });
    });
    telemetry.flush();
    let spans = exported();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["charge the card", "create-order"]);
    assert_eq!(spans[0].parent_span_id, spans[1].span_id);
    assert_eq!(spans[1].kind, 2, "server");
    let of = |key| text_of(&spans[1].attributes, key);
    assert_eq!(of("faas.invocation_id").as_deref(), Some("create-order/o-1/2"));
    assert_eq!((of("faas.trigger").as_deref(), of("faas.coldstart").as_deref()), (Some("pubsub"), Some("true")));
    assert_eq!((of("weft.attempt").as_deref(), of("weft.fence").as_deref()), (Some("2"), Some("41")));
    telemetry.shutdown();
    telemetry.shutdown();
}

#[test]
fn a_link_does_not_change_the_trace() {
    let _alone = alone();
    let (export, exported) = memory();
    let (dispatch, telemetry, _) = set_up(export);
    with_default(&dispatch, || {
        let relay = spans::relay("retry", "", "weft.fn.create-order");
        assert!(link(&relay, PARENT, None));
        assert!(!link(&relay, "nonsense", None));
    });
    telemetry.flush();
    let spans = exported();
    assert_eq!(spans[0].name, "send weft.fn.create-order");
    assert_eq!(spans[0].links.len(), 1);
    assert_eq!(hex(&spans[0].links[0].trace_id), TRACE);
    assert_ne!(hex(&spans[0].trace_id), TRACE);
}

#[test]
fn a_parent_that_is_wrong_or_late_is_refused() {
    let _alone = alone();
    let (export, _) = memory();
    let (dispatch, ..) = set_up(export);
    with_default(&dispatch, || {
        let span = spans::handler(attempt());
        assert!(!set_parent(&span, "00-00000000000000000000000000000000-b7ad6b7169203331-01", None));
        assert!(!set_parent(&span, "nonsense", None));
        span.in_scope(|| {});
        assert!(!set_parent(&span, PARENT, None), "it was entered");
    });
}

#[test]
fn spans_of_an_event_are_disabled_where_nothing_is_exported() {
    let _alone = alone();
    let (dispatch, telemetry, lines) = set_up(Export::None);
    with_default(&dispatch, || {
        let root = spans::process("q", "f", Some("k"), "m");
        assert!(root.is_disabled());
        assert!(spans::handler(attempt()).is_disabled());
        assert!(!set_parent(&root, PARENT, None));
        assert_eq!((of(&root), trace_id(&root)), (None, None));
        assert!(!tracing::enabled!(target: TRACE_TARGET, tracing::Level::ERROR));
        assert!(!tracing::info_span!("a span for the log").is_disabled());
    });
    telemetry.flush();
    telemetry.shutdown();
    assert!(lines.lock().unwrap().is_empty());
}

#[test]
fn a_json_line_is_one_object_with_its_trace_id() {
    let _alone = alone();
    let (export, _) = memory();
    let (dispatch, _telemetry, lines) = set_up(export);
    let error = std::io::Error::other("the cause");
    with_default(&dispatch, || {
        tracing::info!(workers = 3, ratio = 0.5, ok = true, "outside");
        let span = spans::handler(attempt());
        assert!(set_parent(&span, PARENT, None));
        span.in_scope(
            || tracing::warn!(target: "shop", name = "a\"b\nc", error = &error as &dyn std::error::Error, "inside"),
        );
    });
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["message"], "outside");
    assert_eq!(lines[0]["fields"], serde_json::json!({"workers": 3, "ratio": 0.5, "ok": true}));
    assert!(lines[0].get("trace_id").is_none());
    assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!((lines[1]["level"].as_str(), lines[1]["target"].as_str()), (Some("WARN"), Some("shop")));
    assert_eq!(lines[1]["fields"], serde_json::json!({"name": "a\"b\nc", "error": "the cause"}));
    assert_eq!(lines[1]["trace_id"], TRACE);
}

#[test]
fn a_handler_inside_both_its_spans_has_fields_trace_and_context() {
    let _alone = alone();
    let (export, exported) = memory();
    let (dispatch, telemetry, lines) = set_up(export);
    with_default(&dispatch, || {
        let handler = spans::handler(attempt());
        assert!(set_parent(&handler, PARENT, None));
        let log = tracing::error_span!(target: "weft_log", parent: &handler, "attempt", key = "o-1", n = 1);
        log.in_scope(|| {
            handler.in_scope(|| {
                drop(tracing::info_span!("charge the card"));
                tracing::info!(n = 2, "charged");
                assert_eq!(of(&tracing::Span::current()), of(&handler));
                assert!(of(&handler).is_some());
            });
        });
    });
    telemetry.flush();
    let names: Vec<_> = exported().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["charge the card", "create-order"], "the log's span is not exported");
    let line: serde_json::Value = serde_json::from_slice(&lines.lock().unwrap()).unwrap();
    assert_eq!(line["fields"], serde_json::json!({"key": "o-1", "n": 2}));
    assert_eq!(line["trace_id"], TRACE);
}

#[test]
fn what_cannot_work_is_refused_at_start() {
    let _alone = alone();
    let refused = |change: fn(&mut Settings)| {
        let mut settings = Settings::new("weft", "node-1");
        change(&mut settings);
        build(&settings, std::io::sink, false).err().map(|error| error.to_string())
    };
    assert_eq!(refused(|_| {}), None);
    let filter = refused(|settings| settings.filter = Some("weft=loud".to_owned())).unwrap();
    assert!(filter.starts_with("read the log filter: "), "{filter}");
    for endpoint in ["https://collector:4318", "localhost:4318", "http://user:s3cret@c:4318", "nonsense"] {
        let export = Export::Http { endpoint: endpoint.to_owned(), headers: Vec::new() };
        let settings = Settings { export, ..Settings::new("weft", "node-1") };
        let error = build(&settings, std::io::sink, false).expect_err(endpoint);
        assert!(matches!(&error, InitError::Endpoint(why) if !why.contains("s3cret")), "{error}");
    }
}

#[test]
fn the_endpoint_comes_from_the_flag_or_the_standard_variables() {
    let _alone = alone();
    let case = |flag: Option<&str>, variables: &[(&str, &str)]| {
        let read = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        match Export::from_variables(flag, read) {
            Export::Http { endpoint, headers } => Some((endpoint, headers)),
            _ => None,
        }
    };
    let to = |endpoint: &str| Some((endpoint.to_owned(), Vec::new()));
    let (base, whole) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    assert_eq!(case(None, &[]), None);
    assert_eq!(case(Some(" "), &[(base, "")]), None);
    assert_eq!(case(None, &[(base, "http://c:4318/")]), to("http://c:4318/v1/traces"));
    assert_eq!(case(None, &[(base, "http://c/otlp")]), to("http://c/otlp/v1/traces"));
    assert_eq!(case(None, &[(base, "http://c"), (whole, "http://t/in")]), to("http://t/in"));
    assert_eq!(case(Some("http://f:1"), &[(whole, "http://t/in")]), to("http://f:1/v1/traces"));
    assert_eq!(case(Some("http://c"), &[(base, "http://c"), (whole, "http://t/in")]), to("http://t/in"));
    assert_eq!(case(Some("http://f:1/v1/traces"), &[]), to("http://f:1/v1/traces"));
    assert_eq!(case(Some("http://f:1"), &[("OTEL_SDK_DISABLED", "TRUE")]), None);
    assert_eq!(case(Some("http://f:1"), &[("OTEL_TRACES_EXPORTER", "none")]), None);
    let (_, headers) = case(Some("http://f:1"), &[("OTEL_EXPORTER_OTLP_HEADERS", "a=1, b = x%20y%2c+ ,=z")]).unwrap();
    assert_eq!(headers, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x y,+".to_owned())]);
    let secret = Export::Http { endpoint: "http://u:s3cret@c".into(), headers: vec![("k".into(), "s3cret".into())] };
    assert!(!format!("{secret:?}").contains("s3cret"));
}

#[test]
fn a_forwarder_posts_bodies_as_they_are() {
    let _alone = alone();
    let (endpoint, received) = server(None);
    let forwarder = Forwarder::new(&Export::Http { endpoint, headers: vec![("x-team".into(), "a".into())] });
    forwarder.forward(Bytes::from_static(b"one"));
    forwarder.forward(Bytes::from_static(b"two"));
    assert!(forwarder.shutdown());
    for body in [b"one", b"two"] {
        let request = received.recv_timeout(LIMIT).unwrap();
        assert_eq!((request.path.as_str(), request.body.as_slice()), ("/v1/traces", body.as_slice()));
        assert!(request.headers.contains(&"x-team: a".to_owned()));
    }
    forwarder.forward(Bytes::from_static(b"late"));
    assert!(forwarder.shutdown());
    assert!(received.try_recv().is_err());
}

#[test]
fn a_forwarder_never_blocks_and_says_what_it_dropped() {
    let _alone = alone();
    let (allow, answer) = sync_channel(1);
    let (endpoint, received) = server(Some(answer));
    let (dispatch, _, lines) = set_up(Export::None);
    let forwarder = Forwarder::new(&Export::Http { endpoint, headers: Vec::new() });
    with_default(&dispatch, || {
        forwarder.forward(Bytes::from_static(b"first"));
        // From here on the thread waits for an answer, so that exactly 256 fit.
        received.recv_timeout(LIMIT).unwrap();
        for _ in 0..256 + 5 {
            forwarder.forward(Bytes::from_static(b"more"));
        }
    });
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("spans of workers were dropped")).count(), 1, "{text}");
    assert!(text.contains(r#""bodies":1"#), "{text}");

    let started = Instant::now();
    assert!(!with_default(&dispatch, || forwarder.shutdown()), "the server answers nothing");
    assert!(started.elapsed() < Duration::from_secs(10));
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert!(text.contains(r#""bodies":260"#), "4 unreported drops and 256 that waited: {text}");
    drop(allow);
}

#[test]
fn metrics_are_counted_per_function() {
    let _alone = alone();
    let (endpoint, received) = server(None);
    let metrics = Metrics::to(&endpoint, Vec::new(), "weft", "node-1").unwrap();
    for metric in Metric::ALL.iter().copied() {
        metrics.record(metric, "create-order", Duration::from_millis(20));
    }
    let count = || Count { function: "create-order".to_owned(), reason: Some("schema"), value: 7 };
    metrics.follow(move |_| vec![count()]);
    Metrics::off().follow(|_| panic!("what is off asks for nothing"));
    metrics.shutdown();
    let request = received.recv_timeout(LIMIT).unwrap();
    assert_eq!(request.path, "/v1/metrics");
    let body = ExportMetricsServiceRequest::decode(request.body.as_slice()).unwrap();
    let exported: Vec<_> = body.resource_metrics[0].scope_metrics[0].metrics.clone();
    for metric in Metric::ALL.iter().copied() {
        let found = exported.iter().find(|one| one.name == metric.as_str()).unwrap_or_else(|| panic!("{metric:?}"));
        let attributes = match found.data.clone().unwrap() {
            Data::Histogram(data) if metric.is_duration() => {
                assert_eq!((data.data_points[0].count, data.data_points[0].sum), (1, Some(0.02)));
                data.data_points[0].attributes.clone()
            }
            Data::Sum(data) if !metric.is_duration() => {
                let gb_seconds = 7.0 / 1_024_000.0;
                let wanted = match metric {
                    Metric::BilledGbSeconds => Number::AsDouble(gb_seconds),
                    _ => Number::AsInt(7),
                };
                assert_eq!(data.data_points[0].value, Some(wanted));
                assert_eq!(text_of(&data.data_points[0].attributes, "weft.reason").as_deref(), Some("schema"));
                data.data_points[0].attributes.clone()
            }
            other => panic!("{metric:?}: {other:?}"),
        };
        assert_eq!(text_of(&attributes, "faas.name").as_deref(), Some("create-order"));
    }
}
