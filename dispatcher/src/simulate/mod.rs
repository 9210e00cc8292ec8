//! Replays a trace in virtual time through the decisions that the dispatcher itself takes: [`crate::scale::decide`] and
//! [`crate::scale::adaptive`]. Pure but for reading the trace's files: no clock, and the same seed gives the same figures.
//!
//! It does not run handlers, and it knows no broker and no ledger: an attempt lasts as long as the trace says, always
//! succeeds, and a claim takes no time. Method, assumptions and limits stand in `docs/simulate.md`.

mod arrivals;
pub mod chart;
mod engine;
mod figures;
mod policy;
pub mod price;
#[cfg(test)]
mod tests;
mod trace;

use std::num::NonZeroU32;
use std::time::Duration;

pub use arrivals::{Arrival, Arrivals, Stream};
pub use figures::{FunctionFigures, PolicyFigures, Report, TraceFigures};
pub use policy::{Policy, PolicyFault};
pub use trace::{Durations, Fault, Trace, TraceFunction};

/// What the simulation assumes beside the trace and the policy.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Concurrent invocations in one worker. Default 1.
    pub slots: NonZeroU32,
    /// From a worker's launch until it takes work. Default 100 ms.
    pub cold_start: Duration,
    /// Workers of one function that start at once, at most. Default 2.
    pub starts: NonZeroU32,
    /// Workers of one function at most; `None`: as many as are needed, which is the default.
    pub reserved: Option<NonZeroU32>,
    /// Workers of all functions at most; `None`: as many as are needed, which is the default.
    pub node_workers: Option<NonZeroU32>,
    /// The keep-alive of what a policy does not set: of workers beyond the provisioned ones, and where `adaptive` does not
    /// know the pattern. Default 10 min.
    pub keep_alive: Duration,
    /// Where in its minute an event arrives. Default [`Arrivals::Even`].
    pub arrivals: Arrivals,
    /// The same seed gives the same arrivals and durations, for every policy. Default 1.
    pub seed: u64,
    /// Minutes of the trace that are left out at its start. Default 0.
    pub from: usize,
    /// Minutes that are replayed at most; `None`: all that are left, which is the default.
    pub minutes: Option<usize>,
    pub prices: price::Prices,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            slots: NonZeroU32::MIN,
            cold_start: Duration::from_millis(100),
            starts: NonZeroU32::MIN.saturating_add(1),
            reserved: None,
            node_workers: None,
            keep_alive: Duration::from_secs(600),
            arrivals: Arrivals::Even,
            seed: 1,
            from: 0,
            minutes: None,
            prices: price::Prices::default(),
        }
    }
}

impl Setup {
    /// The replayed minutes of a trace: from, and up to but not with.
    fn range(&self, trace: &Trace) -> (usize, usize) {
        let from = self.from.min(trace.minutes);
        let end = self.minutes.map_or(trace.minutes, |minutes| from.saturating_add(minutes).min(trace.minutes));
        (from, end)
    }
}

/// Replays the trace once for each policy, each in a thread of its own. All of them see the same arrivals and durations.
/// `done` is called after each.
///
/// # Panics
/// Only if the replay itself does.
pub fn simulate(trace: &Trace, setup: &Setup, policies: &[Policy], done: &(dyn Fn() + Sync)) -> Report {
    let runs = std::thread::scope(|scope| {
        let replay = |policy: &Policy| {
            let run = engine::run(trace, setup, policy);
            done();
            run
        };
        let threads: Vec<_> = policies.iter().map(|policy| (policy, scope.spawn(move || replay(policy)))).collect();
        let joined = threads.into_iter().map(|(policy, thread)| match thread.join() {
            Ok(run) => (policy, run),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Vec<_>>()
    });
    figures::report(trace, setup, &runs)
}
