//! The link: one worker process, what is said to it and by it, its output as log lines, and how it ended.
//!
//! There are two kinds, and those above do not know which one a worker has: the native one, frames over a socket
//! ([`socket`]), and AWS Lambda's Runtime API over HTTP ([`lambda`]).
//!
//! [`Worker::launch`] starts a process; everything that happens to it arrives as [`FromWorker`] on one channel. This
//! module deliberately knows nothing of pools, deadlines or retries: it delivers what a worker says, in order, and
//! then says, exactly once, how the worker ended.

pub(crate) mod confine;
mod current;
mod judge;
pub(crate) mod lambda;
mod output;
mod process;
mod program;
mod room;
mod socket;
mod spawn;
mod supervise;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_schemas::frame::{InvocationId, Invoke, Start, ToWorker};
use weft_schemas::manifest::Function;
use weft_schemas::{Event, Outcome};

pub use confine::{Confinement, Machine, Offer, Unfit};
pub use current::Seen;
pub use lambda::Lambda;
pub use program::{Program, ProgramError};

/// How long a drained worker has to finish and exit before it is sent SIGTERM.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);
/// How long a worker has between SIGTERM and SIGKILL.
pub const TERM_GRACE: Duration = Duration::from_secs(5);

/// Names a worker within one dispatcher; chosen by the caller. Nothing here relies on it being unique.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Ord, PartialOrd, Debug)]
pub struct WorkerId(pub u64);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    pub id: WorkerId,
    pub program: Arc<Program>,
    /// Sent as the first frame.
    pub start: Start,
    /// How long the program has, from the launch, to say that it is ready.
    pub init_timeout: Duration,
}

/// What a worker says, in the order in which it said it. [`FromWorker::Gone`] comes exactly once per launch, last.
#[derive(Debug)]
pub enum FromWorker {
    /// It takes invocations from now on. At most once.
    Ready {
        registered: Registered,
        /// From the launch until its word arrived.
        init: Duration,
    },
    /// What was seen of an attempt whose caller asked for it; just before its outcome.
    Seen { id: InvocationId, seen: Seen },
    /// What an attempt came to. The id is as the worker sent it: the receiver ignores one that it does not know.
    Outcome {
        id: InvocationId,
        outcome: Outcome,
        emits: Vec<Event>,
        /// As in [`weft_schemas::frame::ToDispatcher::Outcome`]. What a worker claims, not what was measured here.
        entered_us: Option<u64>,
    },
    /// Finished spans, as in [`weft_schemas::frame::ToDispatcher::Spans`].
    Spans(Bytes),
    /// The process and its descendants are gone (or never were), and so is its temporary folder. Every outcome that
    /// it had written was delivered before this.
    Gone(Ending),
}

/// The names that a program registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// Handlers of single events.
    pub handlers: Vec<String>,
    /// Handlers of several events in one call.
    pub batch_handlers: Vec<String>,
    /// Nothing is registered: the program runs whatever it was told to run, as a Lambda function does.
    pub any: bool,
}

impl Registered {
    /// What keeps a function from being run by this program, as a clause that fits after "the program"; `None`: nothing.
    pub fn misfit(&self, function: &Function) -> Option<String> {
        if self.any {
            return None;
        }
        let (name, batch) = (&function.handler, function.batch.is_some());
        let (wanted, other) =
            if batch { (&self.batch_handlers, &self.handlers) } else { (&self.handlers, &self.batch_handlers) };
        if wanted.contains(name) {
            return None;
        }
        Some(match (other.contains(name), batch) {
            (true, true) => format!(
                "registers the handler {name:?} for single events, and the function has batch: register it with \
                 batch_handler, or take batch out"
            ),
            (true, false) => format!(
                "registers the handler {name:?} for batches, and the function has no batch: write batch = {{ size = 100 }}, \
                 or register it with handler"
            ),
            (false, _) => format!("does not register the handler {name:?}; it registers: {self}"),
        })
    }
}

impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batches = self.batch_handlers.iter().map(|name| format!("{name} (batch)"));
        let names: Vec<String> = self.handlers.iter().cloned().chain(batches).collect();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Whether it had become ready before.
    pub ready: bool,
    pub how: How,
    /// The last 4 KiB of its standard error, for the report of what went wrong. The function's own words.
    pub stderr_tail: String,
}

/// Why a worker is gone. Where the link itself killed it, its reason stands here and not the signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal: a crash, a kill by the kernel, or a stop that was asked for here.
    Signalled(i32),
    /// It was killed for taking more than this, or ended when it was refused more.
    OutOfMemory { limit_bytes: u64 },
    /// It ended badly, having been refused a process or thread over this number.
    OutOfProcesses { limit: u32 },
    /// No process came to be.
    SpawnFailed(String),
    /// It was not ready in time, and was killed.
    InitTimedOut,
    /// It said that it cannot start.
    StartFailed(String),
    /// It sent what is no frame, or went on running without a link, and was killed.
    Protocol(String),
}

impl How {
    /// The type of the error of what it ran; stable, since it is stored.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::OutOfMemory { .. } => "OutOfMemory",
            Self::OutOfProcesses { .. } => "OutOfProcesses",
            Self::Exited(_)
            | Self::Signalled(_)
            | Self::SpawnFailed(_)
            | Self::InitTimedOut
            | Self::StartFailed(_)
            | Self::Protocol(_) => "Crashed",
        }
    }
}

impl fmt::Display for How {
    /// A clause that fits after "the worker".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "was ended by {name}"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::OutOfMemory { limit_bytes } => {
                write!(f, "ran out of memory, its limit is {}", weft_schemas::manifest::bytes::format(*limit_bytes))
            }
            Self::OutOfProcesses { limit } => write!(f, "ended after it had run into its limit of {limit} processes"),
            Self::SpawnFailed(why) => write!(f, "was not started: {why}"),
            Self::InitTimedOut => f.write_str("was not ready in time"),
            Self::StartFailed(why) => write!(f, "could not start: {why}"),
            Self::Protocol(why) => write!(f, "broke the link's protocol: {why}"),
        }
    }
}

impl fmt::Display for Ending {
    /// How, and the last line of its standard error if there is one: usually the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.how.fmt(f)?;
        match self.stderr_tail.lines().next_back().map(str::trim) {
            Some(line) if !line.is_empty() => write!(f, " (its last words: {line})"),
            _ => Ok(()),
        }
    }
}

/// The names of the signals that end workers in practice.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Starts the program once, to learn which handlers it registers, and lets it end. Takes at most `limit` and the
/// time to end. Cancel-safe: the worker is killed. Safe to repeat.
///
/// # Errors
/// How it ended instead of becoming ready.
pub async fn probe(program: Arc<Program>, start: Start, limit: Duration) -> Result<Registered, Ending> {
    let (events, mut heard) = mpsc::channel(8);
    let launch = Launch { id: WorkerId(0), program, start, init_timeout: limit };
    let worker = Worker::launch(launch, events);
    let mut registered = None;
    while let Some((_, said)) = heard.recv().await {
        match said {
            FromWorker::Ready { registered: names, .. } => {
                registered = Some(names);
                worker.drain();
            }
            // It is in the middle of nothing: there is nothing to report of these.
            FromWorker::Seen { .. } | FromWorker::Outcome { .. } | FromWorker::Spans(_) => {}
            FromWorker::Gone(ending) => return registered.ok_or(ending),
        }
    }
    let how = How::Protocol("the task that owns it has ended".into());
    Err(Ending { ready: false, how, stderr_tail: String::new() })
}

/// What a handle asks of the task that owns the process.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Drain { grace: Duration },
    Kill,
}

/// The handle of one worker. Its methods never block and never fail: what is said to a worker that is gone is lost,
/// and [`FromWorker::Gone`] tells. Dropping the handle kills the worker; `Gone` still follows.
#[derive(Debug)]
pub struct Worker {
    // Unbounded, and bounded all the same: an invocation is sent only into a free slot and cancelled at most once, so
    // no more than two frames per slot wait here, and one `Drain`.
    frames: mpsc::UnboundedSender<ToWorker>,
    // Written by this handle only: at most one `Drain` and a few kills.
    asks: mpsc::UnboundedSender<Ask>,
    // Written by the supervising task, read here. 0: no process.
    pid: Arc<AtomicU32>,
}

impl Worker {
    /// Starts a worker and returns at once. Whatever comes of it, also a failure to start, arrives at `events`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn launch(launch: Launch, events: mpsc::Sender<(WorkerId, FromWorker)>) -> Worker {
        #[expect(clippy::disallowed_methods, reason = "bounded by the worker's slots")]
        let (frames, frames_rx) = mpsc::unbounded_channel();
        #[expect(clippy::disallowed_methods, reason = "at most one drain and a few kills")]
        let (asks, asks_rx) = mpsc::unbounded_channel();
        let pid = Arc::new(AtomicU32::new(0));
        // Cannot fail: the receiving end is in this very function.
        let _ = frames.send(ToWorker::Start(launch.start.clone()));
        tokio::spawn(supervise::supervise(launch, frames_rx, asks_rx, Arc::clone(&pid), events));
        Worker { frames, asks, pid }
    }

    /// Hands over an attempt. The caller keeps the number of slots.
    pub fn invoke(&self, invoke: Invoke) {
        let _ = self.frames.send(ToWorker::Invoke(Box::new(invoke)));
    }

    /// Hands over the attempts of one call of a batch handler, which takes one slot.
    pub fn invoke_batch(&self, invokes: Vec<Invoke>) {
        let _ = self.frames.send(ToWorker::InvokeBatch { invokes });
    }

    /// Asks the worker to stop an attempt; its outcome still arrives unless the worker ignores the request.
    pub fn cancel(&self, id: InvocationId) {
        let _ = self.frames.send(ToWorker::Cancel { id });
    }

    /// Asks the worker to finish and exit; see [`Worker::drain_within`], with [`DRAIN_GRACE`].
    pub fn drain(&self) {
        self.drain_within(DRAIN_GRACE);
    }

    /// Asks the worker to finish what runs and to exit. One that has not after `grace` gets SIGTERM, and
    /// [`TERM_GRACE`] later SIGKILL, its whole process group with it. Asking again can only shorten the time.
    pub fn drain_within(&self, grace: Duration) {
        let _ = self.frames.send(ToWorker::Drain);
        let _ = self.asks.send(Ask::Drain { grace });
    }

    /// Kills the worker and its process group at once. Safe to repeat.
    pub fn kill(&self) {
        let _ = self.asks.send(Ask::Kill);
    }

    /// The process's id; `None` before it was started and after it was reaped. For people: it may be reused.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }
}
