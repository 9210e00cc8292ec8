//! What an installation has used, and what that would cost: on demand, as containers, as nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use weft_ledger::{Usage, Used};
use weft_schemas::FunctionName;

use crate::simulate::price::Prices;

/// The figures of `weft cost`. Their JSON form is stable: keys are added, never renamed.
#[derive(Debug, Clone, Serialize)]
pub struct Costs {
    /// The first hour looked at, and the moment of looking.
    pub since: Timestamp,
    pub until: Timestamp,
    /// By name; those that used nothing in this time are left out.
    pub functions: Vec<FunctionCosts>,
    pub total: Total,
    pub prices: Prices,
}

/// One function's use and costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionCosts {
    pub name: FunctionName,
    #[serde(flatten)]
    pub figures: Figures,
    /// Of one worker, averaged over its workers' time.
    pub memory_mb: f64,
    /// Attempts in an hour, over the hours from its first use on.
    pub per_hour: f64,
    /// Attempts in an hour at which on demand costs as much as one container that is always on.
    pub break_even_per_hour: f64,
    /// `on-demand` or `always-on`: which of these two is cheaper at its rate.
    pub cheaper: &'static str,
}

/// Use and costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Attempts: what is billed as requests on demand.
    pub attempts: u64,
    pub cold_starts: u64,
    /// Of all attempts.
    pub cold_share: f64,
    /// Handlers' time, each rounded up to a millisecond, times the manifest's memory.
    pub billed_gb_seconds: f64,
    /// Workers' time from launch to end.
    pub worker_seconds: f64,
    /// The same, times the manifest's memory.
    pub memory_mb_seconds: f64,
    /// By request and GB-second.
    pub on_demand_usd: f64,
    /// As containers that hold one worker each and are paid for while it lives.
    pub containers_usd: f64,
}

/// All functions together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Total {
    #[serde(flatten)]
    pub figures: Figures,
    /// Hours in which a node had use, each node's counted.
    pub node_hours: u64,
    /// These as nodes of the price list.
    pub nodes_usd: f64,
}

/// Sums rows of use up to `until`.
pub fn reckon(rows: &[Usage], since: Timestamp, until: Timestamp, prices: Prices) -> Costs {
    let mut by_function: BTreeMap<&FunctionName, (Timestamp, Used)> = BTreeMap::new();
    let mut nodes = BTreeSet::new();
    for row in rows {
        let (first, used) = by_function.entry(&row.function).or_insert((row.hour, Used::default()));
        *first = (*first).min(row.hour);
        *used = used.plus(row.used);
        nodes.insert((&row.by.node, row.hour));
    }
    let all = by_function.values().fold(Used::default(), |sum, (_, used)| sum.plus(*used));
    let functions = by_function.into_iter().map(|(name, (first, used))| of_function(name, first, used, until, &prices));
    let functions: Vec<_> = functions.collect();
    let sum = |of: fn(&Figures) -> f64| functions.iter().map(|function| of(&function.figures)).sum();
    let node_hours = u64::try_from(nodes.len()).unwrap_or(u64::MAX);
    let mut figures = figures(all, &prices);
    // Memory is billed function by function.
    figures.billed_gb_seconds = sum(|figures| figures.billed_gb_seconds);
    figures.on_demand_usd = sum(|figures| figures.on_demand_usd);
    let nodes_usd = node_hours as f64 * prices.node_hour;
    Costs { since, until, total: Total { figures, node_hours, nodes_usd }, functions, prices }
}

fn figures(used: Used, prices: &Prices) -> Figures {
    let mb = if used.billed_ms > 0 { used.billed_mb_ms as f64 / used.billed_ms as f64 } else { 0.0 };
    let billed_gb_seconds = used.billed_ms as f64 / 1_000.0 * prices.billed_gb(mb);
    let worker_seconds = used.worker_ms as f64 / 1_000.0;
    let memory_mb_seconds = used.worker_mb_ms as f64 / 1_000.0;
    Figures {
        attempts: used.attempts,
        cold_starts: used.cold_starts,
        cold_share: if used.attempts > 0 { used.cold_starts as f64 / used.attempts as f64 } else { 0.0 },
        billed_gb_seconds,
        worker_seconds,
        memory_mb_seconds,
        on_demand_usd: prices.on_demand(used.attempts, billed_gb_seconds),
        containers_usd: prices.containers(worker_seconds, memory_mb_seconds / 1_024.0),
    }
}

fn of_function(name: &FunctionName, first: Timestamp, used: Used, until: Timestamp, prices: &Prices) -> FunctionCosts {
    let figures = figures(used, prices);
    let memory_mb = if used.worker_ms > 0 { used.worker_mb_ms as f64 / used.worker_ms as f64 } else { 0.0 };
    // An hour that has just begun counts as a second at least.
    let hours = (until.as_second().saturating_sub(first.as_second()).max(1)) as f64 / 3_600.0;
    let per_hour = used.attempts as f64 / hours;
    let mean = if used.attempts > 0 { used.billed_ms as f64 / 1_000.0 / used.attempts as f64 } else { 0.0 };
    let break_even_per_hour = prices.break_even_per_hour(1.0, memory_mb, mean);
    FunctionCosts {
        name: name.clone(),
        cheaper: if per_hour <= break_even_per_hour { "on-demand" } else { "always-on" },
        figures,
        memory_mb,
        per_hour,
        break_even_per_hour,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use weft_ledger::Owner;
    use weft_schemas::NodeName;

    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 / 3_600 * 3_600 + 3_600 * hour).unwrap()
    }

    fn row(function: &str, hour: i64, node: &str, used: Used) -> Usage {
        let by = Owner { node: NodeName::new(node).unwrap(), incarnation: 1 };
        Usage { function: FunctionName::new(function).unwrap(), hour: at(hour), by, used }
    }

    fn used(attempts: u64, ms: u64, mb: u64) -> Used {
        let billed_ms = attempts * ms;
        Used {
            attempts,
            cold_starts: attempts / 10,
            billed_ms,
            billed_mb_ms: billed_ms * mb,
            worker_ms: 3_600_000,
            worker_mb_ms: 3_600_000 * mb,
        }
    }

    #[test]
    fn use_is_summed_by_function_and_priced() {
        let rows = [
            row("big", 0, "n1", used(1_000, 500, 512)),
            row("big", 1, "n1", used(1_000, 500, 512)),
            row("big", 1, "n2", used(1_000, 500, 512)),
            row("small", 1, "n1", used(10, 100, 64)),
        ];
        let costs = reckon(&rows, at(0), at(2), Prices::default());
        let [big, small] = costs.functions.as_slice() else { panic!("{costs:?}") };
        assert_eq!((big.name.as_str(), small.name.as_str()), ("big", "small"));
        assert_eq!((big.figures.attempts, big.figures.cold_starts, big.figures.cold_share), (3_000, 300, 0.1));
        // 3,000 times half a second of half a GB.
        assert_eq!((big.figures.billed_gb_seconds, big.figures.worker_seconds), (750.0, 10_800.0));
        assert_eq!((big.figures.memory_mb_seconds, big.memory_mb), (10_800.0 * 512.0, 512.0));
        let on_demand = 3_000.0 * 0.20 / 1e6 + 750.0 * 0.000_016_666_7;
        assert!((big.figures.on_demand_usd - on_demand).abs() < 1e-12);
        let container_hour = 0.25 * 0.040_48 + 0.5 * 0.004_445;
        assert!((big.figures.containers_usd - 3.0 * container_hour).abs() < 1e-12);
        assert_eq!(big.per_hour, 1_500.0);
        assert!((big.break_even_per_hour - container_hour / (on_demand / 3_000.0)).abs() < 1e-6);
        // The least that is billed is 128 MB, and 128 MB are an eighth of a GB.
        assert_eq!(small.figures.billed_gb_seconds, 1.0 * 0.125);
        // It was first used an hour ago.
        assert_eq!(small.per_hour, 10.0);
        assert_eq!(small.cheaper, "on-demand");
        let total = &costs.total;
        assert_eq!((total.figures.attempts, total.figures.billed_gb_seconds), (3_010, 750.125));
        assert!((total.figures.on_demand_usd - on_demand - small.figures.on_demand_usd).abs() < 1e-12);
        // Two nodes in the second hour, one in the first.
        assert_eq!((total.node_hours, total.nodes_usd), (3, 3.0 * 0.096));
    }

    #[test]
    fn a_function_beyond_its_break_even_rate_is_cheaper_always_on() {
        let busy = reckon(&[row("f", 0, "n", used(100_000, 1_000, 1_024))], at(0), at(1), Prices::default());
        assert_eq!(busy.functions[0].cheaper, "always-on");
        assert!(busy.functions[0].break_even_per_hour < 1_000.0, "{busy:?}");
    }

    #[test]
    fn no_use_costs_nothing() {
        let none = reckon(&[], at(0), at(5), Prices::default());
        assert_eq!((none.functions.len(), none.total.node_hours, none.total.figures.on_demand_usd), (0, 0, 0.0));
        let json = serde_json::to_value(&none).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["functions", "prices", "since", "total", "until"]);
    }

    #[test]
    fn the_json_has_the_keys_that_programs_read() {
        let one = reckon(&[row("f", 0, "n", used(10, 10, 128))], at(0), at(1), Prices::default());
        let json = serde_json::to_value(&one.functions[0]).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "attempts",
                "billed_gb_seconds",
                "break_even_per_hour",
                "cheaper",
                "cold_share",
                "cold_starts",
                "containers_usd",
                "memory_mb",
                "memory_mb_seconds",
                "name",
                "on_demand_usd",
                "per_hour",
                "worker_seconds",
            ]
        );
    }
}
