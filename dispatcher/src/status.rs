//! What a dispatcher knows about itself: counters and gauges per function, for status, health and the demo's summary.

mod scaling;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_ledger::Used;
use weft_process::telemetry::names::Metric;
use weft_process::telemetry::{Count, Metrics};
use weft_schemas::{FunctionName, Reason};

pub use scaling::{Scaled, Scaling, ScalingSnapshot};

use crate::scale::Limit;

/// Durations in microseconds, bounded in memory: the newest [`Samples::MOST`] are kept.
#[derive(Debug, Default)]
pub struct Samples {
    kept: Mutex<(Vec<u64>, usize)>,
}

impl Samples {
    pub const MOST: usize = 16_384;

    fn add(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (values, next) = &mut *kept;
        if values.len() < Self::MOST {
            values.push(micros);
        } else if let Some(slot) = values.get_mut(*next) {
            *slot = micros;
            *next = (*next + 1) % Self::MOST;
        }
    }

    /// The kept samples in no order.
    pub fn values(&self) -> Vec<u64> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone()
    }
}

/// What made an invocation wait. Only bounds count, no failures: an event that waits for a retry is not throttled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Throttle {
    /// The function's `concurrency.reserved`.
    Reserved,
    /// `--max-workers`: all the workers that the function may have here are busy.
    MaxWorkers,
    /// The node's budget of workers and memory, which other functions have a part of.
    Node,
    /// The function's `rate`.
    Rate,
    /// The function's `concurrency.total`: the permits are used up, here or by other dispatchers.
    Total,
    /// One before it with the same `ordering` key has not ended.
    Ordering,
}

impl From<Limit> for Throttle {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Reserved => Self::Reserved,
            Limit::MaxWorkers => Self::MaxWorkers,
            Limit::Node => Self::Node,
        }
    }
}

impl Throttle {
    /// As status and metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::MaxWorkers => "max_workers",
            Self::Node => "node",
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Ordering => "ordering",
        }
    }
}

/// The live numbers of one function. Written by its loop, read by anybody.
#[derive(Debug, Default)]
pub struct FunctionStats {
    /// Deliveries received, of any kind.
    pub received: AtomicU64,
    /// Deliveries from outside that asked for an invocation known already (not retries, not redeliveries).
    pub duplicates: AtomicU64,
    /// Attempts started.
    pub attempts: AtomicU64,
    pub succeeded: AtomicU64,
    /// Attempts that ended in another one.
    pub retries: AtomicU64,
    pub crashes: AtomicU64,
    pub timeouts: AtomicU64,
    /// Attempts that ended in an error of any kind.
    pub errors: AtomicU64,
    /// Invocations that had to wait because a bound was reached, once for each wait.
    pub throttles: AtomicU64,
    pub cold_starts: AtomicU64,
    /// How long handlers were busy, each attempt's time rounded up to a millisecond. Of an attempt whose worker died it is
    /// not known when its handler was entered: it counts nothing.
    billed_ms: AtomicU64,
    /// Of one worker, as the manifest says; set once, before the first attempt.
    memory_mb: AtomicU64,
    alive: Mutex<Alive>,
    /// Workers started and failed before they were ready, in a row.
    pub failed_starts: AtomicU32,
    pub running: AtomicU32,
    pub waiting: AtomicU32,
    pub workers: AtomicU32,
    pub peak_workers: AtomicU32,
    /// Event received → handler entered, for attempts that waited for a worker to start.
    pub cold: Samples,
    /// Event received → handler entered, for attempts that found a free slot.
    pub warm: Samples,
    dead: Mutex<BTreeMap<Reason, u64>>,
    throttled: Mutex<BTreeMap<Throttle, u64>>,
    reason: Mutex<Option<String>>,
    outage: Mutex<Option<String>>,
    ledger: Mutex<Option<String>>,
    /// Why it has as many workers as it has, and what waits for it.
    pub scaling: Scaling,
    confined: Mutex<BTreeMap<&'static str, String>>,
    name: String,
    metrics: Metrics,
}

/// How long workers have been alive.
#[derive(Debug, Default)]
struct Alive {
    workers: u32,
    /// Since when there are so many; `None` before the first.
    since: Option<Instant>,
    /// Up to then, over all workers.
    before: Duration,
}

impl Alive {
    fn up_to(&self, now: Instant) -> Duration {
        let since = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.before + since * self.workers
    }

    fn change(&mut self, now: Instant, workers: u32) {
        *self = Self { workers, since: Some(now), before: self.up_to(now) };
    }
}

impl FunctionStats {
    fn new(name: &FunctionName, metrics: &Metrics) -> Self {
        Self { name: name.to_string(), metrics: metrics.clone(), ..Self::default() }
    }

    pub(crate) fn add(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn died(&self, reason: Reason) {
        *lock(&self.dead).entry(reason).or_default() += 1;
    }

    /// An invocation begins to wait for a bound.
    pub(crate) fn throttled(&self, why: Throttle) {
        self.add(&self.throttles);
        *lock(&self.throttled).entry(why).or_default() += 1;
    }

    /// Throttles by what made them, since the start.
    pub fn throttled_by(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.throttled).iter().map(|(why, count)| (why.as_str(), *count)).collect()
    }

    pub(crate) fn gauge(&self, running: u32, waiting: u32, workers: u32) {
        self.running.store(running, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
        self.workers.store(workers, Ordering::Relaxed);
        self.peak_workers.fetch_max(workers, Ordering::Relaxed);
    }

    /// What its workers are confined to, and how that is kept.
    pub(crate) fn confined(&self, in_force: &[(&'static str, String)]) {
        *lock(&self.confined) = in_force.iter().cloned().collect();
    }

    /// Why the function's events wait, or `None` when it is well.
    pub(crate) fn unhealthy(&self, reason: Option<String>) {
        *lock(&self.reason) = reason;
    }

    /// What attempts ran into that is no fault of theirs, or `None`.
    pub(crate) fn outage(&self, error: Option<String>) {
        *lock(&self.outage) = error;
    }

    /// Why the ledger takes nothing of it, or `None`.
    pub(crate) fn ledger(&self, error: Option<String>) {
        *lock(&self.ledger) = error;
    }

    pub(crate) fn sample(&self, cold: bool, duration: Duration) {
        if cold {
            self.cold.add(duration)
        } else {
            self.warm.add(duration)
        }
        self.metrics.record(Metric::QueueWait, &self.name, duration);
    }

    /// An attempt took this long from its handler's entry to its answer.
    pub(crate) fn ran(&self, duration: Duration) {
        self.metrics.record(Metric::InvokeDuration, &self.name, duration);
    }

    /// A handler was busy this long with one call: what is billed.
    pub(crate) fn busy(&self, duration: Duration) {
        let ms = u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        self.billed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// A worker took this long from its start until it was ready.
    pub(crate) fn ready(&self, duration: Duration) {
        self.metrics.record(Metric::InitDuration, &self.name, duration);
    }

    /// What has been used since the start.
    pub(crate) fn used(&self, now: Instant) -> Used {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (billed_ms, memory_mb) = (read(&self.billed_ms), read(&self.memory_mb));
        let worker_ms = u64::try_from(lock(&self.alive).up_to(now).as_millis()).unwrap_or(u64::MAX);
        Used {
            attempts: read(&self.attempts),
            cold_starts: read(&self.cold_starts),
            billed_ms,
            billed_mb_ms: billed_ms.saturating_mul(memory_mb),
            worker_ms,
            worker_mb_ms: worker_ms.saturating_mul(memory_mb),
        }
    }

    /// What a counter has reached.
    fn counts(&self, metric: Metric) -> Vec<Count> {
        let count = |reason, value| Count { function: self.name.clone(), reason, value };
        let counter = match metric {
            Metric::Invocations => &self.attempts,
            Metric::Errors => &self.errors,
            Metric::Coldstarts => &self.cold_starts,
            Metric::Timeouts => &self.timeouts,
            Metric::Duplicates => &self.duplicates,
            Metric::Retries => &self.retries,
            Metric::Throttles => {
                return self.throttled_by().into_iter().map(|(why, waited)| count(Some(why), waited)).collect();
            }
            Metric::Scaling => {
                return self.scaling.decisions().into_iter().map(|(why, value)| count(Some(why), value)).collect();
            }
            Metric::DeadLetters => {
                return self.dead().into_iter().map(|(reason, dead)| count(Some(reason.as_str()), dead)).collect();
            }
            Metric::BilledGbSeconds => {
                let used = self.used(Instant::now());
                return vec![count(None, used.billed_mb_ms)];
            }
            Metric::InvokeDuration | Metric::InitDuration | Metric::QueueWait => return Vec::new(),
        };
        vec![count(None, counter.load(Ordering::Relaxed))]
    }

    /// Dead letters by reason since the start.
    pub fn dead(&self) -> BTreeMap<Reason, u64> {
        lock(&self.dead).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The live numbers of a dispatcher. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    functions: Arc<BTreeMap<FunctionName, Arc<FunctionStats>>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Outbox rows published.
    relayed: AtomicU64,
    refused: AtomicU64,
    replies_dropped: AtomicU64,
    /// Addresses that refuse what is published to them, with the last error. At most [`HELD_MOST`].
    held: Mutex<BTreeMap<String, String>>,
    caught: AtomicU64,
    unrouted: AtomicU64,
    resolved: AtomicU64,
    workers: AtomicU32,
    peak_workers: AtomicU32,
}

/// Addresses that are told apart in the status; more are kept and tried all the same.
const HELD_MOST: usize = 100;

impl Stats {
    pub(crate) fn new<'a>(functions: impl IntoIterator<Item = &'a FunctionName>, metrics: &Metrics) -> Self {
        let functions = functions.into_iter().map(|name| (name.clone(), Arc::new(FunctionStats::new(name, metrics))));
        let functions: Arc<BTreeMap<_, _>> = Arc::new(functions.collect());
        let followed = Arc::clone(&functions);
        metrics.follow(move |metric| followed.values().flat_map(|function| function.counts(metric)).collect());
        Self { functions, shared: Arc::default() }
    }

    pub fn functions(&self) -> &BTreeMap<FunctionName, Arc<FunctionStats>> {
        &self.functions
    }

    /// What one worker of a function may use, in bytes: for the figures of use.
    pub(crate) fn memory(&self, function: &FunctionName, bytes: u64) {
        if let Some(stats) = self.functions.get(function) {
            stats.memory_mb.store(bytes.div_ceil(1 << 20), Ordering::Relaxed);
        }
    }

    /// What each function has used since the start.
    pub(crate) fn used(&self, now: Instant) -> Vec<(FunctionName, Used)> {
        self.functions.iter().map(|(name, stats)| (name.clone(), stats.used(now))).collect()
    }

    fn alive(&self, function: &FunctionName, change: impl Fn(u32) -> u32) {
        if let Some(stats) = self.functions.get(function) {
            let mut alive = lock(&stats.alive);
            let workers = change(alive.workers);
            alive.change(Instant::now(), workers);
        }
    }

    pub(crate) fn worker_started(&self, function: &FunctionName) {
        self.alive(function, |workers| workers.saturating_add(1));
        let now = self.shared.workers.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.peak_workers.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn worker_gone(&self, function: &FunctionName) {
        self.alive(function, |workers| workers.saturating_sub(1));
        self.shared.workers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn relayed(&self, published: u64, refused: u64) {
        self.shared.relayed.fetch_add(published, Ordering::Relaxed);
        self.shared.refused.fetch_add(refused, Ordering::Relaxed);
    }

    pub(crate) fn replies_dropped(&self, count: u64) {
        self.shared.replies_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Notes that an address refuses (with why) or takes again (`None`); `true` when that is new.
    pub(crate) fn held(&self, route: String, error: Option<String>) -> bool {
        let mut held = lock(&self.shared.held);
        match error {
            Some(_) if held.len() >= HELD_MOST && !held.contains_key(&route) => false,
            Some(error) => held.insert(route, error).is_none(),
            None => held.remove(&route).is_some(),
        }
    }

    /// Whether any address refuses.
    pub(crate) fn holds_any(&self) -> bool {
        !lock(&self.shared.held).is_empty()
    }

    pub(crate) fn caught(&self) {
        self.shared.caught.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unrouted(&self) {
        self.shared.unrouted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn resolved(&self, count: u64) {
        self.shared.resolved.fetch_add(count, Ordering::Relaxed);
    }

    /// Workers alive, over all functions.
    pub fn workers(&self) -> u32 {
        self.shared.workers.load(Ordering::Relaxed)
    }

    /// The most workers that were alive at one time.
    pub fn peak_workers(&self) -> u32 {
        self.shared.peak_workers.load(Ordering::Relaxed)
    }

    /// A copy for people and machines.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            workers: self.workers(),
            peak_workers: self.peak_workers(),
            relayed: self.shared.relayed.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            replies_dropped: self.shared.replies_dropped.load(Ordering::Relaxed),
            held: lock(&self.shared.held).clone(),
            caught: self.shared.caught.load(Ordering::Relaxed),
            unrouted: self.shared.unrouted.load(Ordering::Relaxed),
            copies_resolved: self.shared.resolved.load(Ordering::Relaxed),
            functions: self.functions.iter().map(|(name, stats)| (name.clone(), stats.snapshot())).collect(),
        }
    }
}

impl FunctionStats {
    pub(crate) fn snapshot(&self) -> FunctionSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FunctionSnapshot {
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            workers: self.workers.load(Ordering::Relaxed),
            peak_workers: self.peak_workers.load(Ordering::Relaxed),
            scale: self.scaling.latest().why.to_owned(),
            scaling: self.scaling.snapshot(),
            received: read(&self.received),
            duplicates: read(&self.duplicates),
            attempts: read(&self.attempts),
            succeeded: read(&self.succeeded),
            retries: read(&self.retries),
            crashes: read(&self.crashes),
            timeouts: read(&self.timeouts),
            throttles: read(&self.throttles),
            throttled: self.throttled_by(),
            cold_starts: read(&self.cold_starts),
            dead: self.dead(),
            confined: lock(&self.confined).clone(),
            unhealthy: lock(&self.reason).clone(),
            outage: lock(&self.outage).clone(),
            ledger: lock(&self.ledger).clone(),
        }
    }
}

/// A copy of a dispatcher's numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub workers: u32,
    pub peak_workers: u32,
    /// Outbox rows published since the start.
    pub relayed: u64,
    /// Publishes of outbox rows that the broker did not take, since the start; each row stays and is tried again.
    pub refused: u64,
    /// Replies that no queue took, since the start: who asked was gone.
    pub replies_dropped: u64,
    /// Addresses that refuse what the outbox has for them (no such queue, a full one) or do not confirm it, with the last
    /// error. The rows are kept and tried again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, String>,
    /// Messages that the broker itself had given up, taken from its crash net since the start.
    pub caught: u64,
    /// Events that no function is bound to, since the start.
    pub unrouted: u64,
    /// Copies of closed dead letters taken out of their queues since the start.
    pub copies_resolved: u64,
    pub functions: BTreeMap<FunctionName, FunctionSnapshot>,
}

/// A copy of one function's numbers; counts are since the dispatcher's start.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionSnapshot {
    pub running: u32,
    pub waiting: u32,
    pub workers: u32,
    pub peak_workers: u32,
    /// Why the number of workers is what it is.
    pub scale: String,
    pub scaling: ScalingSnapshot,
    pub received: u64,
    pub duplicates: u64,
    pub attempts: u64,
    pub succeeded: u64,
    pub retries: u64,
    pub crashes: u64,
    pub timeouts: u64,
    /// Invocations that had to wait because a bound was reached.
    pub throttles: u64,
    /// The throttles by what made them wait: `reserved`, `max_workers`, `node`, `rate`, `total`, `ordering`.
    pub throttled: BTreeMap<&'static str, u64>,
    pub cold_starts: u64,
    pub dead: BTreeMap<Reason, u64>,
    /// What its workers are confined to, by key, and how that is kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub confined: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// Its attempts cannot use the ledger or the state, so its events wait: the newest error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage: Option<String>,
    /// The ledger takes nothing of it at present, whatever else it answers to (a full disk): the newest error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
}
