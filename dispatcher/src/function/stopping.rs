//! Timers, the loss of the node's lease, and the drain: finish what runs, hand back what has not started.

use weft_ledger::Owner;
use weft_schemas::Key;

use super::core::{Action, Core, Now, Phase, WorkerPhase};
use super::timer::{Timer, What};

impl Core {
    pub(super) fn on_timers(&mut self, now: Now) {
        while self.timers.peek().is_some_and(|timer| timer.at <= now.mono) {
            let Some(timer) = self.timers.pop() else { break };
            match timer.what {
                // Looked at after every input anyway.
                What::Ledger | What::Start | What::Pace | What::Batch => {}
                What::Parked(key) => {
                    if self.invocations.get(&key).is_some_and(|invocation| matches!(invocation.phase, Phase::Parked)) {
                        self.claim_again(&key);
                    }
                }
                What::Permits => self.look_at_permits(now),
                What::Overdue(worker, invocation) => self.overdue(worker, invocation, now),
                What::Mercy(worker) => self.kill_condemned(worker),
                What::Scale => self.scale_timer(),
                What::Outage => self.look_at_outage(now),
                What::Refused(key) => self.to_settle.push_back(key),
                What::RefusedBurials => self.to_bury.append(&mut self.refused_burials),
                What::Drain => self.drain_is_over(),
            }
        }
    }

    /// Without a lease nothing may run: what runs is cancelled before anybody else may take it over, and asks anew.
    pub(super) fn on_owner(&mut self, owner: Option<Owner>, now: Now) {
        let lost = self.owner.is_some() && owner != self.owner;
        self.owner = owner;
        if !lost {
            return;
        }
        for key in self.take_unplaced() {
            self.release(&key);
        }
        let mut running = 0usize;
        for invocation in self.invocations.values_mut() {
            if let Phase::Running(run) = &mut invocation.phase {
                run.superseded = true;
                running += 1;
                self.actions.push(Action::Cancel(run.worker, run.id));
            }
        }
        self.lose_permits(now);
        tracing::warn!(function = %self.function.name, running, "lease lost, runs cancelled");
    }

    pub(super) fn on_drain(&mut self, now: Now) {
        if self.draining {
            return;
        }
        self.draining = true;
        if self.is_ordered() {
            // Cancelled, the consumer would leave the lanes to another dispatcher before what runs here has ended.
            self.deliveries_ended = true;
            self.lanes.clear();
        } else {
            self.actions.push(Action::StopConsuming);
        }
        self.timers.push(Timer::new(now.mono + self.bounds.drain, What::Drain));
        self.hand_back_unclaimed();
        for key in self.take_unplaced() {
            self.release(&key);
        }
        self.send_idle_home();
    }

    /// What was never claimed goes back as it came. A claim under way is released when its verdict is there.
    pub(super) fn hand_back_unclaimed(&mut self) {
        self.to_claim.clear();
        let claiming = self.claiming;
        let keys: Vec<Key> = self
            .invocations
            .iter()
            .filter(|(_, invocation)| match invocation.phase {
                Phase::Parked => true,
                Phase::Claiming => !claiming,
                Phase::Ready { .. } | Phase::Running(_) | Phase::Settling { .. } => false,
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut deliveries = Vec::new();
        for key in keys {
            if let Some(invocation) = self.invocations.remove(&key) {
                deliveries.extend(invocation.deliveries.into_iter().map(|waiting| waiting.id));
                deliveries.extend(invocation.rivals.into_iter().map(|(delivery, _)| delivery));
            }
        }
        self.hand_back(deliveries);
    }

    fn send_idle_home(&mut self) {
        for (&id, worker) in &mut self.workers {
            if worker.running.is_empty() && worker.phase != WorkerPhase::Draining {
                worker.phase = WorkerPhase::Draining;
                self.actions.push(Action::DrainWorker(id));
            }
        }
    }

    /// What still runs is stopped; its attempt is not counted.
    fn drain_is_over(&mut self) {
        if !self.draining || self.workers.is_empty() {
            return;
        }
        tracing::warn!(function = %self.function.name, running = self.running(), "drain took too long, workers killed");
        for (&id, worker) in &mut self.workers {
            worker.killed = true;
            self.actions.push(Action::KillWorker(id));
        }
    }

    pub(super) fn check_stopped(&mut self) {
        if !self.draining {
            return;
        }
        if !self.claiming {
            self.hand_back_unclaimed();
        }
        self.send_idle_home();
        let permits = self.owner.is_some() && self.permits.as_ref().is_some_and(|permits| !permits.is_quiet());
        let asked = permits || self.burying || self.posting || self.settling || self.claiming;
        let quiet = self.invocations.is_empty()
            && self.to_bury.is_empty()
            && self.refused_burials.is_empty()
            && self.to_post.is_empty()
            && !asked;
        if quiet && self.workers.is_empty() && self.deliveries_ended {
            self.actions.push(Action::Stopped);
        }
    }
}
