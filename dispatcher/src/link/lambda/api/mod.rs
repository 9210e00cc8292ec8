//! The Runtime API over HTTP: requests of one worker to its [`Machine`], and what the machine says back.
//!
//! Bounded: a response takes at most [`MAX_RESPONSE_BYTES`](super::machine::MAX_RESPONSE_BYTES) of memory, and of each call in the runtime's hands only one can
//! be arriving; other bodies are small. A body that arrives slowly holds its connection and no more: the deadline of its call
//! ends the worker, and with it the connection.

mod body;
mod extensions;
mod reply;
mod upload;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use weft_schemas::frame::InvocationId;
use weft_schemas::request::{client_context, wants_log};
use weft_schemas::{ErrorInfo, FunctionName, Outcome};

use super::machine::{Call, ExtensionEvent, Machine, Refused};
use super::route::Route;
use super::{Current, Lambda, Seen, Watched, answer};
use body::{MAX_SMALL_BYTES, Rejected, collect, discard};
use extensions::{tell_extensions, unsupported};
use reply::{Answer, accepted, plain, put, refused};

/// The longest head of a request.
const HEAD_BYTES: usize = 64 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
const ARN: HeaderName = HeaderName::from_static("lambda-runtime-invoked-function-arn");
const TRACE: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("lambda-runtime-client-context");
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";

/// What the API has to tell the task that owns it.
#[derive(Debug)]
pub(super) enum Said {
    /// The runtime asked for an invocation for the first time.
    Ready {
        init: Duration,
    },
    /// What an attempt came to. `taken_us`: when it was handed out, on the machine's monotonic clock.
    Outcome {
        id: InvocationId,
        outcome: Outcome,
        taken_us: u64,
    },
    /// What was seen of an attempt whose caller asked for it; before its outcome.
    Seen {
        id: InvocationId,
        seen: Seen,
    },
    InitFailed(String),
    /// It was told to finish, and its runtime waits for what does not come.
    Look,
}

/// What answers the requests of one worker.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) lambda: Arc<Lambda>,
    pub(super) function: FunctionName,
    pub(super) worker: String,
    /// The queue that feeds the function.
    pub(super) queue: String,
    pub(super) launched: Instant,
    pub(super) pid: Arc<AtomicU32>,
    pub(super) current: Current,
    /// Whether an extension has registered.
    pub(super) extensions: Arc<AtomicBool>,
    /// At most a few for each request that is being answered.
    pub(super) said: mpsc::UnboundedSender<Said>,
    pub(super) state: Mutex<State>,
}

/// What the requests share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) machine: Machine,
    /// Those that wait for an invocation, in their order.
    nexts: VecDeque<oneshot::Sender<Arc<Call>>>,
    /// Extensions that wait for an event.
    listening: HashMap<String, oneshot::Sender<ExtensionEvent>>,
    /// Taken by the report of the first call.
    init: Option<Duration>,
    /// The worker is gone: nobody waits for anything any more.
    closed: bool,
}

impl State {
    pub(super) fn new(machine: Machine) -> Self {
        Self { machine, nexts: VecDeque::new(), listening: HashMap::new(), init: None, closed: false }
    }

    /// Lets go of all that wait.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.nexts.clear();
        self.listening.clear();
    }

    /// Whether its runtime waits for an invocation, or never began to.
    pub(super) fn is_at_rest(&mut self) -> bool {
        self.nexts.retain(|next| !next.is_closed());
        self.machine.is_drained() && (!self.nexts.is_empty() || !self.machine.is_ready())
    }
}

/// Who asks for the next invocation either has it or waits for it.
enum Wait {
    Call(Arc<Call>),
    For(oneshot::Receiver<Arc<Call>>),
}

impl Api {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request. Cancel-safe: what is said of an attempt is said at once when its answer is whole.
    pub(super) async fn handle(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let answered = match Route::of(&head.method, path) {
            Ok(Route::Next) => return self.next().await.unwrap_or_else(refused),
            Ok(Route::Ping) => return plain(StatusCode::OK, Bytes::from_static(b"pong"), "text/plain"),
            Ok(Route::ExtensionNext) => return self.extension_next(&head.headers).await.unwrap_or_else(refused),
            Ok(Route::Response(id)) => self.response(id, &head.headers, body).await,
            Ok(Route::Error(id)) => self.error(id, &head.headers, body).await,
            Ok(Route::InitError) => self.init_error(&head.headers, body).await,
            Ok(Route::Register) => self.register(&head.headers, body).await,
            Ok(Route::ExtensionInitError) => self.extension_failed(&head.headers, body, "start").await,
            Ok(Route::ExtensionExitError) => self.extension_failed(&head.headers, body, "go on").await,
            Ok(Route::Logs) => unsupported(body, "Logs").await,
            Ok(Route::Telemetry) => unsupported(body, "Telemetry").await,
            Err(why) => Err(Rejected { why, rest: Some(body) }),
        };
        match answered {
            Ok(answer) => answer,
            Err(Rejected { why, rest }) => {
                let whole = match rest {
                    Some(rest) => discard(rest).await,
                    None => false,
                };
                let mut answer = refused(why);
                if !whole {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        }
    }

    async fn next(&self) -> Result<Answer, Refused> {
        let wait = {
            let mut state = self.state();
            let next = state.machine.next(now_us())?;
            if next.ready {
                let init = self.launched.elapsed();
                state.init = Some(init);
                self.say(Said::Ready { init });
            }
            match next.call {
                Some(call) => {
                    let State { machine, listening, .. } = &mut *state;
                    tell_extensions(machine, listening);
                    Wait::Call(call)
                }
                None => {
                    let (call, waits) = oneshot::channel();
                    // What is closed lets nobody wait: the sender is dropped, and the answer says so.
                    if !state.closed {
                        state.nexts.push_back(call);
                    }
                    if state.machine.is_drained() {
                        self.say(Said::Look);
                    }
                    Wait::For(waits)
                }
            }
        };
        let call = match wait {
            Wait::Call(call) => call,
            Wait::For(waits) => {
                waits.await.map_err(|_| Refused::Transition { from: "gone", to: "asking for an invocation" })?
            }
        };
        let only = self.state().machine.only().cloned();
        let watched = match call.invokes.as_slice() {
            [one] if only.is_some() && wants_log(&one.event) => {
                Some(Watched { id: one.id, request: Some(Arc::clone(&call.request)) })
            }
            _ => None,
        };
        self.current.set(only, watched);
        Ok(self.invocation(&call))
    }

    /// An invocation as the runtime gets it.
    fn invocation(&self, call: &Call) -> Answer {
        let mut answer = plain(StatusCode::OK, call.payload.clone(), "application/json");
        let headers = answer.headers_mut();
        put(headers, REQUEST_ID, &call.request);
        put(headers, DEADLINE, &call.deadline_ms.to_string());
        put(headers, ARN, &self.lambda.arn);
        if let Some(trace) = &call.trace {
            put(headers, TRACE, trace);
        }
        if let [only] = call.invokes.as_slice()
            && let Some(context) = client_context(&only.event)
        {
            put(headers, CLIENT_CONTEXT, &context);
        }
        answer
    }

    /// Hands waiting calls to those that wait for them.
    pub(super) fn dispatch(&self) {
        let mut state = self.state();
        let now = now_us();
        let State { machine, nexts, listening, .. } = &mut *state;
        nexts.retain(|next| !next.is_closed());
        while !nexts.is_empty() {
            let Some(call) = machine.take(now) else { break };
            let Some(next) = nexts.pop_front() else { break };
            if let Err(call) = next.send(call) {
                machine.put_back(&call.request);
            }
        }
        tell_extensions(machine, listening);
    }

    async fn init_error(&self, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        let (body, _) = collect(body, MAX_SMALL_BYTES).await?;
        self.state().machine.init_error().map_err(|why| Rejected { why, rest: None })?;
        let error = answer::error(error_type(headers), &body);
        self.say(Said::InitFailed(one_line(&error)));
        Ok(accepted())
    }

    /// A receiver that is gone wanted to know nothing more.
    fn say(&self, said: Said) {
        let _ = self.said.send(said);
    }
}

fn error_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(ERROR_TYPE).and_then(|kind| kind.to_str().ok()).filter(|kind| !kind.is_empty())
}

fn one_line(error: &ErrorInfo) -> String {
    format!("{}: {}", error.kind, error.message.lines().next().unwrap_or_default())
}

/// Serves the requests of one connection; over when the worker or the API ends it.
///
/// # Errors
/// The worker broke it off, or sent what is no HTTP: its own affair.
pub(super) async fn connection<S>(api: Arc<Api>, stream: S) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
    });
    let mut server = http1::Builder::new();
    // No limit of time for a head: a client's idle connection would be closed under its next request.
    server.title_case_headers(true).auto_date_header(false).max_buf_size(HEAD_BYTES);
    server.serve_connection(TokioIo::new(stream), service).await
}

/// Microseconds of the clock that all processes of the machine share.
fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
