//! Small traces by hand, and what must hold of any.

use proptest::prelude::*;

use super::super::engine;
use super::*;

fn near(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() < 1e-6
}

#[test]
fn one_worker_by_hand() {
    let trace = trace_of(vec![function("f", 1_000, at(60, &[0, 5, 30]))]);
    let setup = Setup { cold_start: s(0.5), ..Setup::default() };
    let figures = replay(&trace, &setup, &["fixed:10m", "fixed:1h", "fixed:1m", "provisioned:1", "always-on"]);
    // The first worker starts with the first event, ends the second one 301 s later, and stays for 600 s. The second one
    // starts half a second before its only event, which takes a second, and stays as long.
    let ten = &figures[0];
    assert_eq!((ten.cold_starts, ten.peak_workers, ten.throttles), (2, 1, 0));
    assert!(near(ten.worker_seconds, 901.0 + 601.5), "{}", ten.worker_seconds);
    assert!(near(ten.memory_mb_seconds, 100.0 * (901.0 + 601.5)));
    assert_eq!(figures[1].cold_starts, 1);
    assert_eq!(figures[2].cold_starts, 3);
    assert!(near(figures[2].worker_seconds, 3.0 * 61.5), "{}", figures[2].worker_seconds);
    for warm in &figures[3..] {
        assert_eq!((warm.cold_starts, warm.peak_workers), (0, 1), "{}", warm.name);
        assert!(near(warm.worker_seconds, 3_600.0), "{}", warm.name);
    }
}

#[test]
fn workers_count_only_within_the_replayed_minutes() {
    let trace = trace_of(vec![function("f", 30_000, at(60, &[0, 59]))]);
    let figures = replay(&trace, &Setup::default(), &["fixed:1h"]);
    let phase = Stream::new(&trace.functions[0], 0, Arrivals::Even, 1, (0, 60)).next().unwrap().at;
    assert!(near(figures[0].worker_seconds, 3_600.0 - phase.as_secs_f64()));
    let setup = Setup { from: 1, minutes: Some(30), ..Setup::default() };
    assert_eq!(replay(&trace, &setup, &["fixed:1h"])[0].invocations, 0);
    let setup = Setup { from: 30, ..Setup::default() };
    assert_eq!(replay(&trace, &setup, &["fixed:1h"])[0].invocations, 1);
}

#[test]
fn what_overlaps_needs_a_worker_more_unless_slots_are_shared() {
    // Events every 20 s that last 30 s: two at once.
    let trace = trace_of(vec![function("f", 30_000, vec![3, 0, 0])]);
    let one = &replay(&trace, &Setup::default(), &["fixed:10m"])[0];
    assert_eq!((one.cold_starts, one.peak_workers), (2, 2));
    let shared = Setup { slots: n(2), ..Setup::default() };
    let one = &replay(&trace, &shared, &["fixed:10m"])[0];
    assert_eq!((one.cold_starts, one.peak_workers), (1, 1));
}

#[test]
fn what_waits_for_one_start_starts_cold_together() {
    let trace = trace_of(vec![function("f", 1_000, vec![3, 0])]);
    let slow = Setup { slots: n(3), cold_start: s(50.0), ..Setup::default() };
    assert_eq!(replay(&trace, &slow, &["fixed:10m"])[0].cold_starts, 3);
}

#[test]
fn a_cap_throttles_and_loses_nothing() {
    let trace = trace_of(vec![function("f", 30_000, vec![3, 0, 0])]);
    let setup = Setup { reserved: Some(n(1)), ..Setup::default() };
    let one = &replay(&trace, &setup, &["fixed:10m"])[0];
    assert_eq!((one.throttles, one.peak_workers, one.cold_starts, one.invocations), (2, 1, 1, 3));
}

#[test]
fn a_full_node_takes_its_idle_workers_back() {
    let trace = trace_of(vec![function("a", 1_000, at(30, &[0, 2, 4])), function("b", 1_000, at(30, &[1, 3, 5]))]);
    let wide = replay(&trace, &Setup::default(), &["fixed:1h"]);
    assert_eq!((wide[0].cold_starts, wide[0].peak_workers), (2, 2));
    let narrow = Setup { node_workers: Some(n(1)), ..Setup::default() };
    let narrow = replay(&trace, &narrow, &["fixed:1h"]);
    assert_eq!((narrow[0].cold_starts, narrow[0].peak_workers, narrow[0].throttles), (6, 1, 0));
}

#[test]
fn adaptive_starts_before_a_timer_comes_and_stops_after_it() {
    let quarters: Vec<_> = (0..32).map(|nth| 15 * nth).collect();
    let trace = trace_of(vec![function("f", 1_000, at(480, &quarters))]);
    let figures = replay(&trace, &Setup::default(), &["fixed:10m", "fixed:20m", "adaptive"]);
    assert_eq!(figures[0].cold_starts, 32);
    assert_eq!(figures[1].cold_starts, 1);
    // The first event, and the two after which it is learning.
    assert_eq!(figures[2].cold_starts, 3);
    assert!(figures[2].memory_mb_seconds < 0.25 * figures[1].memory_mb_seconds);
    assert!(figures[2].memory_mb_seconds < 0.40 * figures[0].memory_mb_seconds);
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let trace = sample::trace();
    let setup = |seed| Setup { seed, arrivals: Arrivals::Uniform, minutes: Some(60), ..Setup::default() };
    let json = |seed| serde_json::to_string(&simulate(&trace, &setup(seed), &Policy::usual(), &|| ())).unwrap();
    assert_eq!(json(7), json(7));
    assert_ne!(json(7), json(8));
}

fn any_function() -> impl Strategy<Value = TraceFunction> {
    let counts = prop::collection::vec(prop_oneof![3 => Just(0_u32), 2 => 0..4_u32, 1 => 0..30_u32], 25);
    (1..100_000_u32, counts).prop_map(|(ms, counts)| function("f", ms, counts))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        (0..2_000_u64).prop_map(|seconds| Policy::Fixed(Duration::from_secs(seconds))),
        Just(Policy::Adaptive),
        (1..4_u32).prop_map(Policy::Provisioned),
        Just(Policy::AlwaysOn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_event_ends_within_the_bounds(
        functions in prop::collection::vec(any_function(), 1..4),
        policy in any_policy(),
        slots in 1..4_u32,
        reserved in prop::option::of(1..4_u32),
        node in prop::option::of(1..5_u32),
        cold_ms in 0..5_000_u64,
        seed in any::<u64>(),
    ) {
        let trace = trace_of(functions);
        let setup = Setup {
            slots: n(slots),
            reserved: reserved.map(n),
            node_workers: node.map(n),
            cold_start: Duration::from_millis(cold_ms),
            arrivals: Arrivals::Uniform,
            seed,
            ..Setup::default()
        };
        let run = engine::run(&trace, &setup, &policy);
        // What is kept whatever comes may hold all room of a node for ever: then the others wait.
        let greedy = node.is_some() && matches!(policy, Policy::Provisioned(_) | Policy::AlwaysOn);
        if !greedy {
            prop_assert_eq!(run.unfinished, 0);
        }
        for (function, run) in trace.functions.iter().zip(&run.functions) {
            let events: u64 = function.counts.iter().map(|&count| u64::from(count)).sum();
            prop_assert_eq!(run.invocations, events);
            prop_assert!(run.cold_starts <= events && run.throttles <= events);
            prop_assert!(reserved.is_none_or(|reserved| run.peak_workers <= reserved));
            prop_assert!(run.worker_time <= Duration::from_secs(25 * 60) * run.peak_workers);
            if policy == Policy::AlwaysOn && reserved.is_none() && node.is_none() {
                prop_assert_eq!((run.cold_starts, run.throttles), (0, 0));
            }
        }
        prop_assert!(node.is_none_or(|node| run.peak_workers <= node));
    }
}
