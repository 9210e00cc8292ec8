//! Deadlines: an attempt that does not end by itself, and what becomes of the worker that it holds.
//!
//! A worker cancels its own attempts at their deadlines. One that has given no answer [`OVERDUE`] later does not obey: it
//! blocks its thread, or its whole process hangs. Then, in this order:
//!
//! 1. its attempt is settled as timed out, and with it those of the same batch. What it says later is not heard, and what it writes later carries a fence that
//!    is no longer good;
//! 2. its worker is *condemned*: it gets no new work and no longer counts as one of the pool, so that its replacement may
//!    start at once;
//! 3. its neighbours may finish, for [`MERCY`] at most, and not past their own deadlines;
//! 4. the worker is killed. What still ran in it is given back uncounted: nobody can tell whether it was slow itself, or
//!    was kept from running by the one that blocks.
//!
//! Where nothing may run beside it (a bound over all dispatchers, an order), there is no mercy: 4 comes before 3.
//!
//! A retry of the guilty attempt is due after the kill and not before, so that it does not run beside itself.

use std::time::{Duration, Instant};

use weft_ledger::Settlement;
use weft_schemas::frame::InvocationId;
use weft_schemas::{Key, Outcome};

use super::core::{Action, Core, Now, Phase, WorkerPhase};
use super::settling::age;
use super::timer::{Timer, What};
use crate::link::WorkerId;

/// How long after its deadline an attempt may take to end by itself: twice the grace that a worker gives a handler, and
/// time for the answer.
pub(super) const OVERDUE: Duration = Duration::from_millis(1_000);
/// How long the neighbours of an attempt that ignores its deadline have to finish before their worker is killed.
pub(super) const MERCY: Duration = Duration::from_secs(10);
/// Between the kill of a worker and the moment when nothing of it runs any more, generously.
const DYING: Duration = Duration::from_millis(500);

impl Core {
    /// An attempt should have ended by itself. If it has not, its worker does not obey.
    pub(super) fn overdue(&mut self, id: WorkerId, invocation: InvocationId, now: Now) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.condemned || worker.killed {
            return;
        }
        // The deadline of one is that of the whole call.
        let call: Vec<(InvocationId, Key)> = worker
            .call_of(invocation)
            .into_iter()
            .filter_map(|id| Some((id, worker.running.get(&id)?.clone())))
            .collect();
        if call.is_empty() {
            return;
        }
        worker.condemned = true;
        worker.phase = WorkerPhase::Draining;
        // Given back because its right is lost, it could run again at once, beside itself: it waits for the kill.
        let guilty =
            call.into_iter().filter(|(_, key)| self.running_of(key).is_some_and(|running| !running.superseded));
        let guilty: Vec<(InvocationId, Key)> = guilty.collect();
        if let Some(worker) = self.workers.get(&id) {
            self.bill_unanswered(worker, guilty.iter().map(|(invocation, _)| *invocation), now);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            for (invocation, _) in &guilty {
                worker.ended(*invocation);
            }
        }
        let neighbours = self.workers.get(&id).map_or(0, |worker| worker.running.len());
        tracing::warn!(
            function = %self.function.name, worker = id.0, neighbours, "worker ignores the deadline, replaced"
        );
        let mercy = if self.is_strict() { Duration::ZERO } else { MERCY };
        let kill_at = self.last_deadline(id).map_or(now.mono, |last| last.min(now.mono + mercy));
        if kill_at > now.mono {
            self.timers.push(Timer::new(kill_at, What::Mercy(id)));
        } else {
            self.kill_condemned(id);
        }
        let rest = kill_at.saturating_duration_since(now.mono);
        for (_, key) in guilty {
            self.on_outcome(&key, Outcome::TimedOut, Vec::new(), false, now);
            if !rest.is_zero() {
                self.retry_after(&key, rest + DYING, now);
            }
        }
    }

    /// A neighbour of a condemned worker has ended: kills the worker when nobody is left to wait for.
    pub(super) fn look_at_condemned(&mut self, id: WorkerId, now: Now) {
        if self.workers.get(&id).is_some_and(|worker| worker.condemned)
            && self.last_deadline(id).is_none_or(|last| last <= now.mono)
        {
            self.kill_condemned(id);
        }
    }

    /// Kills a condemned worker; once.
    pub(super) fn kill_condemned(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.condemned
            && !worker.killed
        {
            worker.killed = true;
            self.actions.push(Action::KillWorker(id));
        }
    }

    /// When the last of what runs in a worker should have ended by itself; `None` when nothing runs.
    fn last_deadline(&self, id: WorkerId) -> Option<Instant> {
        let worker = self.workers.get(&id)?;
        worker.running.values().filter_map(|key| self.running_of(key)).map(|running| running.overdue_at).max()
    }

    fn running_of(&self, key: &Key) -> Option<&super::core::Running> {
        match &self.invocations.get(key)?.phase {
            Phase::Running(running) => Some(running),
            Phase::Claiming | Phase::Parked | Phase::Ready { .. } | Phase::Settling { .. } => None,
        }
    }

    /// Puts the retry that is being settled off, unless the event would be too old by then.
    fn retry_after(&mut self, key: &Key, wait: Duration, now: Now) {
        let max_age = self.function.retry.max_age;
        if let Some(invocation) = self.invocations.get_mut(key)
            && let Phase::Settling { claim, settle, .. } = &mut invocation.phase
            && let Settlement::Waiting { retry, .. } = &mut settle.to
            && age(claim, now).saturating_add(wait) <= max_age
        {
            retry.due_in = retry.due_in.max(wait);
        }
    }
}
