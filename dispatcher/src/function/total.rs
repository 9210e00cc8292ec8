//! `concurrency.total`: a bound over all dispatchers, held by permits in the ledger.
//!
//! This dispatcher runs no more calls than it holds permits for. It asks when it waits for more than it has; while it has
//! any it tells once a second what it could use, and learns what is fair. It is never robbed: told that its part is
//! smaller than what it holds, it starts nothing until it runs less, and gives the rest back then. While an answer is
//! under way it starts nothing that it did not say it would, so that what the ledger counts is never less than what runs.
//!
//! Without an answer nothing more starts than was kept. A lost lease takes all permits: what runs is cancelled, and a worker
//! that does not obey is killed at once, because others may have them two seconds after the lease is over.

use std::time::{Duration, Instant};

use weft_ledger::{Owner, PermitAsk, Permits};

use super::core::{Action, Core, Now, Phase};
use super::deadline::OVERDUE;
use super::timer::{Timer, What};

/// How often a dispatcher that has permits tells what it could use.
const SYNC: Duration = Duration::from_secs(1);
/// How often one that waits for more asks again.
const WAITING: Duration = Duration::from_millis(250);

/// A function's permits in its loop.
#[derive(Debug)]
pub(super) struct Held {
    total: u32,
    /// What the ledger counts as ours, at least what `may` is.
    held: u32,
    /// How many calls may run.
    may: u32,
    /// What the ledger was told last that we could use.
    told: u32,
    /// The most that we could have used since then.
    peak: u32,
    asking: bool,
    /// The timer that is set for the next word.
    timer: Option<Instant>,
    /// It is time for it.
    due: bool,
}

impl Held {
    pub(super) fn of(total: Option<u32>) -> Option<Self> {
        let fresh = |total| Self { total, held: 0, may: 0, told: 0, peak: 0, asking: false, timer: None, due: false };
        total.map(fresh)
    }

    /// Whether nothing is held and nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.held == 0 && !self.asking
    }
}

impl Core {
    /// Calls that run, those included that were given up and may not have ended.
    fn occupied(&self) -> u32 {
        let condemned = self.workers.values().filter(|worker| worker.condemned).count();
        u32::try_from(self.used() + condemned).unwrap_or(u32::MAX)
    }

    /// How many more calls the permits let start.
    pub(super) fn permitted(&self) -> u32 {
        self.permits.as_ref().map_or(u32::MAX, |permits| permits.may.saturating_sub(self.occupied()))
    }

    /// What could run here if there were permits enough.
    fn wanted(&self) -> u32 {
        if self.draining {
            return self.occupied();
        }
        let waiting = self.ready.len() + self.ready_alone.len() + self.to_claim.len() + self.claims_under_way();
        self.occupied().saturating_add(self.calls(u32::try_from(waiting).unwrap_or(u32::MAX)))
    }

    fn claims_under_way(&self) -> usize {
        if !self.claiming {
            return 0;
        }
        let claiming = self.invocations.values().filter(|invocation| matches!(invocation.phase, Phase::Claiming));
        claiming.count().saturating_sub(self.to_claim.len())
    }

    /// Asks for permits, or gives some back, when there is reason to.
    pub(super) fn ask_permits(&mut self, now: Now) {
        if self.permits.is_none() {
            return;
        }
        let (occupied, wanted) = (self.occupied(), self.wanted());
        let Some(permits) = &mut self.permits else { return };
        let wanted = wanted.min(permits.total);
        permits.peak = permits.peak.max(wanted);
        let Some(owner) = self.owner.clone() else { return };
        if permits.asking {
            return;
        }
        let short = permits.peak > permits.may && permits.peak > permits.told;
        let owes = permits.held > permits.may && occupied < permits.held;
        let done = self.draining && occupied < permits.held;
        let due = permits.due && (permits.held > 0 || permits.peak > 0);
        if !(short || owes || done || due) {
            return;
        }
        let could = if self.draining { wanted } else { permits.peak };
        permits.may = permits.may.min(could);
        let ask = PermitAsk { total: permits.total, keep: occupied.max(permits.may), wanted: could };
        (permits.told, permits.peak, permits.asking, permits.due) = (could, wanted, true, false);
        permits.held = permits.held.max(ask.keep);
        let wait = if could > permits.may { WAITING } else { SYNC };
        if permits.timer.is_none_or(|at| at <= now.mono || at > now.mono + wait) {
            permits.timer = Some(now.mono + wait);
            self.timers.push(Timer::new(now.mono + wait, What::Permits));
        }
        self.actions.push(Action::Permits { owner, ask });
    }

    pub(super) fn on_permits(&mut self, owner: &Owner, result: Result<Permits, weft_ledger::Error>) {
        let current = self.owner.as_ref() == Some(owner);
        let Some(permits) = &mut self.permits else { return };
        permits.asking = false;
        if !current {
            // What an owner got that we are no longer, we do not have.
            permits.told = 0;
            return;
        }
        match result {
            Ok(Permits { held, share }) => {
                permits.held = held;
                permits.may = held.min(share);
            }
            // Held until told otherwise; nothing more starts than was kept.
            Err(error) => {
                tracing::debug!(
                    function = %self.function.name, error = weft_process::report::chain(&error), "permits not answered"
                );
                if self.draining {
                    // The end of the lease gives them back.
                    permits.held = 0;
                }
            }
        }
    }

    /// A timer's look.
    pub(super) fn look_at_permits(&mut self, now: Now) {
        let Some(permits) = &mut self.permits else { return };
        if permits.timer.is_some_and(|at| at <= now.mono) {
            permits.timer = None;
            permits.due = true;
        }
        if permits.timer.is_none() && (permits.held > 0 || permits.peak > 0) {
            permits.timer = Some(now.mono + SYNC);
            self.timers.push(Timer::new(now.mono + SYNC, What::Permits));
        }
    }

    /// The lease is lost, and the permits with it. What was cancelled has to be gone before others may have them.
    pub(super) fn lose_permits(&mut self, now: Now) {
        let Some(permits) = &mut self.permits else { return };
        (permits.held, permits.may, permits.told) = (0, 0, 0);
        let running = self.invocations.values().filter_map(|invocation| match &invocation.phase {
            Phase::Running(running) => Some(What::Overdue(running.worker, running.id)),
            Phase::Claiming | Phase::Parked | Phase::Ready { .. } | Phase::Settling { .. } => None,
        });
        let overdue: Vec<Timer> = running.map(|what| Timer::new(now.mono + OVERDUE, what)).collect();
        self.timers.extend(overdue);
    }

    /// Whether what does not obey must go at once, and its neighbours with it: it may not run beside what comes next.
    pub(super) fn is_strict(&self) -> bool {
        self.permits.is_some() || self.is_ordered()
    }
}
