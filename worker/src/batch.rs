//! Batch handlers: several events in one call, each with an attempt and an answer of its own.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use weft_process::crash::{self, Point};
use weft_schemas::FunctionName;
use weft_schemas::frame::InvocationId;

use crate::attempt::{Answer, Entered, Finished, IN_HANDLER, Stop, finish, panic_text, within_grace};
use crate::context::Context;
use crate::failure::Failure;
use crate::handler::{parse, to_json};
use crate::span::AttemptSpans;

/// One event of a batch: its data, and what its attempt knows and may do.
#[derive(Debug)]
pub struct BatchEvent<T> {
    /// The event's own: its key, its attempt, its state, what it emits. [`Context::transaction`] settles this event alone,
    /// with its own success; there is no transaction that settles several.
    pub ctx: Context,
    pub data: T,
}

/// What is common to the events of one call. Cheap to clone; clones are the same call.
#[derive(Clone)]
pub struct BatchContext(Arc<Inner>);

struct Inner {
    function: FunctionName,
    deadline: Instant,
    cancel: CancellationToken,
}

impl BatchContext {
    fn of(ctx: &Context) -> Self {
        Self(Arc::new(Inner {
            function: ctx.function().clone(),
            deadline: ctx.deadline(),
            cancel: CancellationToken::new(),
        }))
    }

    /// The function that runs, as declared in `weft.toml`.
    pub fn function(&self) -> &FunctionName {
        &self.0.function
    }

    /// When the call must have answered, on the monotonic clock: the function's `timeout` is that of the whole call.
    pub fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// The time left until the deadline; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.0.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the call should stop: its deadline has passed, or every event's right to run is lost. One event's is told
    /// by its own [`Context::is_cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.0.cancel.is_cancelled()
    }

    /// Resolves when the call should stop. Cancel-safe.
    pub async fn cancelled(&self) {
        self.0.cancel.cancelled().await;
    }
}

impl fmt::Debug for BatchContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchContext").field("function", self.function()).finish_non_exhaustive()
    }
}

/// An answer for each event, in their order; `None` where there is none.
type Answers = Vec<Option<Result<Bytes, Failure>>>;

type Run = Pin<Box<dyn Future<Output = Answers> + Send>>;

/// A batch handler whose event data and results are JSON bytes.
pub(crate) type BatchHandler = Arc<dyn Fn(BatchContext, Vec<Context>) -> Run + Send + Sync>;

/// Erases the types of a batch handler function.
pub(crate) fn erase<T, R, F, Fut>(f: F) -> BatchHandler
where
    F: Fn(BatchContext, Vec<BatchEvent<T>>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Result<R, Failure>>, Failure>> + Send + 'static,
    T: DeserializeOwned,
    R: Serialize,
{
    Arc::new(move |batch: BatchContext, contexts: Vec<Context>| {
        let mut answers: Answers = Vec::with_capacity(contexts.len());
        let mut events = Vec::with_capacity(contexts.len());
        let mut most = 0;
        for ctx in contexts {
            most = ctx.services().max_result;
            // What is no `T` fails by itself, and the handler does not see it.
            match parse::<T>(&ctx.event().data) {
                Ok(data) => {
                    events.push(BatchEvent { ctx, data });
                    answers.push(None);
                }
                Err(failure) => answers.push(Some(Err(failure))),
            }
        }
        if events.is_empty() {
            return Box::pin(std::future::ready(answers)) as Run;
        }
        let run = f(batch, events);
        Box::pin(async move {
            let asked = answers.iter_mut().filter(|answer| answer.is_none());
            match run.await {
                Ok(given) => {
                    let (asked, given_len) = (asked.collect::<Vec<_>>(), given.len());
                    if given_len > asked.len() {
                        warn!(events = asked.len(), answers = given_len, "batch handler gave more answers than events");
                    }
                    for (answer, result) in asked.into_iter().zip(given) {
                        *answer = Some(result.and_then(|result| to_json(&result, most)));
                    }
                }
                Err(failure) => asked.for_each(|answer| *answer = Some(Err(failure.clone()))),
            }
            answers
        })
    })
}

/// One event of a call that runs.
pub(crate) struct Member {
    pub(crate) id: InvocationId,
    pub(crate) ctx: Context,
    /// Cancelled when the dispatcher says that its right to run is lost.
    pub(crate) lost: CancellationToken,
    pub(crate) spans: AttemptSpans,
}

/// What the handler came to, for all of them.
enum All {
    Answers(Answers),
    Panic(String),
    /// Its future was dropped before it answered.
    None,
}

/// Runs `handler` as [`crate::attempt::run`] runs one for a single event, and says what each member's attempt came to, in
/// their order. A panic and the deadline are those of every member that has not committed.
pub(crate) async fn run(on: &Handle, handler: BatchHandler, members: &[Member], entered: &Entered) -> Vec<Finished> {
    let Some(first) = members.first() else { return Vec::new() };
    let batch = BatchContext::of(&first.ctx);
    let contexts: Vec<Context> = members.iter().map(|member| member.ctx.clone()).collect();
    crash::point(Point::BeforeHandler);
    let work = {
        let (batch, entered) = (batch.clone(), entered.clone());
        async move {
            entered.now();
            match AssertUnwindSafe(async { handler(batch, contexts).await }).catch_unwind().await {
                Ok(answers) => All::Answers(answers),
                Err(payload) => All::Panic(panic_text(payload.as_ref())),
            }
        }
    };
    // One call, so one place for its log lines and spans: those of its first event.
    let mut task = AbortOnDropHandle::new(on.spawn(first.spans.wrap(IN_HANDLER.scope(Cell::new(true), work))));
    let mut losing: FuturesUnordered<_> = members
        .iter()
        .map(|member| async {
            member.lost.cancelled().await;
            member.ctx.cancel();
        })
        .collect();
    let stop = loop {
        tokio::select! {
            biased;
            all = &mut task => return finish_all(None, all.unwrap_or(All::None), members),
            Some(()) = losing.next() => {
                if losing.is_empty() {
                    break Stop::Lost;
                }
            }
            () = sleep_until(first.ctx.deadline()) => break Stop::Deadline,
        }
    };
    batch.0.cancel.cancel();
    members.iter().for_each(|member| member.ctx.cancel());
    let all = within_grace(&mut task, &first.spans).await.unwrap_or(All::None);
    finish_all(Some(stop), all, members)
}

fn finish_all(stop: Option<Stop>, all: All, members: &[Member]) -> Vec<Finished> {
    let mut answers: Vec<Answer> = match all {
        All::Answers(answers) => answers.into_iter().map(answer).collect(),
        All::Panic(text) => members.iter().map(|_| Answer::Panic(text.clone())).collect(),
        All::None => Vec::new(),
    };
    answers.resize_with(members.len(), || Answer::None);
    let finish_one = |(member, answer): (&Member, Answer)| {
        let stop = if member.lost.is_cancelled() { Some(Stop::Lost) } else { stop };
        finish(stop, answer, &member.ctx, &member.spans)
    };
    members.iter().zip(answers).map(finish_one).collect()
}

fn answer(given: Option<Result<Bytes, Failure>>) -> Answer {
    match given {
        Some(Ok(result)) => Answer::Result(result),
        Some(Err(failure)) => Answer::Failure(failure),
        None => Answer::Failure(Failure::retry("NoAnswer", "the batch handler gave no answer for this event")),
    }
}
