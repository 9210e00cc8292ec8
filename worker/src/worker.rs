//! The program around the handlers: takes the link over, serves it, and says by its exit status how that ended.

use std::env;
use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime;
use weft_process::report::chain;

use crate::batch::{self, BatchContext, BatchEvent};
use crate::context::Context;
use crate::failure::Failure;
use crate::handler::{self, Registry};
use crate::session::{self, Ended};
use crate::warm_up::{self, WarmUp};
use crate::{attempt, span};

/// Names the descriptor that the link is on. Only 0 is in use: the link takes the place of standard input.
const LINK_VARIABLE: &str = "WEFT_LINK_FD";

/// Exit status of a program that was started by hand and not by Weft.
const NOT_STARTED_BY_WEFT: u8 = 2;

/// Handlers by name, and the loop that runs them.
///
/// ```no_run
/// use weft_worker::{Context, Failure, Worker};
///
/// async fn greet(ctx: Context, name: String) -> Result<String, Failure> {
///     Ok(format!("hello {name}, this is attempt {}", ctx.attempt()))
/// }
///
/// fn main() -> std::process::ExitCode {
///     Worker::new().handler("greet", greet).run()
/// }
/// ```
#[derive(Default)]
pub struct Worker {
    registry: Registry,
}

impl Worker {
    /// A worker with no handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers `f` under `name`, which `weft.toml` refers to. `f` is an async function of a [`Context`] and the
    /// event's data, read from JSON (no data reads as `null`, for handlers that take `()`).
    ///
    /// What becomes of an attempt:
    ///
    /// | the handler | outcome |
    /// | --- | --- |
    /// | returns `Ok` | succeeded; the result answers every duplicate. At most `max_result` of JSON (`weft.toml`; 6 MiB), else dead |
    /// | committed its transaction | committed, whatever it returns afterwards |
    /// | returns `Err` | as the [`Failure`] says: retry or terminal |
    /// | panics | retry, kind `panic`; the worker lives on |
    /// | gets data that is no `T` | terminal, kind `InvalidData`; `f` is not called |
    /// | is still running 250 ms after its deadline | its future is dropped: timed out |
    /// | blocks its thread past that | timed out; the worker is replaced, and what else runs in it has 10 s to finish |
    ///
    /// A name that is registered twice makes [`Self::run`] refuse to start. Handlers run concurrently, up to the
    /// function's `slots`; one that computes or blocks for long should use [`tokio::task::spawn_blocking`].
    #[must_use]
    pub fn handler<T, R, F, Fut>(mut self, name: &str, f: F) -> Self
    where
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure>> + Send + 'static,
        T: DeserializeOwned,
        R: Serialize,
    {
        self.registry.add(name, handler::erase(f));
        self
    }

    /// Registers what each process of this program does once before it says that it is ready: open a pool, load a model,
    /// fill a cache. Until then the worker gets no event. Warm-ups run one after the other, in the order of their
    /// registration, and all together within the function's `init_timeout` (`weft.toml`; a tenth of it is kept for the
    /// rest of the start).
    ///
    /// One that fails, panics or does not end in time is a failed start with that reason: the process ends, no event is
    /// charged an attempt, and another start is tried later. It runs in every worker, so what it does must be safe to
    /// repeat; it does not run when Weft starts the program only to ask what it registers.
    ///
    /// ```no_run
    /// use std::sync::OnceLock;
    /// use weft_worker::{Failure, WarmUp, Worker};
    ///
    /// static PRICES: OnceLock<String> = OnceLock::new();
    ///
    /// async fn load(_: WarmUp) -> Result<(), Failure> {
    ///     let prices = std::fs::read_to_string("prices.json")?;
    ///     PRICES.get_or_init(|| prices);
    ///     Ok(())
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Worker::new().warm_up(load).run()
    /// }
    /// ```
    #[must_use]
    pub fn warm_up<F, Fut>(mut self, f: F) -> Self
    where
        F: Fn(WarmUp) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.registry.add_warm_up(warm_up::erase(f));
        self
    }

    /// Registers `f` under `name` as a batch handler: it takes several events in one call, as the function's `batch` in
    /// `weft.toml` says, and answers for each. A function with `batch` needs such a handler, and only it may name one.
    ///
    /// `f` is an async function of what is common to the call and of its events, each with a [`Context`] of its own, in
    /// the order in which they became ready. It returns an answer for each of them, in their order. What becomes of their
    /// attempts, each of which is settled by itself:
    ///
    /// | the handler | outcome |
    /// | --- | --- |
    /// | answers `Ok` for an event | succeeded, with this result |
    /// | answers `Err` for an event | as the [`Failure`] says: only this one is tried again |
    /// | gives fewer answers than it got events | retry, kind `NoAnswer`, for those without |
    /// | returns `Err` | as the [`Failure`] says, for every event |
    /// | panics, or is still running 250 ms after the deadline | retry, or timed out, for every event |
    /// | committed an event's own transaction | committed for this event, whatever else happens |
    /// | gets an event whose data is no `T` | terminal, kind `InvalidData`, for this event; it is not handed over |
    ///
    /// ```no_run
    /// use weft_worker::{BatchContext, BatchEvent, Failure, Worker};
    ///
    /// async fn index(_: BatchContext, events: Vec<BatchEvent<String>>) -> Result<Vec<Result<usize, Failure>>, Failure> {
    ///     Ok(events.iter().map(|event| Ok(event.data.len())).collect())
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Worker::new().batch_handler("index", index).run()
    /// }
    /// ```
    #[must_use]
    pub fn batch_handler<T, R, F, Fut>(mut self, name: &str, f: F) -> Self
    where
        F: Fn(BatchContext, Vec<BatchEvent<T>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<R, Failure>>, Failure>> + Send + 'static,
        T: DeserializeOwned,
        R: Serialize,
    {
        self.registry.add_batch(name, batch::erase(f));
        self
    }

    /// Serves the dispatcher that started this program, until it drains this worker (status 0) or goes away (status 0:
    /// nobody is left to tell). Status 1: the worker could not start or go on; why is on stderr and, before the start,
    /// in the dispatcher's log. Status 2: the program was not started by Weft.
    ///
    /// Call it first thing in `main`: it replaces standard input by `/dev/null`, asks the kernel to end this process
    /// when its parent ends, and starts its own runtime, so it must not be called inside one.
    ///
    /// # Panics
    /// When called inside an async runtime.
    pub fn run(self) -> ExitCode {
        let Some(number) = env::var_os(LINK_VARIABLE) else {
            eprintln!("{}", started_by_hand(&self.registry));
            return ExitCode::from(NOT_STARTED_BY_WEFT);
        };
        let ended = if number == "0" {
            take_over_link().map_err(|error| format!("failed to take over the link: {error}"))
        } else {
            Err(format!("failed to take over the link: {LINK_VARIABLE} must be 0, it is {number:?}"))
        };
        match ended.and_then(|link| self.serve(link)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("error: {problem}");
                ExitCode::FAILURE
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn into_registry(self) -> Registry {
        self.registry
    }

    fn serve(self, link: StdUnixStream) -> Result<(), String> {
        attempt::install_panic_hook();
        // The handlers' threads; the link and the deadlines are served by this thread, whatever the handlers do.
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
        let fault = |error: std::io::Error| format!("failed to start the runtime: {error}");
        let handlers = runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("weft-handler")
            .enable_all()
            .build()
            .map_err(fault)?;
        let session = runtime::Builder::new_current_thread().enable_all().build().map_err(fault)?;
        let on = handlers.handle().clone();
        let ended = session.block_on(async {
            let link = UnixStream::from_std(link).map_err(|error| format!("failed to use the link: {error}"))?;
            session::serve(self.registry, link, on, span::init)
                .await
                .map_err(|error| format!("failed to {}", chain(&error)))
        });
        // Handlers may still run (the dispatcher is gone) or block their threads: nothing waits for them.
        session.shutdown_background();
        handlers.shutdown_background();
        match ended? {
            Ended::Drained | Ended::LinkClosed => Ok(()),
        }
    }
}

/// Moves the link from descriptor 0 to one that no child inherits, and puts `/dev/null` in its place.
///
/// From here on the kernel kills this process when its parent ends. A parent that ended before that needs no check of
/// its own: with it went the other end of the link, and the first read says so.
fn take_over_link() -> std::io::Result<StdUnixStream> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let link: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let link = StdUnixStream::from(link);
    // Fails for anything but a socket, such as a terminal or a pipe.
    link.local_addr()?;
    link.set_nonblocking(true)?;
    Ok(link)
}

fn started_by_hand(registry: &Registry) -> String {
    let mut text = "This program holds handlers for Weft and is started by it (`weft dev` or `weft run`), \
                    as `command` in weft.toml says.\n"
        .to_owned();
    if let Some(fault) = registry.fault() {
        text.push_str(&format!("error: {fault}\n"));
    }
    text.push_str("Handlers:");
    let batches = registry.batch_names().into_iter().map(|name| format!("{name} (batch)"));
    for name in registry.names().into_iter().chain(batches) {
        text.push_str("\n  ");
        text.push_str(&name);
    }
    text
}
