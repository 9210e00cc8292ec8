//! The scaling decision: pure, so that it reads and tests as a timetable. It holds no clock: the loop calls it with the
//! real time, the simulator with a virtual one.

use std::time::{Duration, Instant};

use super::memory::Memory;

/// What is seen of one function now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Invocations that hold a slot.
    pub running: u32,
    /// Claimed invocations without a slot that may share a worker.
    pub waiting: u32,
    /// Claimed invocations without a slot that must have a worker to themselves.
    pub waiting_alone: u32,
    /// Workers that run invocations which have the worker to themselves.
    pub alone: u32,
    /// Workers alive or starting, those that are draining left out.
    pub workers: u32,
    /// Of these, how many have not said ready yet.
    pub starting: u32,
    /// Of `workers`, how many are idle and have been kept for as long as the keep-alive says.
    pub over: u32,
    /// Events at the broker behind those that are here. `None`: nobody can say now, so nothing is concluded from an
    /// empty hand: no worker is stopped for want of work.
    pub behind: Option<u64>,
    /// Age of the oldest event that waits here, from when it was first seen. Zero when none waits.
    pub oldest: Duration,
    /// Events wait that a cap does not let begin now, whatever slots are free. They are not in `waiting`: no worker starts
    /// for them, but the last one does not leave before them.
    pub barred: bool,
    /// Starts are held back after failures.
    pub held: bool,
}

/// The bounds that a function and its node set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Concurrent invocations in one worker; at least 1.
    pub slots: u32,
    /// Never more invocations at once than this (`concurrency.reserved`); `u32::MAX`: as many as the workers have slots.
    pub reserved: u32,
    /// Never more workers than this; at least 1.
    pub most: u32,
    /// Workers that the node's budget lets it have now, when that is less than it asked for; `None`: it has what it asked.
    pub granted: Option<u32>,
    /// Never fewer workers than this while the dispatcher takes events: provisioned, now or in a moment.
    pub least: u32,
    /// Workers that are wanted because events are expected, not because there are any (adaptive keep-alive).
    pub expected: u32,
    /// Starts under way at once, at most; at least 1. More than there are cores for only makes each of them slower,
    /// and the first that is ready may well do the work of the rest.
    pub starts: u32,
    /// No event should begin later than this after it was first seen (`retry.max_age`).
    pub max_age: Duration,
}

/// How many workers there should be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Start or stop up to this many. What is above is stopped only as far as it is idle, but for [`Limit::Node`].
    pub workers: u32,
    pub why: Why,
    /// What keeps it from having as many as its events can use: what waits because of it is throttled.
    pub limit: Option<Limit>,
    /// By how much the last of the events that are known will pass `max_age`, if all goes on as it does.
    pub late: Option<Duration>,
    /// Workers that its events can use, within its own bounds: what it asks of the node.
    pub demand: u32,
    /// Workers that it would have beyond that: kept after their work, or expected to be needed. Not provisioned ones.
    pub spare: u32,
}

/// The reason of a decision, as shown by status, metrics and traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Nothing runs or waits.
    Idle,
    /// Just what is running and waiting needs.
    Demand,
    /// More is wanted, and comes when the starts under way are done.
    Starting,
    /// Provisioned concurrency keeps workers warm.
    Provisioned,
    /// Idle workers whose keep-alive is not over.
    Kept,
    /// Events are expected soon.
    Expected,
    /// More is wanted than a bound allows.
    Limited(Limit),
    /// With all that the bounds allow, events will pass their `max_age`.
    Late,
    /// The broker cannot say what waits: the count is held.
    NoData,
    /// Starts keep failing: none is started until the wait is over.
    Held,
}

/// A bound that a decision ran into: the reason of a throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// `concurrency.reserved`.
    Reserved,
    /// `--max-workers`.
    MaxWorkers,
    /// The node's budget, `--node-workers` and `--node-memory`.
    Node,
}

impl Limit {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::MaxWorkers => "max_workers",
            Self::Node => "node",
        }
    }
}

impl Why {
    /// Every reason, for tables.
    pub const ALL: [Self; 12] = [
        Self::Idle,
        Self::Demand,
        Self::Starting,
        Self::Provisioned,
        Self::Kept,
        Self::Expected,
        Self::Limited(Limit::Reserved),
        Self::Limited(Limit::MaxWorkers),
        Self::Limited(Limit::Node),
        Self::Late,
        Self::NoData,
        Self::Held,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Demand => "demand",
            Self::Starting => "starting",
            Self::Provisioned => "provisioned",
            Self::Kept => "kept",
            Self::Expected => "expected",
            Self::Limited(limit) => limit.as_str(),
            Self::Late => "late",
            Self::NoData => "no_data",
            Self::Held => "held",
        }
    }
}

/// Decides. Scale-up is immediate and never asks for more than what is running and waiting can use; scale-down takes
/// only idle workers whose keep-alive is over, but for those that the node's budget asks back.
pub fn decide(now: Instant, signals: &Signals, policy: &Policy, memory: &Memory) -> Decision {
    let slots = policy.slots.max(1);
    let most = policy.most.max(policy.least).max(1);
    let present = demand_of(signals, slots, u32::MAX);
    let within = demand_of(signals, slots, policy.reserved);
    let (needed, late) = deadline(now, signals, policy, memory);
    let wanted = within.max(needed);
    let demand = wanted.min(most);
    let kept = signals.workers.saturating_sub(signals.over).max(signals.workers.min(signals.barred.into()));
    let spare = kept.max(policy.expected).min(most);
    let full = demand.max(policy.least).max(spare);
    let granted = policy.granted.unwrap_or(u32::MAX).max(policy.least);

    let limit = if granted < demand {
        Some(Limit::Node)
    } else if wanted > most {
        Some(Limit::MaxWorkers)
    } else if present > within {
        Some(Limit::Reserved)
    } else {
        None
    };
    let mut workers = full.min(granted);
    let mut why = match limit {
        Some(limit) => Why::Limited(limit),
        None if workers < full => Why::Limited(Limit::Node),
        None if demand > policy.least && demand >= spare => Why::Demand,
        None if spare > demand.max(policy.least) && policy.expected >= spare => Why::Expected,
        None if spare > demand.max(policy.least) => Why::Kept,
        None if policy.least > 0 => Why::Provisioned,
        None => Why::Idle,
    };
    if signals.behind.is_none() && workers < signals.workers.min(granted) {
        (workers, why) = (signals.workers.min(granted), Why::NoData);
    }
    if late.is_some() {
        why = Why::Late;
    }
    let startable = signals.workers.saturating_add(policy.starts.max(1).saturating_sub(signals.starting));
    if workers > startable {
        workers = startable;
        if matches!(why, Why::Demand | Why::Provisioned | Why::Expected) {
            why = Why::Starting;
        }
    }
    if signals.held && workers > signals.workers {
        (workers, why) = (signals.workers, Why::Held);
    }
    let spare = spare.saturating_sub(demand.max(policy.least));
    Decision { workers, why, limit, late, demand, spare }
}

/// Workers that what runs and waits here can use, within the function's own bounds.
pub fn demand(signals: &Signals, policy: &Policy) -> u32 {
    demand_of(signals, policy.slots.max(1), policy.reserved).min(policy.most.max(policy.least).max(1))
}

/// Workers that what is here can use, with at most `reserved` invocations at once.
fn demand_of(signals: &Signals, slots: u32, reserved: u32) -> u32 {
    let alone = signals.alone.saturating_add(signals.waiting_alone);
    let shared = signals.running.saturating_sub(signals.alone).saturating_add(signals.waiting);
    let beyond = alone.saturating_add(shared).saturating_sub(reserved);
    let (from_shared, from_alone) = (beyond.min(shared), beyond.saturating_sub(shared));
    (shared - from_shared).div_ceil(slots).saturating_add(alone.saturating_sub(from_alone))
}

/// Workers with which no event begins later than `max_age`, and by how much the last one will when the bounds do not
/// allow as many. As if all that waits were as old as the oldest: rather a worker too many than an event too late.
/// Nothing is said without data: no service time yet, or a broker that cannot say what is behind.
fn deadline(now: Instant, signals: &Signals, policy: &Policy, memory: &Memory) -> (u32, Option<Duration>) {
    let (Some(service), Some(behind)) = (memory.service(), signals.behind) else { return (0, None) };
    let here = u64::from(signals.running)
        .saturating_add(u64::from(signals.waiting))
        .saturating_add(u64::from(signals.waiting_alone));
    let ahead = here.saturating_add(behind);
    if ahead == 0 {
        return (0, None);
    }
    let slots = policy.slots.max(1);
    let service = service.as_secs_f64();
    let left = policy.max_age.as_secs_f64() - signals.oldest.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let events = ahead as f64;
    // With n slots the last of them begins after events × service / n, less the one round that begins at once.
    let in_time = events * service / (left + service).max(f64::MIN_POSITIVE);
    let inflow = if behind > 0 { memory.arrivals_per_s(now).unwrap_or(0.0) * service } else { 0.0 };
    let usable = u32::try_from(ahead.div_ceil(u64::from(slots))).unwrap_or(u32::MAX);
    let most = policy.most.max(policy.least).max(1);
    // To keep up with what arrives it may take all that it can have, and is not late for wanting more.
    let keeping_up = ceil(inflow / f64::from(slots)).min(most);
    // More than `reserved` fills would stand idle.
    let fillable = policy.reserved.div_ceil(slots);
    let needed = ceil(in_time / f64::from(slots)).max(keeping_up).min(usable).min(fillable);

    let most = most.min(policy.granted.unwrap_or(u32::MAX).max(policy.least)).max(1);
    let parallel = f64::from(policy.reserved.min(most.saturating_mul(slots)).max(1));
    let begins_after = (events - parallel).max(0.0) * service / parallel;
    let short = begins_after - left;
    let late = (short > 0.0).then(|| Duration::try_from_secs_f64(short).unwrap_or(Duration::MAX));
    (needed, late)
}

fn ceil(number: f64) -> u32 {
    let ceiled = number.ceil();
    if ceiled >= f64::from(u32::MAX) {
        return u32::MAX;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range, and not below zero")]
    let count = ceiled.max(0.0) as u32;
    count
}

#[cfg(test)]
mod tests;
