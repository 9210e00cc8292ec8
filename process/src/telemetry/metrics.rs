//! Counts and durations, per function.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, MeterProvider as _};
use opentelemetry_otlp::{MetricExporter, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

use super::client::Post;
use super::export::{self, disabled, headers};
use super::init::{InitError, resource};
use super::names::{Attr, Metric};

/// The process's metrics. Off, each call is one branch. Clones share the instruments.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Option<Instruments>);

#[derive(Debug, Clone)]
struct Instruments {
    provider: SdkMeterProvider,
    histograms: HashMap<Metric, Histogram<f64>>,
}

/// What a counter has reached for a function since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub function: String,
    /// For counters that tell why.
    pub reason: Option<&'static str>,
    pub value: u64,
}

impl Metric {
    /// Whether it is a duration (histogram) and not a count.
    pub const fn is_duration(self) -> bool {
        matches!(self, Self::InvokeDuration | Self::InitDuration | Self::QueueWait)
    }

    /// What one of the unit is, in what is counted: use is counted in whole MB-milliseconds, so that sums are exact.
    const fn counted_per_unit(self) -> Option<f64> {
        match self {
            Self::BilledGbSeconds => Some(1_024.0 * 1_000.0),
            _ => None,
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::InvokeDuration | Self::InitDuration | Self::QueueWait => "s",
            Self::Invocations | Self::DeadLetters | Self::Throttles => "{invocation}",
            Self::Errors => "{error}",
            Self::Coldstarts => "{coldstart}",
            Self::Timeouts => "{timeout}",
            Self::Duplicates => "{duplicate}",
            Self::Retries => "{attempt}",
            Self::Scaling => "{decision}",
            Self::BilledGbSeconds => "GBy.s",
        }
    }
}

impl Metrics {
    /// Counts nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Exports to `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` by OTLP/HTTP, every 60 s (or `OTEL_METRIC_EXPORT_INTERVAL`).
    /// Only that variable turns metrics on: the common endpoint is often a Jaeger, which has no metrics service.
    ///
    /// # Errors
    /// The endpoint or another `OTEL_…` variable is wrong.
    pub fn from_env(service: &str, instance: &str) -> Result<Self, InitError> {
        let read = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        match read("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") {
            Some(endpoint) if !disabled(&read) => {
                let headers = headers(&read, "OTEL_EXPORTER_OTLP_METRICS_HEADERS");
                Self::to(&endpoint, headers, service, instance)
            }
            _ => Ok(Self::off()),
        }
    }

    /// Exports to an address: `http://localhost:4318`, to which `/v1/metrics` is added, or a whole one with a path.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn to(
        endpoint: &str,
        headers: Vec<(String, String)>,
        service: &str,
        instance: &str,
    ) -> Result<Self, InitError> {
        let url = export::whole(endpoint, "/v1/metrics").map_err(InitError::Endpoint)?;
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url.as_str())
            .with_headers(headers.into_iter().collect())
            .with_http_client(Post::new(url, "metrics"))
            .build()
            .map_err(InitError::Exporter)?;
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter).build())
            .with_resource(resource(service, instance))
            .build();
        let meter = provider.meter("weft");
        let mut histograms = HashMap::new();
        for metric in Metric::ALL.iter().copied().filter(|metric| metric.is_duration()) {
            let made = meter.f64_histogram(metric.as_str()).with_unit(metric.unit()).with_boundaries(bounds());
            histograms.insert(metric, made.build());
        }
        Ok(Self(Some(Instruments { provider, histograms })))
    }

    /// Exports counts that are kept elsewhere: before each export `read` is asked for those of each counter. So counting
    /// costs the caller nothing here. Call it once; without effect while off.
    pub fn follow(&self, read: impl Fn(Metric) -> Vec<Count> + Send + Sync + 'static) {
        let Some(on) = &self.0 else { return };
        let meter = on.provider.meter("weft");
        let read = Arc::new(read);
        for metric in Metric::ALL.iter().copied().filter(|metric| !metric.is_duration()) {
            let read = Arc::clone(&read);
            // The provider keeps the callback.
            if let Some(per_unit) = metric.counted_per_unit() {
                let _ = meter
                    .f64_observable_counter(metric.as_str())
                    .with_unit(metric.unit())
                    .with_callback(move |observer| {
                        for count in read(metric) {
                            observer.observe(count.value as f64 / per_unit, &attributes(count.function, count.reason));
                        }
                    })
                    .build();
                continue;
            }
            let _ = meter
                .u64_observable_counter(metric.as_str())
                .with_unit(metric.unit())
                .with_callback(move |observer| {
                    for count in read(metric) {
                        observer.observe(count.value, &attributes(count.function, count.reason));
                    }
                })
                .build();
        }
    }

    /// Records a duration. Without effect on a counter.
    pub fn record(&self, metric: Metric, function: &str, duration: Duration) {
        if let Some(histogram) = self.0.as_ref().and_then(|on| on.histograms.get(&metric)) {
            histogram.record(duration.as_secs_f64(), &[KeyValue::new(Attr::FaasName.as_str(), function.to_owned())]);
        }
    }

    /// Exports now and stops. Blocks up to 5 s: in async code call it inside `spawn_blocking`. Safe to repeat.
    pub fn shutdown(&self) {
        if let Some(on) = &self.0 {
            // A failure was counted and logged by the client.
            let _ = on.provider.shutdown_with_timeout(Duration::from_secs(5));
        }
    }
}

fn attributes(function: String, reason: Option<&'static str>) -> Vec<KeyValue> {
    let reason = reason.map(|reason| KeyValue::new(Attr::Reason.as_str(), reason));
    [KeyValue::new(Attr::FaasName.as_str(), function)].into_iter().chain(reason).collect()
}

/// Seconds, from 1 ms to 15 min, the longest timeout of a function.
fn bounds() -> Vec<f64> {
    vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0]
}
