//! Answers of the function: a response, or an error, and what each makes of its call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use weft_schemas::{ErrorInfo, Outcome};

use super::super::answer;
use super::super::machine::{Call, MAX_RESPONSE_BYTES, Refused, Taken};
use super::super::report::Report;
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

    pub(super) async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<Answer, Rejected> {
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
            self.api.say(Said::Outcome { id, outcome, taken_us: at_us });
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
