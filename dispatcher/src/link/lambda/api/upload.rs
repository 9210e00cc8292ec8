//! Answers of the function: a response, or an error, and what each makes of its call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use weft_schemas::request::wants_log;
use weft_schemas::{ErrorInfo, Outcome};

use super::super::answer;
use super::super::machine::{Call, MAX_RESPONSE_BYTES, Refused, Taken};
use super::super::report::Report;
use super::super::{Seen, most_memory};
use super::body::{Rejected, collect};
use super::reply::{Answer, accepted};
use super::{Api, ERROR_TYPE, Said, error_type, now_us};

const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

impl Api {
    pub(super) async fn response(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
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
                    Some(error) => upload.failed(&error).await,
                    None => upload.succeeded(&answer::whole(kind, body)).await,
                }
                Ok(accepted())
            }
            Err(rejected) => {
                if rejected.why == Refused::TooLarge {
                    let text = format!("the response is larger than {MAX_RESPONSE_BYTES} bytes");
                    upload.refused(ErrorInfo::new("Function.ResponseSizeTooLarge", text)).await;
                }
                Err(rejected)
            }
        }
    }

    pub(super) async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
        let upload = match self.begin(id, "an error") {
            Ok(upload) => upload,
            Err(why) => return Err(Rejected { why, rest: Some(body) }),
        };
        let (body, _) = match collect(body, MAX_RESPONSE_BYTES).await {
            Ok(collected) => collected,
            // However long it is, the attempt failed.
            Err(Rejected { why: Refused::TooLarge, rest }) => {
                upload.failed(&answer::error(error_type(headers), b"")).await;
                return Err(Rejected { why: Refused::TooLarge, rest });
            }
            Err(rejected) => return Err(rejected),
        };
        upload.failed(&answer::error(error_type(headers), &body)).await;
        Ok(accepted())
    }

    fn begin(&self, id: &str, what: &'static str) -> Result<Upload<'_>, Refused> {
        self.state().machine.begin(id, what)?;
        Ok(Upload { api: self, request: id.to_owned(), open: true })
    }
}

/// An answer that is arriving. Dropped before it is whole, its call can be answered again.
struct Upload<'a> {
    api: &'a Api,
    request: String,
    open: bool,
}

impl Upload<'_> {
    async fn succeeded(self, body: &[u8]) {
        let (lambda, queue) = (Arc::clone(&self.api.lambda), self.api.queue.clone());
        self.end(|call| lambda.outcomes(call, &queue, body)).await;
    }

    async fn failed(self, error: &ErrorInfo) {
        let outcome = Outcome::Retry { error: error.clone(), after_ms: None };
        self.end(|call| vec![outcome; call.invokes.len()]).await;
    }

    /// It would be refused again.
    async fn refused(self, error: ErrorInfo) {
        let outcome = Outcome::Failed { error };
        self.end(|call| vec![outcome; call.invokes.len()]).await;
    }

    /// `outcomes`: one for each attempt of the call.
    async fn end(mut self, outcomes: impl FnOnce(&Call) -> Vec<Outcome>) {
        self.open = false;
        let (taken, init) = {
            let mut state = self.api.state();
            let Some(taken) = state.machine.finish(&self.request) else { return };
            (taken, state.init.take())
        };
        let took = Duration::from_micros(now_us().saturating_sub(taken.at_us));
        let ended = Ended { outcomes: outcomes(&taken.call), api: self.api, taken, took, init };
        if ended.is_watched() {
            self.api.current.caught_up().await;
        }
    }
}

/// A call that is answered. What it came to is said when this is dropped, also by whoever cancels what waits with it.
struct Ended<'a> {
    api: &'a Api,
    taken: Taken,
    /// One for each attempt.
    outcomes: Vec<Outcome>,
    took: Duration,
    init: Option<Duration>,
}

impl Ended<'_> {
    /// Whether its caller wants to see what it wrote.
    fn is_watched(&self) -> bool {
        matches!(self.taken.call.invokes.as_slice(), [only] if wants_log(&only.event))
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let (watched, outcomes) = (self.is_watched(), std::mem::take(&mut self.outcomes));
        let Self { api, taken: Taken { call, at_us, .. }, took, init, .. } = self;
        let pid = api.pid.load(Ordering::Relaxed);
        if let ([only], true) = (call.invokes.as_slice(), watched) {
            let (request, log) = (Some(Arc::clone(&call.request)), api.current.tail_of(&call.request));
            let seen = Seen { request, log, memory_mib: most_memory(pid) };
            api.say(Said::Seen { id: only.id, seen });
        }
        for (id, outcome) in call.ids().zip(outcomes) {
            api.say(Said::Outcome { id, outcome, taken_us: *at_us });
        }
        let report = Report {
            function: &api.function,
            worker: &api.worker,
            request: &call.request,
            took: *took,
            init: *init,
            memory_mib: api.lambda.memory_mib,
            pid,
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
