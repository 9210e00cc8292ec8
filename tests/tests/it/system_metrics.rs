//! Counts and durations leave the real dispatcher as OTLP metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use prost::Message as _;
use serde_json::json;

use crate::system_stage::{Stage, started, stop};

const MANIFEST: &str = r#"
[functions.flaky]
command = ["HANDLERS"]
handler = "retry"
events = ["flaky.event"]
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }

[functions.fail]
command = ["HANDLERS"]
events = ["fail.event"]
"#;

/// By metric, function and reason: the newest value of a counter, the count of a histogram.
type Received = Arc<Mutex<BTreeMap<(String, String, String), u64>>>;

fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Any::StringValue(text)) => text,
        Some(other) => panic!("{name} is {other:?}"),
        None => String::new(),
    }
}

async fn take(State(received): State<Received>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    for metric in scopes.flat_map(|scope| scope.metrics) {
        let points: Vec<_> = match metric.data {
            Some(Data::Sum(sum)) => {
                let value = |value| match value {
                    Some(Number::AsInt(value)) => u64::try_from(value).unwrap(),
                    // GB-seconds: whether there are any.
                    Some(Number::AsDouble(value)) => u64::from(value > 0.0),
                    other => panic!("a count is {other:?}"),
                };
                sum.data_points.into_iter().map(|point| (point.attributes, value(point.value))).collect()
            }
            Some(Data::Histogram(data)) => {
                data.data_points.into_iter().map(|point| (point.attributes, point.count)).collect()
            }
            other => panic!("{} is {other:?}", metric.name),
        };
        let mut received = received.lock().unwrap();
        for (attributes, value) in points {
            let key = (metric.name.clone(), text(&attributes, "faas.name"), text(&attributes, "weft.reason"));
            received.insert(key, value);
        }
    }
    StatusCode::OK
}

#[tokio::test]
async fn what_happened_to_events_leaves_as_metrics_of_their_function() {
    let received = Received::default();
    let app = Router::new().route("/v1/metrics", post(take)).with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let stage = Stage::real().await.manifest(MANIFEST);
    let variable = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
    let dispatcher = started(stage.dispatcher(&[]).env(variable, &endpoint)).await;
    stage.publish("flaky.event", "one", &json!({ "from_attempt": 2 })).await;
    stage.invocations_in("flaky", "succeeded", 1).await;
    stage.publish("flaky.event", "one", &json!({ "from_attempt": 2 })).await;
    stage.publish("fail.event", "one", &json!({})).await;
    stage.invocations_in("fail", "dead", 1).await;
    stage.queue_empty("flaky").await;
    // The end exports what has not left yet.
    stop(dispatcher).await;

    let received = received.lock().unwrap().clone();
    let value = |metric: &str, function: &str, reason: &str| {
        let key = (metric.to_owned(), function.to_owned(), reason.to_owned());
        received.get(&key).copied().unwrap_or_else(|| panic!("no {key:?} in {received:#?}"))
    };
    for (metric, flaky, fail) in [
        ("faas.invocations", 2, 1),
        ("faas.errors", 1, 1),
        ("weft.retries", 1, 0),
        ("weft.duplicates", 1, 0),
        ("faas.timeouts", 0, 0),
        ("faas.invoke_duration", 2, 1),
        ("faas.init_duration", 1, 1),
    ] {
        assert_eq!((value(metric, "flaky", ""), value(metric, "fail", "")), (flaky, fail), "{metric}");
    }
    assert!(value("faas.coldstarts", "flaky", "") >= 1);
    assert!(value("weft.queue_wait", "flaky", "") >= 1);
    assert_eq!(value("weft.billed_gb_seconds", "flaky", ""), 1, "more than nothing");
    assert_eq!(value("weft.dead_letters", "fail", "terminal"), 1);
}
