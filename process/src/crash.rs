//! Named crash points: places before and after each durable step where a test may end or pause the process.
//!
//! They exist only with the feature `crash-points`, which the test package turns on; in any other build [`point`] is an
//! empty function. The variable [`VARIABLE`] says what happens: `after-claim` kills the process at that point as
//! `kill -9` would, `after-claim=stop` pauses it as `kill -STOP` would, `after-claim:3` acts on the third passing and not
//! before. Several are separated by commas. Each entry acts once in a process; with `@FILE` behind it
//! (`after-claim@/tmp/done`) it acts once over all processes that share the file, which is made at that moment. So a
//! process that is started again passes.

/// Where a process may be ended. The text form is what [`VARIABLE`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// Dispatcher: the ledger has granted a claim; nothing has been placed.
    AfterClaim,
    /// Dispatcher: an outcome is here; its settle has not been sent.
    BeforeSettle,
    /// Dispatcher: the settle is durable; nothing is acked.
    AfterSettle,
    /// Dispatcher: a refused message is not yet a dead letter.
    BeforeBury,
    /// Dispatcher: the dead letter is durable; its message is not acked.
    AfterBury,
    /// Relay: due rows are taken; nothing has been published.
    BeforePublish,
    /// Relay: the broker has confirmed; the rows are still in the outbox.
    AfterPublish,
    /// Relay: the rows are deleted.
    AfterFinish,
    /// Dispatcher: the ack has been written out.
    AfterAck,
    /// Worker: the attempt is here; the handler has not been entered.
    BeforeHandler,
    /// Worker: the handler has returned; its answer has not been sent.
    AfterHandler,
    /// Worker: the handler's transaction is ready; `COMMIT` has not been sent.
    BeforeCommit,
    /// Worker: the handler's transaction is durable; the dispatcher has not been told.
    AfterCommit,
}

impl Point {
    pub const ALL: [Self; 13] = [
        Self::AfterClaim,
        Self::BeforeSettle,
        Self::AfterSettle,
        Self::BeforeBury,
        Self::AfterBury,
        Self::BeforePublish,
        Self::AfterPublish,
        Self::AfterFinish,
        Self::AfterAck,
        Self::BeforeHandler,
        Self::AfterHandler,
        Self::BeforeCommit,
        Self::AfterCommit,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AfterClaim => "after-claim",
            Self::BeforeSettle => "before-settle",
            Self::AfterSettle => "after-settle",
            Self::BeforeBury => "before-bury",
            Self::AfterBury => "after-bury",
            Self::BeforePublish => "before-publish",
            Self::AfterPublish => "after-publish",
            Self::AfterFinish => "after-finish",
            Self::AfterAck => "after-ack",
            Self::BeforeHandler => "before-handler",
            Self::AfterHandler => "after-handler",
            Self::BeforeCommit => "before-commit",
            Self::AfterCommit => "after-commit",
        }
    }
}

/// The variable that says where to end, in builds with crash points.
pub const VARIABLE: &str = "WEFT_CRASH_AT";

/// Ends or pauses the process here, if a test has asked for it.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub const fn point(_: Point) {}

#[cfg(feature = "crash-points")]
pub use armed::point;

#[cfg(feature = "crash-points")]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::{Point, VARIABLE};

    struct Trap {
        point: String,
        passings: AtomicU64,
        on: u64,
        signal: Signal,
        once: Option<PathBuf>,
    }

    static TRAPS: LazyLock<Vec<Trap>> =
        LazyLock::new(|| std::env::var(VARIABLE).unwrap_or_default().split(',').filter_map(Trap::parse).collect());

    impl Trap {
        /// `point[=stop][:n][@file]`
        fn parse(text: &str) -> Option<Self> {
            let (text, once) = text.split_once('@').map_or((text, None), |(text, file)| (text, Some(file.into())));
            let (text, on) = text.split_once(':').map_or((text, 1), |(text, on)| (text, on.parse().unwrap_or(1)));
            let (point, what) = text.split_once('=').unwrap_or((text, "kill"));
            let signal = if what == "stop" { Signal::STOP } else { Signal::KILL };
            let known = Point::ALL.iter().any(|known| known.as_str() == point);
            known.then(|| Self { point: point.to_owned(), passings: AtomicU64::new(0), on, signal, once })
        }

        #[allow(clippy::disallowed_methods, reason = "the whole process is to stand still here")]
        fn passed(&self) {
            let passings = self.passings.fetch_add(1, Ordering::Relaxed) + 1;
            let first_here = passings == self.on || (passings > self.on && self.once.is_some());
            if !first_here {
                return;
            }
            if let Some(file) = &self.once
                && std::fs::File::options().write(true).create_new(true).open(file).is_err()
            {
                return;
            }
            let _ = kill_process(getpid(), self.signal);
            if self.signal == Signal::STOP {
                // Another thread may be the one that takes the signal: this one must not run on until it has.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Ends or pauses the process here, if a test has asked for it.
    pub fn point(here: Point) {
        TRAPS.iter().filter(|trap| trap.point == here.as_str()).for_each(Trap::passed);
    }
}
