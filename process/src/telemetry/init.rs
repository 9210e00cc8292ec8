//! Installs the process's subscriber.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;

use super::client::{IntoSink, Post};
use super::export::{self, Export};
use super::logs::{self, LogFormat, LogTarget};
use super::names::TRACE_TARGET;

/// How long a finished span waits for others before it is exported. `OTEL_BSP_SCHEDULE_DELAY` overrides it.
const DELAY: Duration = Duration::from_millis(500);

/// The longest that [`Telemetry::shutdown`] waits. A flush is bounded by the SDK, to the same.
const STOP: Duration = Duration::from_secs(5);

/// What telemetry needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `service.name`: `weft`, or the function's name in a worker. `OTEL_SERVICE_NAME` overrides it.
    pub service: String,
    /// `service.instance.id`: the node, or the worker within its node.
    pub instance: String,
    pub log: LogFormat,
    pub log_target: LogTarget,
    /// Directives as in `RUST_LOG`; `None`: those of `RUST_LOG`, or else INFO less the chatter of libraries.
    pub filter: Option<String>,
    pub export: Export,
}

impl Settings {
    /// Human log lines on stderr, the default filter, nothing exported.
    pub fn new(service: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            instance: instance.into(),
            log: LogFormat::default(),
            log_target: LogTarget::default(),
            filter: None,
            export: Export::None,
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The directives are wrong.
    #[error("read the log filter: {0}")]
    Filter(String),
    /// The endpoint is not one that spans can be sent to.
    #[error("use the telemetry endpoint: {0}")]
    Endpoint(String),
    /// The exporter refused its configuration (`OTEL_…` variables included).
    #[error("set up the span exporter")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The process has a subscriber already: call [`init`] once.
    #[error("install the log subscriber")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
}

/// The process's telemetry. Clones share it; dropping it changes nothing, so call [`shutdown`](Self::shutdown).
#[derive(Debug, Clone)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Exports every finished span now. Blocks up to 5 s: in async code call it inside `spawn_blocking`. What cannot be
    /// exported is dropped. Safe to repeat; does nothing where nothing is exported.
    pub fn flush(&self) {
        if let Some(provider) = &self.provider {
            // A failure was counted and logged by the client.
            let _ = provider.force_flush();
        }
    }

    /// Exports what is finished and stops exporting. Blocks up to 5 s: in async code call it inside `spawn_blocking`.
    /// Safe to repeat. Log lines are still written afterwards.
    pub fn shutdown(&self) {
        if let Some(provider) = &self.provider {
            let _ = provider.shutdown_with_timeout(STOP);
        }
    }
}

/// Installs the process's subscriber, once per process, before the first log line. It may be called inside or outside
/// an async runtime.
///
/// # Errors
/// See [`InitError`]; nothing is installed then.
pub fn init(settings: Settings) -> Result<Telemetry, InitError> {
    let colours = settings.log_target.colours();
    let (dispatch, telemetry) = match settings.log_target {
        LogTarget::Stdout => build(&settings, std::io::stdout, colours)?,
        LogTarget::Stderr => build(&settings, std::io::stderr, colours)?,
    };
    dispatch.try_init().map_err(InitError::Installed)?;
    Ok(telemetry)
}

/// Everything but the installation.
pub(super) fn build<W>(settings: &Settings, writer: W, colours: bool) -> Result<(Dispatch, Telemetry), InitError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let variable = std::env::var("RUST_LOG").ok();
    let filter = logs::filter(settings.filter.as_deref().or(variable.as_deref())).map_err(InitError::Filter)?;
    let lines = logs::layer::<Registry, _, _>(settings.log, colours, writer, filter);
    let registry = tracing_subscriber::registry().with(lines);
    // Not `Option<Layer>`: an absent layer without a filter would keep every callsite alive.
    match provider(settings)? {
        None => Ok((Dispatch::new(registry), Telemetry { provider: None })),
        Some(provider) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("weft"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_level(false)
                .with_tracked_inactivity(false)
                .with_filter(Exported { inner_spans: matches!(settings.export, Export::Sink(_)) });
            Ok((Dispatch::new(registry.with(spans)), Telemetry { provider: Some(provider) }))
        }
    }
}

fn provider(settings: &Settings) -> Result<Option<SdkTracerProvider>, InitError> {
    // One retry: spans are worth less than a stop that does not wait for an endpoint that is down.
    let retry = RetryPolicy::recommended().with_max_retries(1);
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).with_retry_policy(retry);
    let exporter = match &settings.export {
        Export::None => return Ok(None),
        Export::Http { endpoint, headers } => {
            let url = export::whole(endpoint, "/v1/traces").map_err(InitError::Endpoint)?;
            exporter
                .with_endpoint(url.as_str())
                .with_headers(headers.iter().cloned().collect())
                .with_http_client(Post::new(url, "spans"))
        }
        // The address is never used, but the exporter wants one.
        Export::Sink(sink) => {
            exporter.with_endpoint("http://link.invalid/v1/traces").with_http_client(IntoSink(sink.clone()))
        }
    };
    let exporter = exporter.build().map_err(InitError::Exporter)?;

    let mut config = BatchConfigBuilder::default();
    if std::env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        config = config.with_scheduled_delay(DELAY);
    }
    if std::env::var_os("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
        // About a second of a busy node's spans.
        config = config.with_max_queue_size(16_384);
    }
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
    let resource = resource(&settings.service, &settings.instance);
    // The sampler comes from OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG; default: the parent's decision, or always.
    Ok(Some(SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource).build()))
}

/// Who speaks. `OTEL_RESOURCE_ATTRIBUTES` adds to it.
pub(super) fn resource(service: &str, instance: &str) -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    Resource::builder()
        .with_service_name(named.unwrap_or_else(|| service.to_owned()))
        .with_attribute(opentelemetry::KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Which spans are exported: those of an event's path, and, in a worker, those that the handler opens inside one.
/// Never events: a log line is a log line.
#[derive(Debug)]
struct Exported {
    inner_spans: bool,
}

impl Exported {
    fn may_be_inner(&self, metadata: &Metadata<'_>) -> bool {
        self.inner_spans && metadata.is_span() && *metadata.level() <= Level::INFO
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for Exported {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        if metadata.target() == TRACE_TARGET {
            return metadata.is_span();
        }
        // What this filter let through before is all that the context shows: any current span is on an event's path.
        self.may_be_inner(metadata) && context.lookup_current().is_some()
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TRACE_TARGET && metadata.is_span() {
            Interest::always()
        } else if self.may_be_inner(metadata) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}
