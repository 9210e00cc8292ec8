//! From a claim to a worker: slots, what workers answer, and what their end means.

use std::sync::Arc;
use std::time::Duration;

use weft_ledger::Claim;
use weft_schemas::frame::{InvocationId, Invoke};
use weft_schemas::{ErrorInfo, Key, Outcome};

use super::core::{Action, Core, Now, Phase, Running, Sampled, Took, WorkerPhase, WorkerState};
use super::deadline::OVERDUE;
use super::timer::{Timer, What};
use crate::link::{Ending, FromWorker, Registered, WorkerId};
use crate::spans;

/// Wait after the first failed start; doubles up to [`START_WAIT_MOST`].
const START_WAIT: Duration = Duration::from_millis(200);
const START_WAIT_MOST: Duration = Duration::from_secs(30);
/// Failed starts in a row that make a function unhealthy.
const UNHEALTHY_AFTER: u32 = 3;

impl Core {
    /// Gives slots to what is ready, in the order in which it became so: what must be alone does not wait for ever
    /// behind what may share, nor the other way round.
    pub(super) fn place(&mut self, now: Now) {
        while self.may_start(now) && self.place_next(now) {}
        self.wait_for_caps(now);
    }

    fn place_next(&mut self, now: Now) -> bool {
        if !self.may_run_more() {
            return false;
        }
        let alone_first = match (self.ready_alone.front(), self.ready.front()) {
            (Some(alone), Some(shared)) => self.turn(alone) < self.turn(shared),
            (alone, _) => alone.is_some(),
        };
        if alone_first {
            let idle = self.workers.iter().find(|(_, worker)| worker.is_up() && worker.running.is_empty());
            if let Some((&worker, _)) = idle {
                let Some(key) = self.ready_alone.pop_front() else { return false };
                self.start_call(&[key], worker, true, now);
                return true;
            }
        }
        let left_to_empty = if alone_first { self.emptiest() } else { None };
        let Some(worker) = self.fullest_with_room(left_to_empty) else { return false };
        if self.gathers(now) {
            return false;
        }
        let keys = self.next_call(now);
        self.start_call(&keys, worker, false, now);
        !keys.is_empty()
    }

    fn turn(&self, key: &Key) -> Option<u64> {
        match self.invocations.get(key)?.phase {
            Phase::Ready { turn, .. } => Some(turn),
            Phase::Claiming | Phase::Parked | Phase::Running(_) | Phase::Settling { .. } => None,
        }
    }

    /// The worker that gets no more work, so that what must be alone finds it idle; `None` while another one starts.
    fn emptiest(&self) -> Option<WorkerId> {
        if self.workers.values().any(|worker| worker.phase == WorkerPhase::Starting) {
            return None;
        }
        let up = self.workers.iter().filter(|(_, worker)| worker.is_up() && !worker.alone);
        up.min_by_key(|(_, worker)| worker.used()).map(|(&id, _)| id)
    }

    /// Packing workers lets the others fall idle and leave.
    fn fullest_with_room(&self, but: Option<WorkerId>) -> Option<WorkerId> {
        let slots = self.function.slots as usize;
        self.workers
            .iter()
            .filter(|(id, worker)| worker.is_up() && !worker.alone && worker.used() < slots && Some(**id) != but)
            .max_by_key(|(_, worker)| worker.used())
            .map(|(&id, _)| id)
    }

    /// Starts the attempts of one call: one, or those of a batch.
    fn start_call(&mut self, keys: &[Key], worker: WorkerId, alone: bool, now: Now) {
        let invokes: Vec<Invoke> = keys.iter().filter_map(|key| self.start_attempt(key, worker, alone, now)).collect();
        if self.function.batch.is_none() {
            self.actions.extend(invokes.into_iter().map(|invoke| Action::Invoke(worker, Box::new(invoke))));
            return;
        }
        if let Some(state) = self.workers.get_mut(&worker)
            && !invokes.is_empty()
        {
            state.calls.push(invokes.iter().map(|invoke| invoke.id).collect());
            self.actions.push(Action::InvokeBatch(worker, invokes));
        }
    }

    fn start_attempt(&mut self, key: &Key, worker: WorkerId, alone: bool, now: Now) -> Option<Invoke> {
        let invocation = self.invocations.get_mut(key)?;
        let Phase::Ready { claim, waited, .. } = invocation.phase else { return None };
        let state = self.workers.get_mut(&worker)?;
        let cold = waited && state.fresh;
        let sample = match (cold, waited) {
            (true, _) => Some(Sampled::Cold),
            (false, false) => Some(Sampled::Warm),
            (false, true) => None,
        };
        let id = InvocationId(self.next_invocation);
        self.next_invocation += 1;
        state.running.insert(id, key.clone());
        state.alone = alone;
        invocation.took = Took { init: state.init.filter(|_| cold), ..Took::default() };
        invocation.step = spans::invoke(&invocation.span, &self.function.name, key.as_str(), &claim, cold, worker);
        let invoke = Invoke {
            id,
            handler: self.function.handler.clone(),
            key: key.clone(),
            fence: claim.fence,
            epoch: claim.epoch,
            attempt: claim.attempt,
            remaining_ms: millis(self.function.timeout),
            keep_ms: millis(self.function.idempotency.keep),
            event: invocation.admitted.event.clone(),
            trace: spans::context(&invocation.step),
        };
        let overdue_at = now.mono + self.function.timeout + OVERDUE;
        let running = Running { claim, id, worker, sample, superseded: false, began: now.mono, overdue_at };
        invocation.phase = Phase::Running(Box::new(running));
        self.timers.push(Timer::new(overdue_at, What::Overdue(worker, id)));
        self.count_start(now);
        self.stats.add(&self.stats.attempts);
        if cold {
            self.stats.add(&self.stats.cold_starts);
        }
        Some(invoke)
    }

    pub(super) fn on_worker(&mut self, id: WorkerId, from: FromWorker, now: Now) {
        match from {
            FromWorker::Ready { registered, init } => self.on_ready(id, &registered, init, now),
            FromWorker::Outcome { id: invocation, outcome, emits, entered_us } => {
                let Some(worker) = self.workers.get_mut(&id) else { return };
                let last_of_call = worker.call_of(invocation).len() <= 1;
                let Some(key) = worker.ended(invocation) else { return };
                worker.fresh = false;
                if worker.running.is_empty() {
                    self.fell_idle(id, now);
                }
                self.look_at_condemned(id, now);
                self.sample(&key, entered_us, last_of_call, now);
                self.on_outcome(&key, outcome, emits, false, now);
            }
            FromWorker::Seen { id: invocation, seen } => {
                let key = self.workers.get(&id).and_then(|worker| worker.running.get(&invocation));
                if let Some(invocation) = key.and_then(|key| self.invocations.get_mut(key)) {
                    invocation.took.seen = Some(Arc::new(seen));
                }
            }
            FromWorker::Spans(spans) => self.actions.push(Action::ForwardSpans(spans)),
            FromWorker::Gone(ending) => self.on_gone(id, &ending, now),
        }
    }

    /// Takes the time from the receive of an event to its handler's entry, and from there to its answer.
    /// `last_of_call`: its handler is not busy with others of the same call any more.
    fn sample(&mut self, key: &Key, entered_us: Option<u64>, last_of_call: bool, now: Now) {
        if let Some(entered_us) = entered_us {
            let ran = Duration::from_micros(now.shared_us.saturating_sub(entered_us));
            self.stats.ran(ran);
            if last_of_call {
                self.stats.busy(ran);
            }
            self.scaling.memory.served(ran);
            if let Some(invocation) = self.invocations.get_mut(key) {
                invocation.took.ran = Some(ran);
            }
        }
        if let (Some(invocation), Some(entered_us)) = (self.invocations.get(key), entered_us)
            && let Phase::Running(running) = &invocation.phase
            && let Some(sampled) = running.sample
        {
            let took = Duration::from_micros(entered_us.saturating_sub(invocation.received_us));
            self.stats.sample(sampled == Sampled::Cold, took);
        }
    }

    fn on_ready(&mut self, id: WorkerId, registered: &Registered, init: Duration, now: Now) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Some(misfit) = registered.misfit(&self.function) {
            let reason = format!("the program {misfit}");
            worker.killed = true;
            worker.phase = WorkerPhase::Draining;
            self.start_failed(reason, now);
            self.actions.push(Action::KillWorker(id));
            return;
        }
        if worker.phase == WorkerPhase::Starting {
            worker.phase = WorkerPhase::Up;
        }
        worker.init = Some(init);
        self.stats.ready(init);
        self.scaling.memory.started(init);
        tracing::debug!(function = %self.function.name, worker = id.0, init_us = millis(init * 1000), "worker ready");
        if self.failed_starts > 0 {
            self.failed_starts = 0;
            self.start_again = None;
            self.stats.failed_starts.store(0, std::sync::atomic::Ordering::Relaxed);
            self.stats.unhealthy(None);
            tracing::info!(function = %self.function.name, "function is healthy again");
        }
        self.fell_idle(id, now);
    }

    fn on_gone(&mut self, id: WorkerId, ending: &Ending, now: Now) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.actions.push(Action::WorkerGone(id));
        if !ending.ready && worker.phase == WorkerPhase::Starting && !self.draining {
            self.start_failed(ending.to_string(), now);
        }
        let crashed = Outcome::Crashed { error: ErrorInfo::new(ending.how.kind(), ending.to_string()) };
        if !worker.running.is_empty() && !worker.killed {
            tracing::warn!(
                function = %self.function.name, worker = id.0, ending = %ending, running = worker.running.len(),
                "worker went away with work"
            );
        }
        self.bill_unanswered(&worker, worker.running.keys().copied(), now);
        // One that ignores its deadline still ran there.
        let shared = worker.running.len() + usize::from(worker.condemned) > 1;
        for key in worker.running.into_values() {
            // We killed it for another's sake or for a stop of ours.
            let outcome = if worker.killed { Outcome::Drained } else { crashed.clone() };
            self.ran_until(&key, now);
            self.on_outcome(&key, outcome, Vec::new(), shared, now);
        }
    }

    /// An attempt that its worker's end has ended, for who waits for it.
    fn ran_until(&mut self, key: &Key, now: Now) {
        if let Some(invocation) = self.invocations.get_mut(key)
            && let Phase::Running(running) = &invocation.phase
        {
            invocation.took.ran = Some(now.mono.saturating_duration_since(running.began));
        }
    }

    /// Attempts that end without an answer: when their handlers were entered nobody says, so they were busy from when
    /// they were handed over. Those of one call are one.
    pub(super) fn bill_unanswered(
        &self,
        worker: &WorkerState,
        ended: impl IntoIterator<Item = InvocationId>,
        now: Now,
    ) {
        for id in ended {
            let is_first = worker.call_of(id).first() == Some(&id);
            let key = worker.running.get(&id).filter(|_| is_first);
            if let Some(Phase::Running(running)) = key.and_then(|key| Some(&self.invocations.get(key)?.phase)) {
                self.stats.busy(now.mono.saturating_duration_since(running.began));
            }
        }
    }

    fn start_failed(&mut self, reason: String, now: Now) {
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.stats.failed_starts.store(self.failed_starts, std::sync::atomic::Ordering::Relaxed);
        let doublings = self.failed_starts.saturating_sub(1).min(10);
        let wait = (START_WAIT * (1 << doublings)).min(START_WAIT_MOST).mul_f64(0.8 + 0.4 * self.random.f64());
        let again = now.mono + wait;
        self.start_again = Some(again);
        self.timers.push(Timer::new(again, What::Start));
        if self.failed_starts == UNHEALTHY_AFTER {
            tracing::error!(
                function = %self.function.name, reason,
                "function is unhealthy: its workers do not start, its events wait"
            );
        } else {
            tracing::warn!(function = %self.function.name, reason, wait_ms = millis(wait), "worker did not start");
        }
        self.stats.unhealthy(Some(reason));
    }

    /// The claim of what is ready is given back, uncounted.
    pub(super) fn take_unplaced(&mut self) -> Vec<Key> {
        self.ready.drain(..).chain(self.ready_alone.drain(..)).collect()
    }

    pub(super) fn claim_of(&self, key: &Key) -> Option<Claim> {
        match self.invocations.get(key)?.phase {
            Phase::Ready { claim, .. } | Phase::Settling { claim, .. } => Some(claim),
            Phase::Running(ref running) => Some(running.claim),
            Phase::Claiming | Phase::Parked => None,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
