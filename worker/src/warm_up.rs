//! Warm-ups: what a program does once in each of its processes, before it says that it is ready and gets work.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use weft_schemas::FunctionName;

use crate::attempt::panic_text;
use crate::failure::Failure;

/// What a warm-up knows of its worker.
#[derive(Debug, Clone)]
pub struct WarmUp {
    function: FunctionName,
    until: Option<Instant>,
}

type Run = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A registered warm-up, its types erased.
pub(crate) type Step = Arc<dyn Fn(WarmUp) -> Run + Send + Sync>;

impl WarmUp {
    /// `within`: how long all warm-ups may take together, from now; `None`: the dispatcher alone knows.
    pub(crate) fn new(function: FunctionName, within: Option<Duration>) -> Self {
        // A limit beyond the clock's range is none that could pass.
        let until = within.map(|within| Instant::now() + within.min(Duration::from_secs(24 * 3600)));
        Self { function, until }
    }

    /// The function that this worker was started for, as declared in `weft.toml`: one program may serve several.
    pub fn function(&self) -> &FunctionName {
        &self.function
    }

    /// How long the warm-ups may still take: most of what is left of `init_timeout`. `None`: the dispatcher did not say.
    pub fn remaining(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

/// Erases the types of a warm-up.
pub(crate) fn erase<F, Fut>(f: F) -> Step
where
    F: Fn(WarmUp) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    Arc::new(move |warm_up| Box::pin(f(warm_up)) as Run)
}

/// Runs the steps one after the other, in their order, on the handlers' runtime: one that blocks its thread cannot keep
/// this one from seeing that time is up.
///
/// # Errors
/// Why the program cannot start, as a clause about it: a step failed, panicked, or did not end in time.
pub(crate) async fn run(steps: &[Step], on: &Handle, about: WarmUp) -> Result<(), String> {
    for step in steps {
        let (step, in_task) = (Arc::clone(step), about.clone());
        let run = AssertUnwindSafe(async move { step(in_task).await }).catch_unwind();
        let task = AbortOnDropHandle::new(on.spawn(run));
        let ended = match about.until {
            Some(until) => timeout_at(until, task).await.map_err(|_| "its warm-up did not end in time".to_owned())?,
            None => task.await,
        };
        match ended {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(failure))) => {
                return Err(format!("its warm-up failed: {}: {}", failure.kind(), failure.message()));
            }
            Ok(Err(payload)) => return Err(format!("its warm-up panicked: {}", panic_text(payload.as_ref()))),
            Err(_) => return Err("its warm-up was cut short".to_owned()),
        }
    }
    Ok(())
}
