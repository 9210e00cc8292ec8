//! Log lines: which, where to, and how they look.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::names::TRACE_TARGET;

/// What is logged when nothing else is said: INFO and above, less the chatter of libraries.
const DEFAULT: &str = "info,lapin=warn,sqlx=warn,redis=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn";

/// The OpenTelemetry libraries would log each failed export; [`client`](super::client) says it once a minute instead.
const QUIET: &str = ",opentelemetry=off,opentelemetry_sdk=off,opentelemetry-otlp=off,opentelemetry_otlp=off";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: one short line each, coloured on a terminal (unless `NO_COLOR` is set).
    #[default]
    Human,
    /// For machines: one JSON object per line, with `timestamp` (RFC 3339, UTC), `level`, `target`, `message`,
    /// `fields` (those of enclosing spans among them; left out if empty) and, inside a span that is exported,
    /// `trace_id`.
    Json,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogTarget {
    Stdout,
    #[default]
    Stderr,
}

impl LogTarget {
    pub(super) fn colours(self) -> bool {
        let terminal = match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
        };
        terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }
}

/// What is logged: the given directives, or the default. Never the spans of an event's path.
///
/// # Errors
/// The directives cannot be understood.
pub(super) fn filter<S>(directives: Option<&str>) -> Result<impl Filter<S> + Send + Sync + 'static, String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut text = directives.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(DEFAULT).to_owned();
    if !text.contains("opentelemetry") {
        text.push_str(QUIET);
    }
    let chosen = EnvFilter::builder().parse(&text).map_err(|error| error.to_string())?;
    // The hint keeps the global level where the directives put it.
    let ours = filter_fn(|metadata| metadata.target() != TRACE_TARGET).with_max_level_hint(LevelFilter::TRACE);
    Ok(chosen.and(ours))
}

/// The layer that writes log lines.
pub(super) fn layer<S, W, F>(format: LogFormat, colours: bool, writer: W, filter: F) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    F: Filter<S> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Human => layer.compact().with_ansi(colours).with_filter(filter).boxed(),
        LogFormat::Json => {
            layer.with_ansi(false).fmt_fields(JsonFields::new()).event_format(Json).with_filter(filter).boxed()
        }
    }
}

/// One JSON object per event. The fields of the spans it is in (never those of an event's path) are among its own,
/// inner before outer, its own before all.
struct Json;

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<JsonFields>>().map(|text| text.fields.as_str());
            if let Some(Ok(known)) = formatted.map(serde_json::from_str::<Map<String, Value>>) {
                fields.rest.extend(known);
            }
        }
        event.record(&mut fields);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;

        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        line.insert("message".to_owned(), fields.message.into());
        if !fields.rest.is_empty() {
            line.insert("fields".to_owned(), fields.rest.into());
        }
        if let Some(id) = super::context::current_trace_id() {
            line.insert("trace_id".to_owned(), id.into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.rest.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, crate::report::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string fails only if the value's own formatting does; then what is there has to do.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}
