//! How encoded spans and metrics leave: over HTTP, or into a function of ours.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use url::{Host, Url};

use super::export::Sink;

/// One request, connect included.
const REQUEST: Duration = Duration::from_secs(5);

/// A blocking HTTP client that is made at its first use: with nothing to send it costs nothing.
///
/// Use it only on threads of its own: it blocks, and it may not be made on a thread of an async runtime.
#[derive(Debug)]
pub(super) struct Post {
    url: Url,
    client: OnceLock<Result<reqwest::blocking::Client, String>>,
    failures: Rarely,
    /// What is lost when a post fails, for the log line.
    what: &'static str,
}

impl Post {
    pub(super) fn new(url: Url, what: &'static str) -> Self {
        Self { url, client: OnceLock::new(), failures: Rarely::every(Duration::from_secs(60)), what }
    }

    /// The client, or why there is none.
    pub(super) fn client(&self) -> Result<&reqwest::blocking::Client, HttpError> {
        let made = self.client.get_or_init(|| {
            let mut builder = reqwest::blocking::Client::builder().timeout(REQUEST);
            if is_loopback(&self.url) {
                // A proxy cannot reach this machine's own loopback.
                builder = builder.no_proxy();
            }
            builder.build().map_err(|error| crate::report::chain(&error))
        });
        made.as_ref().map_err(|error| error.clone().into())
    }

    /// Counts a failed post, and logs at most once a minute.
    pub(super) fn failed(&self, error: &str) {
        if let Some(posts) = self.failures.add(1) {
            let endpoint = crate::secret::Address::new(self.url.as_str());
            tracing::warn!(%endpoint, posts, error, lost = self.what, "telemetry could not be sent");
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = match self.client() {
            Ok(client) => client.send_bytes(request).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.failed(response.status().as_str()),
            Err(error) => self.failed(&crate::report::chain(error.as_ref())),
        }
        result
    }
}

/// Hands the body to a sink and answers 200.
pub(super) struct IntoSink(pub(super) Sink);

impl fmt::Debug for IntoSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntoSink")
    }
}

#[async_trait]
impl HttpClient for IntoSink {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        (self.0)(request.into_body());
        Ok(Response::new(Bytes::new()))
    }
}

/// Counts, and says at most once per period how many there were since it last said so.
#[derive(Debug)]
pub(super) struct Rarely {
    period: Duration,
    state: Mutex<(u64, Option<Instant>)>,
}

impl Rarely {
    pub(super) fn every(period: Duration) -> Self {
        Self { period, state: Mutex::new((0, None)) }
    }

    /// Adds to the count; the count to report if it is time. The first is reported at once.
    pub(super) fn add(&self, count: u64) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.saturating_add(count);
        if state.1.is_some_and(|last| last.elapsed() < self.period) {
            return None;
        }
        state.1 = Some(Instant::now());
        Some(std::mem::take(&mut state.0))
    }

    /// What was counted and not yet reported.
    pub(super) fn rest(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut state.0)).filter(|count| *count > 0)
    }
}
