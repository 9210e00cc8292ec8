//! The Runtime API over HTTP: requests of one worker to its [`Machine`], and what the machine says back.
//!
//! Bounded: a response takes at most [`MAX_RESPONSE_BYTES`] of memory, and of each call in the runtime's hands only one can
//! be arriving; other bodies are small. A body that arrives slowly holds its connection and no more: the deadline of its call
//! ends the worker, and with it the connection.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use weft_schemas::request::client_context;
use weft_schemas::{ErrorInfo, FunctionName, Outcome};

use super::super::FromWorker;
use super::machine::{Call, ExtensionEvent, MAX_RESPONSE_BYTES, Machine, Refused, Taken};
use super::report::Report;
use super::route::Route;
use super::{Current, Lambda, answer};

/// The longest body of what is no response.
const MAX_SMALL_BYTES: usize = 64 * 1024;
/// What is read of a body that is refused, so that its sender hears why and not only that the connection broke.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);
/// How long an extension is told that it has when the worker is ended.
const SHUTDOWN_MS: u64 = 2_000;

const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
const ARN: HeaderName = HeaderName::from_static("lambda-runtime-invoked-function-arn");
const TRACE: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("lambda-runtime-client-context");
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";
const EXTENSION_NAME: &str = "lambda-extension-name";
const EXTENSION_ID: &str = "lambda-extension-identifier";

/// What the API has to tell the task that owns it.
#[derive(Debug)]
pub(super) enum Said {
    /// The runtime asked for an invocation for the first time.
    Ready {
        init: Duration,
    },
    /// To be handed on as it is.
    Worker(FromWorker),
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

type Answer = Response<Full<Bytes>>;

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
        self.current.set(self.state().machine.only().cloned());
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

    /// Tells waiting extensions what there is for them.
    pub(super) fn tell_extensions(&self) {
        let mut state = self.state();
        let State { machine, listening, .. } = &mut *state;
        tell_extensions(machine, listening);
    }

    async fn response(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        if headers.get(RESPONSE_MODE).is_some_and(|mode| !mode.as_bytes().eq_ignore_ascii_case(b"streaming")) {
            return Err(Rejected { why: Refused::ResponseMode, rest: Some(body) });
        }
        let upload = match self.begin(id, "a response") {
            Ok(upload) => upload,
            Err(why) => return Err(Rejected { why, rest: Some(body) }),
        };
        match collect(body, MAX_RESPONSE_BYTES).await {
            Ok((body, trailers)) => {
                let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let failed = trailers.as_ref().and_then(|trailers| {
                    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
                    text(ERROR_TYPE).map(|kind| answer::broken_off(kind, text(ERROR_BODY)))
                });
                match failed {
                    Some(error) => upload.failed(&error),
                    None => upload.succeeded(&answer::whole(kind, body)),
                }
                Ok(accepted())
            }
            Err(rejected) => {
                if rejected.why == Refused::TooLarge {
                    let text = format!("the response is larger than {MAX_RESPONSE_BYTES} bytes");
                    upload.refused(ErrorInfo::new("Function.ResponseSizeTooLarge", text));
                }
                Err(rejected)
            }
        }
    }

    async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        let upload = match self.begin(id, "an error") {
            Ok(upload) => upload,
            Err(why) => return Err(Rejected { why, rest: Some(body) }),
        };
        let (body, _) = match collect(body, MAX_RESPONSE_BYTES).await {
            Ok(collected) => collected,
            // However long it is, the attempt failed.
            Err(Rejected { why: Refused::TooLarge, rest }) => {
                upload.failed(&answer::error(error_type(headers), b""));
                return Err(Rejected { why: Refused::TooLarge, rest });
            }
            Err(rejected) => return Err(rejected),
        };
        upload.failed(&answer::error(error_type(headers), &body));
        Ok(accepted())
    }

    fn begin(&self, id: &str, what: &'static str) -> Result<Upload<'_>, Refused> {
        self.state().machine.begin(id, what)?;
        Ok(Upload { api: self, request: id.to_owned(), open: true })
    }

    async fn init_error(&self, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        let (body, _) = collect(body, MAX_SMALL_BYTES).await?;
        self.state().machine.init_error().map_err(|why| Rejected { why, rest: None })?;
        let error = answer::error(error_type(headers), &body);
        self.say(Said::InitFailed(one_line(&error)));
        Ok(accepted())
    }

    async fn register(&self, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        let (body, _) = collect(body, MAX_SMALL_BYTES).await?;
        let named = headers.get(EXTENSION_NAME).is_some_and(|name| !name.is_empty());
        if !named {
            return Err(Rejected { why: Refused::NoExtensionName, rest: None });
        }
        let wanted: Value = serde_json::from_slice(&body).unwrap_or_default();
        let wants =
            |event: &str| wanted["events"].as_array().is_some_and(|events| events.iter().any(|wanted| wanted == event));
        let identifier = uuid::Uuid::new_v4().to_string();
        self.state()
            .machine
            .register(identifier.clone(), wants("INVOKE"), wants("SHUTDOWN"))
            .map_err(|why| Rejected { why, rest: None })?;
        self.extensions.store(true, Ordering::Relaxed);
        let who = json!({
            "functionName": self.function.as_str(), "functionVersion": "$LATEST", "handler": self.lambda.handler,
        });
        let mut answer = json_answer(StatusCode::OK, &who);
        put(answer.headers_mut(), HeaderName::from_static(EXTENSION_ID), &identifier);
        Ok(answer)
    }

    async fn extension_next(&self, headers: &HeaderMap) -> Result<Answer, Refused> {
        let identifier = self.extension(headers)?;
        let waits = {
            let mut state = self.state();
            match state.machine.extension_event(&identifier)? {
                Some(event) => Err(event),
                None => {
                    let (event, waits) = oneshot::channel();
                    if !state.closed {
                        // One that asked before and waits still is gone.
                        state.listening.insert(identifier, event);
                    }
                    Ok(waits)
                }
            }
        };
        let event = match waits {
            Err(event) => event,
            Ok(waits) => waits.await.map_err(|_| Refused::Transition { from: "gone", to: "asking for an event" })?,
        };
        let event = match event {
            ExtensionEvent::Invoke { request, deadline_ms, trace } => {
                let mut event = json!({
                    "eventType": "INVOKE", "deadlineMs": deadline_ms, "requestId": &*request,
                    "invokedFunctionArn": self.lambda.arn,
                });
                if let Some(trace) = trace {
                    event["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": trace });
                }
                event
            }
            ExtensionEvent::Shutdown => {
                let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
                json!({ "eventType": "SHUTDOWN", "shutdownReason": "spindown", "deadlineMs": now + SHUTDOWN_MS })
            }
        };
        let mut answer = json_answer(StatusCode::OK, &event);
        let id = uuid::Uuid::new_v4().to_string();
        put(answer.headers_mut(), HeaderName::from_static("lambda-extension-event-identifier"), &id);
        Ok(answer)
    }

    fn extension(&self, headers: &HeaderMap) -> Result<String, Refused> {
        let identifier = headers.get(EXTENSION_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        if self.state().machine.knows_extension(identifier) {
            Ok(identifier.to_owned())
        } else {
            Err(Refused::UnknownExtension)
        }
    }

    /// An extension failed: before the runtime was ready that is a failed start, later a line in the log.
    async fn extension_failed(&self, headers: &HeaderMap, body: Incoming, what: &str) -> Result<Answer, Rejected> {
        let (body, _) = collect(body, MAX_SMALL_BYTES).await?;
        self.extension(headers).map_err(|why| Rejected { why, rest: None })?;
        let error = answer::error(error_type(headers), &body);
        let failed = self.state().machine.init_error().is_ok();
        if failed {
            self.say(Said::InitFailed(format!("an extension cannot {what}: {}", one_line(&error))));
        } else {
            tracing::warn!(
                function = %self.function, worker = self.worker, kind = error.kind, error = error.message, what,
                "an extension of a worker failed"
            );
        }
        Ok(accepted())
    }

    /// A receiver that is gone wanted to know nothing more.
    fn say(&self, said: Said) {
        let _ = self.said.send(said);
    }
}

fn tell_extensions(machine: &mut Machine, listening: &mut HashMap<String, oneshot::Sender<ExtensionEvent>>) {
    let ready: Vec<String> = listening.keys().cloned().collect();
    for identifier in ready {
        if let Ok(Some(event)) = machine.extension_event(&identifier)
            && let Some(waits) = listening.remove(&identifier)
        {
            let _ = waits.send(event);
        }
    }
}

/// An answer that is arriving. Dropped before it is whole, its call can be answered again.
struct Upload<'a> {
    api: &'a Api,
    request: String,
    open: bool,
}

impl Upload<'_> {
    fn succeeded(self, body: &[u8]) {
        let (lambda, queue) = (Arc::clone(&self.api.lambda), self.api.queue.clone());
        self.end(|call| lambda.outcomes(call, &queue, body));
    }

    fn failed(self, error: &ErrorInfo) {
        let outcome = Outcome::Retry { error: error.clone(), after_ms: None };
        self.end(|call| vec![outcome; call.invokes.len()]);
    }

    /// It would be refused again.
    fn refused(self, error: ErrorInfo) {
        let outcome = Outcome::Failed { error };
        self.end(|call| vec![outcome; call.invokes.len()]);
    }

    /// `outcomes`: one for each attempt of the call.
    fn end(mut self, outcomes: impl FnOnce(&Call) -> Vec<Outcome>) {
        self.open = false;
        let (taken, init) = {
            let mut state = self.api.state();
            let Some(taken) = state.machine.finish(&self.request) else { return };
            (taken, state.init.take())
        };
        let Taken { call, at_us, .. } = taken;
        for (id, outcome) in call.ids().zip(outcomes(&call)) {
            let said = FromWorker::Outcome { id, outcome, emits: Vec::new(), entered_us: Some(at_us) };
            self.api.say(Said::Worker(said));
        }
        let report = Report {
            function: &self.api.function,
            worker: &self.api.worker,
            request: &call.request,
            took: Duration::from_micros(now_us().saturating_sub(at_us)),
            init,
            memory_mib: self.api.lambda.memory_mib,
            pid: self.api.pid.load(Ordering::Relaxed),
        };
        report.log();
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if self.open {
            self.api.state().machine.abandon(&self.request);
        }
    }
}

/// A request that is not done, and what is still to come of its body.
struct Rejected {
    why: Refused,
    rest: Option<Incoming>,
}

/// Reads a body of at most so many bytes, and its trailers.
async fn collect(mut body: Incoming, most: usize) -> Result<(Bytes, Option<HeaderMap>), Rejected> {
    if body.size_hint().lower() > most as u64 {
        return Err(Rejected { why: Refused::TooLarge, rest: Some(body) });
    }
    let mut bytes = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Rejected { why: Refused::Broken, rest: None })?;
        match frame.into_data() {
            Ok(data) => {
                if bytes.len() + data.len() > most {
                    return Err(Rejected { why: Refused::TooLarge, rest: Some(body) });
                }
                bytes.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    Ok((bytes.into(), trailers))
}

/// Reads the rest of a body and drops it, within bounds; whether it was all of it.
async fn discard(mut body: Incoming) -> bool {
    let all = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DISCARD_TIME, all).await.unwrap_or(false)
}

/// As AWS's emulator answers a subscription to what it has none of.
async fn unsupported(body: Incoming, what: &str) -> Result<Answer, Rejected> {
    collect(body, MAX_SMALL_BYTES).await?;
    let text =
        json!({ "errorMessage": format!("{what} API is not supported"), "errorType": format!("{what}.NotSupported") });
    Ok(json_answer(StatusCode::ACCEPTED, &text))
}

fn error_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(ERROR_TYPE).and_then(|kind| kind.to_str().ok()).filter(|kind| !kind.is_empty())
}

fn one_line(error: &ErrorInfo) -> String {
    format!("{}: {}", error.kind, error.message.lines().next().unwrap_or_default())
}

fn accepted() -> Answer {
    plain(StatusCode::ACCEPTED, Bytes::from_static(b"{\"status\":\"OK\"}\n"), "application/json")
}

fn refused(why: Refused) -> Answer {
    let status = StatusCode::from_u16(why.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &json!({ "errorMessage": why.message(), "errorType": why.kind() }))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    plain(status, body.to_string().into(), "application/json")
}

fn plain(status: StatusCode, body: Bytes, content_type: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A text that no header can hold is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Microseconds of the clock that all processes of the machine share.
fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}
