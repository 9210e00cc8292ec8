//! What a replay shows, for people and for machines.

use std::time::Duration;

use serde::Serialize;

use super::arrivals::{self, Stream};
use super::price::Prices;
use super::{Policy, Setup, Trace, TraceFunction};

/// One function's run under one policy.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FunctionRun {
    pub invocations: u64,
    /// Attempts that waited for a worker to start.
    pub cold_starts: u64,
    /// Invocations that waited because a cap was reached.
    pub throttles: u64,
    /// Of all attempts.
    pub billed: Duration,
    /// From each worker's launch to its end, within the replayed minutes.
    pub worker_time: Duration,
    pub peak_workers: u32,
}

/// A trace's run under one policy.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// In the trace's order.
    pub functions: Vec<FunctionRun>,
    /// Invocations that still wait when nothing is left to happen.
    pub unfinished: u64,
    /// At once, over all functions.
    pub peak_workers: u32,
    pub peak_memory_mb: f64,
}

/// The figures of a simulation. Its JSON form is stable: keys are added, never renamed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub trace: TraceFigures,
    /// In the order in which they were asked for.
    pub policies: Vec<PolicyFigures>,
    /// In the trace's order; those without an event in the replayed minutes are left out.
    pub functions: Vec<FunctionFigures>,
    pub prices: Prices,
}

/// What was replayed, and under which assumptions.
#[derive(Debug, Clone, Serialize)]
pub struct TraceFigures {
    /// Functions with at least one event in the replayed minutes.
    pub functions: usize,
    /// Functions of the trace without one.
    pub silent_functions: usize,
    /// Functions left out because the trace lacks their durations or memory.
    pub incomplete_functions: usize,
    pub minutes: usize,
    pub invocations: u64,
    pub seed: u64,
    pub arrivals: &'static str,
    pub slots: u32,
    pub cold_start_ms: u64,
    pub starts: u32,
    pub reserved_workers: Option<u32>,
    pub node_workers: Option<u32>,
    pub keep_alive_ms: u64,
}

/// One policy's figures.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyFigures {
    pub name: String,
    pub invocations: u64,
    /// Attempts that waited for a worker to start.
    pub cold_starts: u64,
    /// Of all invocations.
    pub cold_share: f64,
    /// Over the functions' own cold shares: the middle, and the one that a quarter of the functions is beyond. Between two
    /// functions it is interpolated.
    pub cold_share_median: f64,
    pub cold_share_p75: f64,
    /// From each worker's launch to its end, idle time included.
    pub worker_seconds: f64,
    /// The same, each second times the worker's memory.
    pub memory_mb_seconds: f64,
    /// At once, over all functions.
    pub peak_workers: u32,
    pub peak_memory_mb: f64,
    /// Invocations that waited because a cap was reached.
    pub throttles: u64,
    /// Invocations that wait for ever, because workers that are kept whatever comes hold all of the node's room.
    pub unfinished: u64,
    /// These worker-seconds as containers that hold one worker each.
    pub containers_usd: f64,
    /// Nodes enough for the peak, on all the time.
    pub nodes_usd: f64,
    /// Every function's cold share, ascending: for the chart.
    #[serde(skip)]
    pub cold_shares: Vec<f64>,
}

/// One function's costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionFigures {
    pub name: String,
    pub invocations: u64,
    pub memory_mb: f64,
    /// Each duration rounded up to a millisecond, times the billed memory.
    pub billed_gb_seconds: f64,
    /// On demand, by request and GB-second.
    pub on_demand_usd: f64,
    /// Workers needed at once, at the most.
    pub always_on_workers: u32,
    /// So many containers, on all the time.
    pub always_on_usd: f64,
    /// Invocations in an hour, and at how many both would cost the same.
    pub per_hour: f64,
    pub break_even_per_hour: f64,
    /// `on-demand` or `always-on`.
    pub cheaper: &'static str,
}

/// The value at a part (0 to 1) of ascending numbers, interpolated between neighbours, as most statistics programs do by
/// default; 0 when there is none.
pub fn quantile(ascending: &[f64], part: f64) -> f64 {
    let mut place = part.clamp(0.0, 1.0) * ascending.len().saturating_sub(1) as f64;
    let mut numbers = ascending.iter().copied();
    let mut low = numbers.next().unwrap_or(0.0);
    for high in numbers {
        if place < 1.0 {
            return low + (high - low) * place;
        }
        (low, place) = (high, place - 1.0);
    }
    low
}

pub(super) fn report(trace: &Trace, setup: &Setup, runs: &[(&Policy, Run)]) -> Report {
    let (from, end) = setup.range(trace);
    let minutes = end - from;
    let hours = minutes as f64 / 60.0;
    let events = |nth: usize| runs.first().and_then(|(_, run)| run.functions.get(nth)).copied().unwrap_or_default();
    let mut functions = Vec::new();
    for (nth, function) in trace.functions.iter().enumerate() {
        let run = events(nth);
        if run.invocations == 0 {
            continue;
        }
        functions.push(costs(setup, (from, end), hours, (nth, function), run));
    }
    Report {
        trace: TraceFigures {
            functions: functions.len(),
            silent_functions: trace.functions.len() - functions.len(),
            incomplete_functions: trace.incomplete,
            minutes,
            invocations: functions.iter().map(|function| function.invocations).sum(),
            seed: setup.seed,
            arrivals: setup.arrivals.as_str(),
            slots: setup.slots.get(),
            cold_start_ms: millis(setup.cold_start),
            starts: setup.starts.get(),
            reserved_workers: setup.reserved.map(std::num::NonZeroU32::get),
            node_workers: setup.node_workers.map(std::num::NonZeroU32::get),
            keep_alive_ms: millis(setup.keep_alive),
        },
        policies: runs.iter().map(|(policy, run)| of_policy(trace, setup, hours, policy, run)).collect(),
        functions,
        prices: setup.prices,
    }
}

fn of_policy(trace: &Trace, setup: &Setup, hours: f64, policy: &Policy, run: &Run) -> PolicyFigures {
    let seen = || run.functions.iter().filter(|function| function.invocations > 0);
    let mut cold_shares: Vec<_> = seen().map(|one| one.cold_starts as f64 / one.invocations as f64).collect();
    cold_shares.sort_by(f64::total_cmp);
    let invocations: u64 = seen().map(|function| function.invocations).sum();
    let cold_starts: u64 = seen().map(|function| function.cold_starts).sum();
    let seconds: Vec<_> = run.functions.iter().map(|function| function.worker_time.as_secs_f64()).collect();
    let worker_seconds: f64 = seconds.iter().sum();
    let memory_mb_seconds: f64 =
        trace.functions.iter().zip(&seconds).map(|(function, seconds)| function.memory_mb * seconds).sum();
    PolicyFigures {
        name: policy.to_string(),
        invocations,
        cold_starts,
        cold_share: if invocations > 0 { cold_starts as f64 / invocations as f64 } else { 0.0 },
        cold_share_median: quantile(&cold_shares, 0.5),
        cold_share_p75: quantile(&cold_shares, 0.75),
        worker_seconds,
        memory_mb_seconds,
        peak_workers: run.peak_workers,
        peak_memory_mb: run.peak_memory_mb,
        throttles: run.functions.iter().map(|function| function.throttles).sum(),
        unfinished: run.unfinished,
        containers_usd: setup.prices.containers(worker_seconds, memory_mb_seconds / 1_024.0),
        nodes_usd: setup.prices.nodes(run.peak_memory_mb, hours),
        cold_shares,
    }
}

fn costs(
    setup: &Setup,
    range: (usize, usize),
    hours: f64,
    (nth, function): (usize, &TraceFunction),
    run: FunctionRun,
) -> FunctionFigures {
    let prices = &setup.prices;
    let stream = Stream::new(function, nth, setup.arrivals, setup.seed, range);
    let at_once = u32::try_from(arrivals::peak(stream)).unwrap_or(u32::MAX);
    let workers = at_once.div_ceil(setup.slots.get());
    let billed_gb_seconds = run.billed.as_secs_f64() * prices.billed_gb(function.memory_mb);
    let on_demand_usd = prices.on_demand(run.invocations, billed_gb_seconds);
    let worker_seconds = f64::from(workers) * hours * 3_600.0;
    let always_on_usd = prices.containers(worker_seconds, worker_seconds * function.memory_mb / 1_024.0);
    let mean = run.billed.as_secs_f64() / run.invocations as f64;
    FunctionFigures {
        name: function.name.clone(),
        invocations: run.invocations,
        memory_mb: function.memory_mb,
        billed_gb_seconds,
        on_demand_usd,
        always_on_workers: workers,
        always_on_usd,
        per_hour: run.invocations as f64 / hours,
        break_even_per_hour: prices.break_even_per_hour(f64::from(workers), function.memory_mb, mean),
        cheaper: if on_demand_usd <= always_on_usd { "on-demand" } else { "always-on" },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
