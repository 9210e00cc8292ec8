//! Attempts that could not use the ledger or the state: they do not count, wait in here, and are told once.
//!
//! Their deliveries stay unacked, so while the service is away the prefetch bounds what is taken from the broker.

use std::time::{Duration, Instant};

use weft_schemas::{Key, Outcome};

use super::core::{Core, Now, Phase};
use super::timer::{Timer, What};

/// How long no attempt must have run into it until an outage counts as over: one that comes and goes is told once.
const QUIET: Duration = Duration::from_secs(5);

/// An outage that attempts of this function have run into.
pub(super) struct Outage {
    /// When the last attempt did.
    last: Instant,
    /// How many did.
    attempts: u64,
    /// One of those has got past it since.
    passed: bool,
}

impl Core {
    /// Keeps account of outages by what attempts come to.
    pub(super) fn note_outage(&mut self, key: &Key, outcome: &Outcome, now: Now) {
        let Some(invocation) = self.invocations.get_mut(key) else { return };
        let error = match outcome {
            Outcome::Outage { error, .. } => error,
            Outcome::Succeeded { .. } | Outcome::Committed { .. } | Outcome::Retry { .. } | Outcome::Failed { .. } => {
                if std::mem::take(&mut invocation.outages) > 0
                    && let Some(outage) = &mut self.outage
                {
                    outage.passed = true;
                }
                return;
            }
            // They do not say how far the handler came.
            Outcome::TimedOut | Outcome::Crashed { .. } | Outcome::Superseded | Outcome::Drained => return,
        };
        invocation.outages = invocation.outages.saturating_add(1);
        if let Some(outage) = &mut self.outage {
            outage.last = now.mono;
            outage.attempts += 1;
            outage.passed = false;
            return;
        }
        tracing::warn!(
            function = %self.function.name, kind = error.kind, error = error.message,
            "attempts cannot use a service, their events wait and no attempt is counted"
        );
        self.stats.outage(Some(error.message.clone()));
        self.outage = Some(Outage { last: now.mono, attempts: 1, passed: false });
        self.timers.push(Timer::new(now.mono + QUIET, What::Outage));
    }

    /// A timer's look at whether it is over.
    pub(super) fn look_at_outage(&mut self, now: Now) {
        let Some(outage) = &self.outage else { return };
        let quiet = now.mono.saturating_duration_since(outage.last) >= QUIET;
        let over = outage.passed || self.invocations.values().all(|invocation| invocation.outages == 0);
        if quiet && over {
            tracing::info!(function = %self.function.name, attempts = outage.attempts, "attempts can use the service again");
            self.stats.outage(None);
            self.outage = None;
        } else {
            self.timers.push(Timer::new(now.mono + QUIET / 5, What::Outage));
        }
    }

    /// Leaves a released invocation alone for a while; in a drain the broker keeps it for whoever comes next.
    pub(super) fn wait_out(&mut self, key: &Key, after: Duration, now: Now) {
        if self.draining {
            self.ask_again(key, now);
            return;
        }
        if let Some(invocation) = self.invocations.get_mut(key) {
            invocation.phase = Phase::Parked;
            self.timers.push(Timer::new(now.mono + after, What::Parked(key.clone())));
        }
    }
}
