//! How many workers: what the loop sees goes into the pure decision, and what it says is started, stopped or asked of
//! the node. The rules are in [`crate::scale`]; here are the signals, the timers and the words for people.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use weft_schemas::manifest::{Function, KeepAlive};

use super::backlog::Backlog;
use super::core::{Action, Core, Now, Phase, WorkerPhase, WorkerState};
use super::timer::{Timer, What};
use crate::link::WorkerId;
use crate::scale::adaptive::{Adaptive, Pattern};
use crate::scale::{self, Decision, Memory, Policy, Provisioned, Schedule, Signals, Wish, budget, schedule};
use crate::spans;
use crate::status::{Scaled, Throttle};

/// How long what is provisioned is taken for known: the wall clock may be set.
const RESCHEDULE: Duration = Duration::from_secs(60);
/// How often the numbers for people are brought up to date while nothing is decided anew.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What the scaling of one function remembers.
pub(super) struct Scaling {
    pub memory: Memory,
    /// `None`: idle workers are kept for a fixed time.
    adaptive: Option<Adaptive>,
    /// What the times of `adaptive` are counted from.
    began: Option<Instant>,
    pattern: Option<Pattern>,
    schedule: Schedule,
    /// What was provisioned when it was looked up, and when that was.
    provisioned: Option<(Provisioned, Timestamp)>,
    last: Option<Decision>,
    told: Option<Instant>,
    pub backlog: Backlog,
    /// What was last asked of the node, how many workers it lets us have, and whether it has yet to answer.
    wished: Option<Wish>,
    granted: u32,
    wishing: bool,
    /// Workers that were on their way out when that was.
    leaving: u32,
    /// The earliest look that a timer is set for.
    armed: Option<Instant>,
}

impl Scaling {
    pub(super) fn new(function: &Function) -> Self {
        Self {
            memory: Memory::default(),
            adaptive: matches!(function.keep_alive, KeepAlive::Adaptive).then(|| Adaptive::new(Adaptive::STANDARD)),
            began: None,
            pattern: None,
            schedule: Schedule::new(&function.concurrency),
            provisioned: None,
            last: None,
            told: None,
            backlog: Backlog::default(),
            wished: None,
            granted: 0,
            wishing: false,
            leaving: 0,
            armed: None,
        }
    }
}

impl Core {
    /// Starts what is missing and sends home what is kept long enough.
    pub(super) fn scale(&mut self, now: Now) {
        let look = self.look_behind(now);
        let (signals, over) = self.signals(now);
        let (least, rescheduled) = self.provisioned(now);
        let least = self.within_reserved(least);
        let mut policy = self.policy(least);
        let foretold = self.expect(&signals, &mut policy, now);
        policy.expected = self.within_reserved(policy.expected);
        let mut decision = scale::decide(now.mono, &signals, &policy, &self.scaling.memory);
        let wanted = Wish { guaranteed: least, demand: decision.demand, spare: decision.spare, ..Wish::default() };
        if self.bounds.shared {
            self.note_leaving();
            policy.granted = Some(self.scaling.granted).filter(|granted| *granted < wanted.total());
            if policy.granted.is_some() {
                decision = scale::decide(now.mono, &signals, &policy, &self.scaling.memory);
            }
        }
        for _ in signals.workers..decision.workers {
            self.launch(now);
        }
        if decision.workers < signals.workers && !self.draining {
            let asked_back = signals.workers.saturating_sub(policy.granted.unwrap_or(u32::MAX).max(least));
            self.send_home(signals.workers - decision.workers, asked_back, now);
        }
        if self.bounds.shared {
            // Behind what was started and sent home, so that the node never counts too little.
            self.ask_node(wanted);
        }
        // Until the node has answered, nobody knows whether it is its budget that makes something wait.
        if !(self.scaling.wishing && policy.granted.is_some()) {
            self.mark_waiting(&signals, &policy, decision, now);
            self.tell_scale(now, &signals, decision);
        }
        if let Some(next) = [look, over, rescheduled, foretold].into_iter().flatten().min() {
            self.look_again(next);
        }
    }

    /// What there is to see, and when the next idle worker has been kept long enough.
    fn signals(&self, now: Now) -> (Signals, Option<Instant>) {
        let first = [self.ready.front(), self.ready_alone.front()];
        let oldest = first.into_iter().flatten().filter_map(|key| self.claim_of(key));
        let oldest = oldest.map(|claim| super::settling::age(&claim, now)).max();
        let waiting = self.startable(self.ready.len(), now);
        let waiting_alone = self.startable(self.ready_alone.len(), now);
        let mut signals = Signals {
            waiting,
            waiting_alone,
            barred: waiting == 0 && waiting_alone == 0 && !(self.ready.is_empty() && self.ready_alone.is_empty()),
            held: self.start_again.is_some_and(|again| again > now.mono),
            behind: self.behind(now),
            oldest: oldest.unwrap_or_default(),
            ..Signals::default()
        };
        let mut next: Option<Instant> = None;
        for worker in self.workers.values().filter(|worker| worker.phase != WorkerPhase::Draining) {
            // What still runs in a worker that leaves needs no place in the others.
            signals.running = signals.running.saturating_add(count(worker.used()));
            signals.workers += 1;
            signals.starting += u32::from(worker.phase == WorkerPhase::Starting);
            signals.alone += u32::from(worker.alone && !worker.running.is_empty());
            if worker.is_idle() {
                let until = worker.idle_since + self.keep_alive();
                if until <= now.mono {
                    signals.over += 1;
                } else {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
        }
        (signals, next)
    }

    fn policy(&self, least: u32) -> Policy {
        Policy {
            slots: self.function.slots,
            reserved: self.bounds.reserved,
            most: self.bounds.workers,
            granted: None,
            least,
            expected: 0,
            starts: self.bounds.starts,
            max_age: self.function.retry.max_age,
        }
    }

    /// How long an idle worker is kept for its own sake. Adaptive: not at all, as it is kept or not for what is expected.
    fn keep_alive(&self) -> Duration {
        match self.function.keep_alive {
            KeepAlive::Fixed(keep) => keep,
            KeepAlive::Adaptive => Duration::ZERO,
        }
    }

    /// How many workers the function's pauses say should be warm, and when that changes by itself.
    fn expect(&mut self, signals: &Signals, policy: &mut Policy, now: Now) -> Option<Instant> {
        let Scaling { adaptive: Some(adaptive), began, pattern, .. } = &mut self.scaling else { return None };
        if self.draining {
            return None;
        }
        let began = *began.get_or_insert(now.mono);
        let at = now.mono.saturating_duration_since(began);
        adaptive.needs(at, scale::demand(signals, policy));
        let plan = adaptive.plan(at);
        *pattern = Some(plan.pattern);
        policy.expected = plan.workers;
        plan.until.map(|until| began + until)
    }

    /// Workers that are provisioned now or in a moment, and when to look that up again.
    fn provisioned(&mut self, now: Now) -> (u32, Option<Instant>) {
        if self.draining {
            return (0, None);
        }
        let Scaling { schedule, provisioned, memory, .. } = &mut self.scaling;
        let slots = self.function.slots.max(1);
        let since = |at: Timestamp| Duration::try_from(now.wall.duration_since(at)).ok();
        let known = provisioned.filter(|(known, at)| {
            let fresh = since(*at).is_some_and(|since| schedule.is_constant() || since < RESCHEDULE);
            fresh && known.until.is_none_or(|until| now.wall < until)
        });
        let (known, at) = known.unwrap_or_else(|| {
            let lead = schedule::lead(memory, schedule.most().div_ceil(slots), self.bounds.starts);
            (schedule.at(now.wall, lead), now.wall)
        });
        *provisioned = Some((known, at));
        let next = known.until.map(|until| {
            let left = Duration::try_from(until.duration_since(now.wall)).unwrap_or_default();
            now.mono + left.min(RESCHEDULE.saturating_sub(since(at).unwrap_or_default())).max(Duration::from_millis(1))
        });
        (known.invocations.div_ceil(slots), next)
    }

    /// So many workers, but no more than `reserved` could fill.
    pub(super) fn within_reserved(&self, workers: u32) -> u32 {
        workers.min(self.bounds.reserved.div_ceil(self.function.slots.max(1)))
    }

    /// Whether one more invocation may begin: `reserved` is kept to the invocation, not to the worker.
    pub(super) fn may_run_more(&self) -> bool {
        self.bounds.reserved == u32::MAX || count(self.used()) < self.bounds.reserved
    }

    /// What was granted for a worker that leaves now is no grant for another one.
    fn note_leaving(&mut self) -> (u32, u32) {
        let staying = count(self.workers.values().filter(|worker| worker.phase != WorkerPhase::Draining).count());
        let leaving = count(self.workers.len()).saturating_sub(staying);
        let leaving_now = leaving.saturating_sub(self.scaling.leaving);
        self.scaling.leaving = leaving;
        self.scaling.granted = budget::without(self.scaling.granted, staying, leaving_now);
        (staying, leaving)
    }

    /// Says what is wished, if that or what there is is something else than before.
    fn ask_node(&mut self, wanted: Wish) {
        let (staying, leaving) = self.note_leaving();
        let wish = Wish { staying, leaving, ..wanted };
        if self.scaling.wished != Some(wish) {
            self.scaling.wished = Some(wish);
            self.scaling.wishing = true;
            self.actions.push(Action::Wish(wish));
        }
    }

    /// The node's answer, or a change of it that somebody else's wish has made.
    pub(super) fn on_granted(&mut self, workers: u32) {
        if workers < self.scaling.granted {
            // It keeps the room of what it has granted until it is told what was made of it.
            self.scaling.wished = None;
        }
        self.scaling.granted = workers;
        self.scaling.wishing = false;
    }

    /// Stops workers, and only idle ones whose keep-alive is over; those that have been idle longest go first. What the
    /// node asks back goes too, if it must be with work: it takes no more, and leaves when it has finished.
    fn send_home(&mut self, most: u32, asked_back: u32, now: Now) {
        if asked_back > 0 {
            self.give_back(asked_back);
            return;
        }
        let keep = self.keep_alive();
        let over = |worker: &WorkerState| worker.is_idle() && worker.idle_since + keep <= now.mono;
        let mut idle: Vec<(Instant, WorkerId)> = self
            .workers
            .iter()
            .filter(|(_, worker)| over(worker))
            .map(|(&id, worker)| (worker.idle_since, id))
            .collect();
        idle.sort_unstable();
        for (_, id) in idle.into_iter().take(most as usize) {
            self.send_worker_home(id);
        }
    }

    fn give_back(&mut self, workers: u32) {
        // Idle ones first, those that start next, and then those with the least to finish.
        let rank = |worker: &WorkerState| {
            let class = if worker.is_idle() {
                0
            } else if worker.running.is_empty() {
                1
            } else {
                2
            };
            (class, worker.running.len(), worker.idle_since)
        };
        let staying = self.workers.iter().filter(|(_, worker)| worker.phase != WorkerPhase::Draining);
        let mut order: Vec<_> = staying.map(|(&id, worker)| (rank(worker), id)).collect();
        order.sort_unstable();
        for (_, id) in order.into_iter().take(workers as usize) {
            self.send_worker_home(id);
        }
    }

    /// Stops idle workers, as far as there are more than so many.
    pub(super) fn send_idle_home_beyond(&mut self, most: u32) {
        let staying = self.workers.values().filter(|worker| worker.phase != WorkerPhase::Draining).count();
        let idle: Vec<WorkerId> =
            self.workers.iter().filter(|(_, worker)| worker.is_idle()).map(|(&id, _)| id).collect();
        for id in idle.into_iter().take(staying.saturating_sub(most as usize)) {
            self.send_worker_home(id);
        }
    }

    /// Those that are here take no more work and leave when they have finished; what comes next finds the new code. Code that
    /// did not start may start now.
    pub(super) fn replace_workers(&mut self) {
        self.give_back(u32::MAX);
        self.start_again = None;
        self.failed_starts = self.failed_starts.min(1);
    }

    /// It takes no more work. One that has some is told to end when it is done, not before: a worker that is told has a
    /// limited time.
    fn send_worker_home(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.phase = WorkerPhase::Draining;
            if worker.running.is_empty() {
                self.actions.push(Action::DrainWorker(id));
            }
        }
    }

    fn launch(&mut self, now: Now) {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let worker = WorkerState {
            phase: WorkerPhase::Starting,
            running: std::collections::BTreeMap::new(),
            calls: Vec::new(),
            alone: false,
            fresh: true,
            condemned: false,
            killed: false,
            init: None,
            idle_since: now.mono,
        };
        self.workers.insert(id, worker);
        self.actions.push(Action::Launch(id));
    }

    pub(super) fn fell_idle(&mut self, id: WorkerId, now: Now) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.alone = false;
            worker.idle_since = now.mono;
            // One that has just started was told so already.
            if worker.phase == WorkerPhase::Draining && !worker.fresh && !worker.condemned {
                self.actions.push(Action::DrainWorker(id));
            }
        }
    }

    /// Events that have found no slot wait for a worker to start, or for a slot within a bound: the latter are throttled.
    fn mark_waiting(&mut self, signals: &Signals, policy: &Policy, decision: Decision, now: Now) {
        let workers = decision.demand.min(policy.granted.unwrap_or(u32::MAX).max(policy.least));
        let slots = u64::from(workers).saturating_mul(u64::from(policy.slots));
        let room = slots.min(u64::from(policy.reserved)).saturating_sub(u64::from(signals.running));
        let call = self.function.batch.map_or(1, |batch| u64::from(batch.size));
        let room = usize::try_from(room.saturating_mul(call)).unwrap_or(usize::MAX);
        let context = self.scaling.context(decision, signals);
        let barred = self.held_back(now);
        for queue in [&self.ready, &self.ready_alone] {
            // In the order in which they came: those before one that is marked are marked too.
            for (number, key) in queue.iter().enumerate().rev() {
                let Some(invocation) = self.invocations.get_mut(key) else { continue };
                let Phase::Ready { waited, throttled, .. } = &mut invocation.phase else { continue };
                let first = !std::mem::replace(waited, true);
                let limit = decision.limit.filter(|_| first && number >= room).map(Throttle::from);
                let throttle = barred.or(limit).filter(|_| !std::mem::replace(throttled, true));
                if let Some(throttle) = throttle {
                    spans::throttled(&invocation.step, throttle.as_str(), context);
                    self.stats.throttled(throttle);
                } else if first {
                    invocation.step = spans::cold_start(&invocation.step, &self.function.name, context);
                } else if barred.is_none() {
                    break;
                }
            }
        }
    }

    /// Brings what people see up to date: at once when another decision was made, now and then otherwise.
    fn tell_scale(&mut self, now: Now, signals: &Signals, decision: Decision) {
        let last = self.scaling.last.replace(decision);
        let changed = last.is_none_or(|last| (last.why, last.workers) != (decision.why, decision.workers));
        let due = self.scaling.told.is_none_or(|told| now.mono.saturating_duration_since(told) >= TELL_EVERY);
        if !changed && !due {
            return;
        }
        self.scaling.told = Some(now.mono);
        if changed {
            let became_late = decision.late.is_some() && last.is_none_or(|last| last.late.is_none());
            if became_late {
                tracing::warn!(
                    function = %self.function.name, late_s = decision.late.map_or(0, |late| late.as_secs()),
                    "events will pass their max_age before they can begin"
                );
            }
            self.stats.scaling.decided(decision.why.as_str());
        }
        self.stats.scaling.now(Scaled {
            why: decision.why.as_str(),
            wanted: decision.workers,
            limit: decision.limit.map(crate::scale::Limit::as_str),
            late: decision.late,
            behind: signals.behind,
            oldest: signals.oldest,
            arrivals_per_s: self.scaling.memory.arrivals_per_s(now.mono),
            service: self.scaling.memory.service(),
            pattern: self.scaling.pattern.map(Pattern::as_str),
        });
    }

    fn look_again(&mut self, at: Instant) {
        if self.scaling.armed.is_none_or(|armed| at < armed) {
            self.scaling.armed = Some(at);
            self.timers.push(Timer::new(at, What::Scale));
        }
    }

    /// The timer of [`look_again`](Self::look_again) is due; the look itself follows every input.
    pub(super) fn scale_timer(&mut self) {
        self.scaling.armed = None;
    }
}

impl Scaling {
    fn context(&self, decision: Decision, signals: &Signals) -> spans::Scale {
        spans::Scale {
            why: decision.why.as_str(),
            wanted: decision.workers,
            workers: signals.workers,
            waiting: signals.waiting.saturating_add(signals.waiting_alone),
            behind: signals.behind,
        }
    }
}

impl WorkerState {
    pub(super) fn is_up(&self) -> bool {
        self.phase == WorkerPhase::Up
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_up() && self.running.is_empty()
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
