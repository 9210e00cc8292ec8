//! What a demo says at its end, to people and to machines.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use weft_dispatcher::status::{FunctionSnapshot, FunctionStats, Samples, Stats};
use weft_example_orders::judge::{Observed, Verdict};
use weft_example_orders::model::Expected;
use weft_ledger::State;
use weft_process::report::Report;

use crate::show;

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
}

#[derive(Debug, Serialize)]
pub struct Summary {
    pub published: u64,
    pub unique: u64,
    pub duplicates_answered: u64,
    /// Invocations that ended so, over all functions.
    pub succeeded: u64,
    /// Dead letters, over all functions.
    pub dead: u64,
    pub dead_by_reason: BTreeMap<String, u64>,
    pub lost: u64,
    pub double_effects: u64,
    /// Attempts started.
    pub invocations: u64,
    pub retries: u64,
    pub crashes: u64,
    pub cold_starts: u64,
    /// Event received → handler entered, where a worker had to be started or waited for.
    pub cold_start_ms: Percentiles,
    /// Event received → handler entered, where a slot was free.
    pub warm_ms: Percentiles,
    pub peak_workers: u32,
    pub workers_at_end: u32,
    pub seconds: f64,
    /// Everything that is not as expected.
    pub differences: Vec<String>,
}

impl Summary {
    pub fn new(
        expected: &Expected,
        observed: &Observed,
        verdict: &Verdict,
        stats: &Stats,
        published: u64,
        workers_at_end: u32,
        took: Duration,
    ) -> Self {
        let snapshot = stats.snapshot();
        let sum = |field: fn(&FunctionSnapshot) -> u64| snapshot.functions.values().map(field).sum::<u64>();
        let states = observed.invocations.values().flat_map(|keys| keys.values());
        let mut dead_by_reason = BTreeMap::<String, u64>::new();
        for (reason, count) in observed.dead.values().flatten() {
            *dead_by_reason.entry(reason.clone()).or_default() += count;
        }
        Self {
            published,
            unique: expected.unique,
            duplicates_answered: sum(|function| function.duplicates),
            succeeded: states.filter(|state| **state == State::Succeeded).count() as u64,
            dead: dead_by_reason.values().sum(),
            dead_by_reason,
            lost: verdict.lost,
            double_effects: verdict.double_effects,
            invocations: sum(|function| function.attempts),
            retries: sum(|function| function.retries),
            crashes: sum(|function| function.crashes),
            cold_starts: sum(|function| function.cold_starts),
            cold_start_ms: percentiles(stats, |function| &function.cold),
            warm_ms: percentiles(stats, |function| &function.warm),
            peak_workers: stats.peak_workers(),
            workers_at_end,
            seconds: took.as_secs_f64(),
            differences: verdict.differences.clone(),
        }
    }

    /// Nothing lost, nothing twice, nothing other than expected, nobody left.
    pub fn passes(&self) -> bool {
        self.lost == 0 && self.double_effects == 0 && self.differences.is_empty() && self.workers_at_end == 0
    }

    pub fn show(&self, json: bool) -> Result<(), Report> {
        if json {
            return show::json(self);
        }
        let reasons: Vec<_> = self.dead_by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let lines = [
            format!("events in              {} ({} unique)", self.published, self.unique),
            format!("duplicates answered    {} from the ledger, without waking a worker", self.duplicates_answered),
            format!(
                "invocations succeeded  {} in {} attempts, {} retries",
                self.succeeded, self.invocations, self.retries
            ),
            format!("dead letters           {}: {}", self.dead, reasons.join(", ")),
            format!("lost                   {}", self.lost),
            format!("double effects         {}", self.double_effects),
            format!(
                "cold starts            {}, event received to handler entered: p50 {:.1} ms, p99 {:.1} ms",
                self.cold_starts, self.cold_start_ms.p50, self.cold_start_ms.p99
            ),
            format!("warm                   p50 {:.1} ms, p99 {:.1} ms", self.warm_ms.p50, self.warm_ms.p99),
            format!(
                "workers                0 at the start, {} at most, {} at the end",
                self.peak_workers, self.workers_at_end
            ),
            format!("took                   {:.1} s", self.seconds),
        ];
        show::line(&lines.join("\n"))?;
        if self.passes() {
            return show::line("every effect is as expected, and happened once");
        }
        show::line("NOT as expected:")?;
        self.differences.iter().take(20).try_for_each(|difference| show::line(&format!("  {difference}")))
    }
}

fn percentiles(stats: &Stats, which: fn(&FunctionStats) -> &Samples) -> Percentiles {
    // From 1 µs to 1 h with three figures: always within what the histogram accepts.
    let Ok(mut histogram) = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3) else {
        return Percentiles::default();
    };
    for micros in stats.functions().values().flat_map(|function| which(function).values()) {
        histogram.saturating_record(micros.max(1));
    }
    let milliseconds = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    if histogram.is_empty() {
        Percentiles::default()
    } else {
        Percentiles { p50: milliseconds(0.5), p99: milliseconds(0.99) }
    }
}
