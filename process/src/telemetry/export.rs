//! Where spans go.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use url::Url;

/// Takes one OTLP `ExportTraceServiceRequest`, encoded as protobuf. Called on the exporter's own thread; it must not
/// block for long (the exporter waits for it) and must not panic.
pub type Sink = Arc<dyn Fn(Bytes) + Send + Sync>;

/// Where spans go.
#[derive(Clone, Default)]
pub enum Export {
    /// Nowhere: the spans of an event's path are disabled and cost nothing.
    #[default]
    None,
    /// To an OTLP/HTTP endpoint (protobuf, plain HTTP).
    Http {
        /// `http://localhost:4318`, to which `/v1/traces` is added, or the whole address with a path.
        endpoint: String,
        /// Sent with each request. May hold secrets; never printed.
        headers: Vec<(String, String)>,
    },
    /// To a function of ours: how a worker exports through its link, with no network of its own. The spans that the
    /// handler opens inside its invocation (any target, INFO and above) go with it.
    Sink(Sink),
}

impl Export {
    /// From a command line flag and the standard variables, in this order: `OTEL_SDK_DISABLED=true` and
    /// `OTEL_TRACES_EXPORTER=none` mean nowhere · the flag · `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` ·
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` · nowhere. Headers come from `OTEL_EXPORTER_OTLP_TRACES_HEADERS` or else
    /// `OTEL_EXPORTER_OTLP_HEADERS`. Empty values count as absent. The flag is a base address, as
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` is.
    pub fn from_env(endpoint_flag: Option<&str>) -> Self {
        Self::from_variables(endpoint_flag, |name| std::env::var(name).ok())
    }

    pub(super) fn from_variables(flag: Option<&str>, read: impl Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| read(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if disabled(&read) || read("OTEL_TRACES_EXPORTER").is_some_and(|text| text.eq_ignore_ascii_case("none")) {
            return Self::None;
        }
        // A flag that only repeats the common variable (command line parsers read it too) must not win over the
        // more particular one.
        let common = read("OTEL_EXPORTER_OTLP_ENDPOINT");
        let flag = flag.map(str::trim).filter(|flag| !flag.is_empty() && Some(*flag) != common.as_deref());
        let endpoint = match flag {
            Some(base) => with_path(base, "/v1/traces"),
            None => match (read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), common) {
                (Some(whole), _) => whole,
                (None, Some(base)) => with_path(&base, "/v1/traces"),
                (None, None) => return Self::None,
            },
        };
        let headers = headers(&read, "OTEL_EXPORTER_OTLP_TRACES_HEADERS");
        Self::Http { endpoint, headers }
    }

    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::None)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Http { endpoint, headers } => {
                let names: Vec<_> = headers.iter().map(|(name, _)| name).collect();
                let endpoint = crate::secret::Address::new(endpoint.as_str());
                f.debug_struct("Http").field("endpoint", &endpoint).field("headers", &names).finish()
            }
            Self::Sink(_) => f.write_str("Sink"),
        }
    }
}

/// `OTEL_SDK_DISABLED`, which only the word `true` sets.
pub(super) fn disabled(read: &impl Fn(&str) -> Option<String>) -> bool {
    read("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// The headers of a signal: its own variable, or else the common one.
pub(super) fn headers(read: &impl Fn(&str) -> Option<String>, own: &str) -> Vec<(String, String)> {
    read(own).or_else(|| read("OTEL_EXPORTER_OTLP_HEADERS")).map(|text| parse_headers(&text)).unwrap_or_default()
}

/// `name=value,name=value`, values percent-encoded. Parts without a name are left out.
fn parse_headers(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), percent_decoded(value.trim())))
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

/// Percent-decoding as W3C baggage has it: a plus sign stays a plus sign.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let pair = (first == b'%').then(|| tail.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match pair.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A base address with a signal's path, unless it is there already.
pub(super) fn with_path(base: &str, path: &str) -> String {
    let base = base.trim_end_matches('/');
    if base.ends_with(path) { base.to_owned() } else { format!("{base}{path}") }
}

/// The whole address of an endpoint: one without a path gets the signal's.
///
/// # Errors
/// It is not an `http` address, or holds credentials; the text says why, for [`InitError`](super::InitError).
pub(super) fn whole(endpoint: &str, path: &str) -> Result<Url, String> {
    let mut url = Url::parse(endpoint).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" => {}
        "https" => return Err("https is not supported; send to a collector on this machine by http".to_owned()),
        _ => return Err("only http addresses are supported".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Libraries would print them in their errors.
        return Err("credentials do not belong in the address; send them as a header".to_owned());
    }
    if matches!(url.path(), "" | "/") {
        url.set_path(path);
    }
    Ok(url)
}
