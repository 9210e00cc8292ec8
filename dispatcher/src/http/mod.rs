//! Callers over HTTP: the Invoke API for AWS's clients, and function URLs for everybody, on a listener each.
//!
//! Every request goes through the ledger ([`crate::requests`]); what is here reads the request, checks it, and writes the
//! answer in the shape that the caller's client expects.

mod call;
mod credentials;
mod error;
mod functions;
mod invoke;
mod key;
mod log;
mod sigv4;
mod urls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weft_process::report::{Code, Report};
use weft_schemas::FunctionName;
use weft_schemas::manifest::Function;

use self::call::Call;
pub use self::credentials::Credentials;
use self::error::ApiError;
pub use self::sigv4::{ToSign, sign};
use crate::admission::Admission;
use crate::function::Door;
use crate::report;
use crate::requests::{Requests, Seat};
use crate::status::FunctionStats;

/// The largest payload of a synchronous invocation, in bytes, as AWS has it.
const MOST_BYTES: usize = 6 << 20;
/// What is read of a body that is too large.
const DISCARDED_MOST: usize = 64 << 20;
/// How long a request's body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(60);

/// Where and for whom the callers' listeners are.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// The Invoke API; `None`: it is off.
    pub invoke: Option<SocketAddr>,
    /// Function URLs; `None`: there are none. Whoever reaches the address may call them.
    pub urls: Option<SocketAddr>,
    /// Who may call the Invoke API; `None`: whoever reaches it, so that it listens on loopback only.
    pub credentials: Option<Credentials>,
}

/// The listeners, bound.
pub(crate) struct Bound {
    invoke: Option<TcpListener>,
    urls: Option<TcpListener>,
    credentials: Option<Credentials>,
}

impl Bound {
    /// Binds what is asked for, so that a taken port is told at once.
    ///
    /// # Errors
    /// A port is taken, or the API would be open to other machines with nothing to tell its callers by.
    pub(crate) async fn bind(listen: Listen) -> Result<Self, Report> {
        let Listen { invoke, urls, credentials } = listen;
        if let Some(address) = invoke.filter(|address| credentials.is_none() && !address.ip().is_loopback()) {
            let text = format!("failed to open the Invoke API on {address}: it would answer anybody");
            return Err(Report::new(Code::Setting, text)
                .help("name a file of access keys with --invoke-credentials-file, or listen on 127.0.0.1"));
        }
        let invoke = listen_on("the Invoke API", "--invoke", invoke).await?;
        let urls = listen_on("function URLs", "--urls", urls).await?;
        Ok(Self { invoke, urls, credentials })
    }

    /// The address that the Invoke API got.
    pub(crate) fn invoke_address(&self) -> Option<SocketAddr> {
        self.invoke.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Whether anything listens.
    pub(crate) fn is_off(&self) -> bool {
        self.invoke.is_none() && self.urls.is_none()
    }

    /// Serves until cancelled and until those under way have their answers.
    pub(crate) async fn serve(self, functions: Vec<Served>, requests: Requests, stop: CancellationToken) {
        let served = functions.into_iter().map(|served| (served.function.name.clone(), served)).collect();
        let Self { invoke, urls, credentials } = self;
        let address =
            |listener: &TcpListener| listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        if let Some(listener) = &invoke {
            match &credentials {
                Some(_) => tracing::info!(address = address(listener), "Invoke API open, callers have to sign"),
                None => {
                    tracing::info!(address = address(listener), "Invoke API open on loopback, callers need not sign")
                }
            }
        }
        if let Some(listener) = &urls {
            tracing::info!(address = address(listener), "function URLs open, to whoever reaches them");
        }
        let front = Arc::new(Front { functions: served, requests, credentials, since: Timestamp::now() });
        let api = Router::new().fallback(answer).with_state(Arc::clone(&front));
        let sites = Router::new().fallback(urls::answer).with_state(front);
        tokio::join!(until("Invoke API", invoke, api, stop.clone()), until("function URLs", urls, sites, stop.clone()));
    }
}

async fn listen_on(what: &str, flag: &str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Report> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|error| report::port_of(what, flag, address, &error))
}

/// Serves until told to stop, and then until who is under way has an answer.
async fn until(what: &'static str, listener: Option<TcpListener>, app: Router, stop: CancellationToken) {
    let Some(listener) = listener else { return };
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::warn!(what, %error, "listener for callers ended");
    }
}

/// A function as callers reach it.
pub(crate) struct Served {
    function: Arc<Function>,
    admission: Admission,
    door: Door,
    stats: Arc<FunctionStats>,
    /// `concurrency.reserved` as it is now.
    reserved: Mutex<Option<u32>>,
}

impl Served {
    pub(crate) fn new(function: Arc<Function>, admission: Admission, door: Door, stats: Arc<FunctionStats>) -> Self {
        let reserved = Mutex::new(function.concurrency.reserved);
        Self { function, admission, door, stats, reserved }
    }
}

/// What the Invoke API works with.
struct Front {
    functions: BTreeMap<FunctionName, Served>,
    requests: Requests,
    credentials: Option<Credentials>,
    since: Timestamp,
}

/// A request whose body is here and whose signature is checked.
struct Whole {
    id: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    seat: Seat,
}

async fn answer(State(front): State<Arc<Front>>, request: HttpRequest) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let mut response = match front.handle(id.clone(), request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(id, kind = error.kind, error = error.message, "call refused");
            error.into_response()
        }
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().entry("x-amzn-requestid").or_insert(id);
    }
    response
}

impl Front {
    async fn handle(&self, id: String, request: HttpRequest) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        let (method, uri) = (parts.method, parts.uri);
        let (body, seat) = self.body(&parts.headers, body).await?;
        self.check_signature(&method, &uri, &parts.headers, &body)?;
        let call = call::call(&method, uri.path())?;
        let query = uri.query().unwrap_or_default().to_owned();
        let whole = Whole { id, query, headers: parts.headers, body, seat };
        match call {
            Call::Invoke(named) => self.invoke(&named, whole, None).await,
            Call::InvokeAsync(named) => self.invoke(&named, whole, Some(invoke::Kind::Event)).await,
            Call::List => self.list(&whole.query),
            Call::Get(named) => self.get(&named, &whole.query),
            Call::GetConfiguration(named) => self.get_configuration(&named, &whole.query),
            Call::GetConcurrency(named) => self.get_concurrency(&named),
            Call::PutConcurrency(named) => self.put_concurrency(&named, &whole.body),
            Call::DeleteConcurrency(named) => self.delete_concurrency(&named),
        }
    }

    /// Takes a place for a body of the length that is told, and then the body: what is not here yet is bounded too.
    async fn body(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, Seat), ApiError> {
        let told = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let chunked = headers.contains_key("transfer-encoding");
        let bytes = told.unwrap_or(if chunked { MOST_BYTES } else { 0 });
        let most = if bytes > MOST_BYTES { 0 } else { MOST_BYTES };
        let seat = self.requests.seat(bytes.min(MOST_BYTES)).ok_or_else(ApiError::full)?;
        let read = tokio::time::timeout(BODY_LIMIT, read(body, most)).await;
        let body = read.map_err(|_| ApiError::slow())?.map_err(|()| {
            ApiError::too_large(format!("Request must be smaller than {MOST_BYTES} bytes for the Invoke operation"))
        })?;
        Ok((body, seat))
    }

    fn check_signature(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let (method, path, query) = (method.as_str(), uri.path(), uri.query().unwrap_or_default());
        sigv4::verify(&sigv4::Signed { method, path, query, headers, body }, credentials, Timestamp::now())
    }
}

/// Reads a body of at most so many bytes. What is too large is read on and thrown away, within a bound: a client that is
/// answered in the middle of its sending may never read the answer.
async fn read(body: Body, most: usize) -> Result<Bytes, ()> {
    let mut parts = body.into_data_stream();
    let (mut whole, mut length) = (BytesMut::new(), 0usize);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| ())?;
        length = length.saturating_add(part.len());
        if length <= most {
            whole.extend_from_slice(&part);
        } else if length <= DISCARDED_MOST {
            whole = BytesMut::new();
        } else {
            return Err(());
        }
    }
    if length <= most { Ok(whole.freeze()) } else { Err(()) }
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    let value = value.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
}
