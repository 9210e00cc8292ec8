//! One attempt: runs a handler within its deadline and says what it came to.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use weft_process::crash::{self, Point};
use weft_schemas::{ErrorInfo, Event, Outcome};

use crate::context::{Context, Effects, TransactionState};
use crate::failure::Failure;
use crate::handler::Handler;
use crate::span::AttemptSpans;

/// How long a handler that was told to stop has before its future is dropped.
pub(crate) const GRACE: Duration = Duration::from_millis(250);

/// What goes to the dispatcher.
pub(crate) type Finished = (Outcome, Vec<Event>);

/// When a handler was entered, on the clock that all processes of the machine share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entered(Arc<OnceLock<u64>>);

impl Entered {
    pub(crate) fn now(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = Duration::try_from(now).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0));
        // A handler is entered once.
        let _ = self.0.set(micros);
    }

    /// Microseconds; `None` when the handler was never entered.
    pub(crate) fn get(&self) -> Option<u64> {
        self.0.get().copied()
    }
}

/// Why a handler was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Deadline,
    /// The dispatcher says that the right to run is lost.
    Lost,
}

/// What the handler answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Result(Bytes),
    Failure(Failure),
    Panic(String),
    /// Its future was dropped before it answered.
    None,
}

/// Runs `handler` on the runtime `on` until it answers, its deadline passes, or `lost` is cancelled, which the
/// dispatcher asks for.
///
/// The handlers' runtime is not this one: a handler that blocks its thread may stop the timers and the I/O of its own
/// runtime, and its deadline must pass all the same.
pub(crate) async fn run(
    on: &Handle,
    handler: Handler,
    ctx: Context,
    lost: CancellationToken,
    spans: &AttemptSpans,
    entered: &Entered,
) -> Finished {
    let (in_task, entered) = (ctx.clone(), entered.clone());
    crash::point(Point::BeforeHandler);
    let run = async move {
        entered.now();
        match AssertUnwindSafe(async { handler(in_task).await }).catch_unwind().await {
            Ok(Ok(result)) => Answer::Result(result),
            Ok(Err(failure)) => Answer::Failure(failure),
            Err(payload) => Answer::Panic(panic_text(payload.as_ref())),
        }
    };
    let mut task = AbortOnDropHandle::new(on.spawn(spans.wrap(IN_HANDLER.scope(Cell::new(true), run))));
    let stop = tokio::select! {
        biased;
        answer = &mut task => return finish(None, answer.unwrap_or(Answer::None), &ctx, spans),
        () = lost.cancelled() => Stop::Lost,
        () = sleep_until(ctx.deadline()) => Stop::Deadline,
    };
    ctx.cancel();
    let answer = within_grace(&mut task, spans).await.unwrap_or(Answer::None);
    finish(Some(stop), answer, &ctx, spans)
}

/// What a handler that was told to stop came to: its answer within the grace, or `None` as soon as its future has been
/// dropped.
pub(crate) async fn within_grace<T>(task: &mut AbortOnDropHandle<T>, spans: &AttemptSpans) -> Option<T> {
    if let Ok(answer) = timeout(GRACE, &mut *task).await {
        return answer.ok();
    }
    task.abort();
    // Wait for the future to be dropped, so that its transactions are rolled back before the outcome is known.
    if let Ok(answer) = timeout(GRACE, &mut *task).await {
        return answer.ok();
    }
    spans.in_scope(|| warn!("handler blocks its thread and cannot be stopped"));
    // Not answered: the dispatcher takes that for a worker that does not obey, and replaces it. An answer would keep a
    // process whose threads are used up one by one, until nothing runs in it.
    task.await.ok()
}

/// What an attempt came to, with the effects that it leaves.
pub(crate) fn finish(stop: Option<Stop>, answer: Answer, ctx: &Context, spans: &AttemptSpans) -> Finished {
    let effects = std::mem::take(&mut *ctx.effects());
    crash::point(Point::AfterHandler);
    let finished = spans.in_scope(|| decide(stop, answer, effects));
    spans.end(&finished.0);
    finished
}

/// The outcome, from why the handler was stopped (if it was), what it answered, and what it did before.
///
/// A commit has settled the invocation, whatever came after. Without one: a lost right to run outweighs every answer; a
/// result that came within the grace after the deadline still counts, because the ledger has the last word anyway.
fn decide(stop: Option<Stop>, answer: Answer, effects: Effects) -> Finished {
    if let Some(result) = effects.committed {
        match answer {
            Answer::Result(_) => {}
            Answer::Failure(failure) => {
                warn!(kind = failure.kind(), error = failure.message(), "handler failed after its commit");
            }
            Answer::Panic(message) => warn!(error = message, "handler panicked after its commit"),
            Answer::None => warn!("handler did not end after its commit"),
        }
        return (Outcome::Committed { result }, Vec::new());
    }
    let outcome = match (stop, answer) {
        (Some(Stop::Lost), _) => Outcome::Superseded,
        (_, Answer::Result(result)) => match effects.transaction {
            TransactionState::None => return (Outcome::Succeeded { result }, effects.emits),
            TransactionState::Open | TransactionState::Abandoned => Failure::retry(
                "TransactionNotCommitted",
                "the handler returned without committing the transaction that it opened; its work is undone",
            )
            .into_outcome(),
        },
        (_, Answer::Failure(failure)) if failure.is_superseded() => Outcome::Superseded,
        (Some(Stop::Deadline), _) => Outcome::TimedOut,
        (None, Answer::Failure(failure)) => failure.into_outcome(),
        (None, Answer::Panic(message)) => panicked(message),
        // Only a runtime that is being shut down drops the task by itself.
        (None, Answer::None) => Outcome::Drained,
    };
    (outcome, Vec::new())
}

fn panicked(message: String) -> Outcome {
    Outcome::Retry { error: ErrorInfo::new("panic", message), after_ms: None }
}

pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)").to_owned()
}

tokio::task_local! {
    /// Set while a handler is polled, so that the panic hook can tell a handler's panic from one of ours.
    pub(crate) static IN_HANDLER: Cell<bool>;
}

/// Makes a handler's panic one log event (its span says which function and key) in place of text on stderr. Other
/// panics are left to the hook that was there before.
pub(crate) fn install_panic_hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if IN_HANDLER.try_with(Cell::get).unwrap_or(false) {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            warn!(error = panic_text(panic.payload()), place, "handler panicked");
        } else {
            before(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(stop: Option<Stop>, answer: Answer, effects: Effects) -> Outcome {
        decide(stop, answer, effects).0
    }

    fn result() -> Answer {
        Answer::Result(Bytes::from_static(b"1"))
    }

    fn failure() -> Answer {
        Answer::Failure(Failure::terminal("No", "never"))
    }

    #[test]
    fn a_commit_outweighs_everything_that_follows() {
        for stop in [None, Some(Stop::Deadline), Some(Stop::Lost)] {
            for answer in [result(), failure(), Answer::Panic("x".into()), Answer::None] {
                let effects = Effects { committed: Some(Bytes::from_static(b"7")), ..Effects::default() };
                assert_eq!(outcome(stop, answer, effects), Outcome::Committed { result: Bytes::from_static(b"7") });
            }
        }
    }

    #[test]
    fn a_lost_right_outweighs_the_answer() {
        for answer in [result(), failure(), Answer::Panic("x".into()), Answer::None] {
            assert_eq!(outcome(Some(Stop::Lost), answer, Effects::default()), Outcome::Superseded);
        }
        let stale = Answer::Failure(Failure::superseded("write state"));
        assert_eq!(outcome(None, stale, Effects::default()), Outcome::Superseded);
    }

    #[test]
    fn after_the_deadline_only_a_result_counts() {
        let stop = Some(Stop::Deadline);
        assert!(matches!(outcome(stop, result(), Effects::default()), Outcome::Succeeded { .. }));
        for answer in [failure(), Answer::Panic("x".into()), Answer::None] {
            assert_eq!(outcome(stop, answer, Effects::default()), Outcome::TimedOut);
        }
    }

    #[test]
    fn an_abandoned_transaction_is_a_failed_attempt() {
        for transaction in [TransactionState::Open, TransactionState::Abandoned] {
            let outcome = outcome(None, result(), Effects { transaction, ..Effects::default() });
            let Outcome::Retry { error, .. } = outcome else { panic!("{outcome:?}") };
            assert_eq!(error.kind, "TransactionNotCommitted");
        }
    }
}
