//! Timetables of one function, and properties of any history.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn min(minutes: u64) -> Duration {
    s(60 * minutes)
}

/// Runs one invocation after each pause; every one takes a second. The end is when the last one ends.
fn after_pauses(pauses: &[Duration]) -> (Adaptive, Duration) {
    let mut adaptive = Adaptive::new(min(10));
    let mut now = Duration::ZERO;
    adaptive.needs(now, 1);
    now += s(1);
    adaptive.needs(now, 0);
    for &pause in pauses {
        now += pause;
        adaptive.needs(now, 1);
        now += s(1);
        adaptive.needs(now, 0);
    }
    (adaptive, now)
}

/// The plan's changes from `from` on: (seconds after it, workers).
fn timetable(adaptive: &Adaptive, from: Duration) -> Vec<(u64, u32)> {
    let mut plan = adaptive.plan(from);
    let mut table = vec![(0, plan.workers)];
    while let Some(at) = plan.until {
        plan = adaptive.plan(at);
        table.push(((at - from).as_secs(), plan.workers));
    }
    table
}

#[test]
fn a_function_that_never_ran_keeps_nothing_warm() {
    let plan = Adaptive::new(min(10)).plan(s(5));
    assert_eq!(plan, Plan { workers: 0, until: None, pattern: Pattern::Learning });
}

#[test]
fn the_standard_keep_alive_holds_until_enough_is_seen() {
    for pauses in 0..Adaptive::LEAST_SEEN {
        let (adaptive, end) = after_pauses(&vec![min(15); pauses as usize]);
        assert_eq!(adaptive.plan(end).pattern, Pattern::Learning);
        assert_eq!(timetable(&adaptive, end), [(0, 1), (600, 0)], "after {pauses} pauses");
    }
}

#[test]
fn a_function_that_comes_every_quarter_of_an_hour_is_stopped_and_started_before_it_comes() {
    let (adaptive, end) = after_pauses(&[min(15); 6]);
    assert_eq!(adaptive.plan(end).pattern, Pattern::Histogram);
    // 900 s lie in the bin from 884.736 s to 917.504 s: less a tenth, and a tenth more.
    assert_eq!(timetable(&adaptive, end), [(0, 0), (796, 1), (1_009, 0)]);
}

#[test]
fn short_pauses_are_not_worth_a_stop() {
    let (adaptive, end) = after_pauses(&[s(60); 20]);
    // A minute lies in the bin from 59.392 s to 61.440 s, and is worth a stop.
    assert_eq!(timetable(&adaptive, end), [(0, 0), (53, 1), (67, 0)]);
    // Five seconds are not, and the least is kept.
    let (adaptive, end) = after_pauses(&[s(5); 20]);
    assert_eq!(timetable(&adaptive, end), [(0, 1), (60, 0)]);
}

#[test]
fn the_tail_is_kept_and_the_rarest_pauses_are_not() {
    let mut pauses = vec![min(2); 300];
    // One of each in the bin that ends at 3,670.016 s and beyond; the 99th percentile is three minutes.
    pauses[7..10].fill(min(3));
    pauses[10..12].fill(min(60));
    let (adaptive, end) = after_pauses(&pauses);
    // From the bin of two minutes, which starts at 118.784 s, to the end of that of three, 180.224 s.
    assert_eq!(timetable(&adaptive, end), [(0, 0), (106, 1), (198, 0)]);
}

#[test]
fn evenly_spread_pauses_foretell_nothing() {
    // As many in every bin from one second to two hours, which are most of them.
    let pauses: Vec<_> = (0..2_000).map(|n| s(1).mul_f64(7_200_f64.powf(f64::from(n % 500) / 500.0))).collect();
    let (adaptive, end) = after_pauses(&pauses);
    assert_eq!(adaptive.plan(end).pattern, Pattern::Spread);
    assert_eq!(timetable(&adaptive, end), [(0, 1), (600, 0)]);
}

#[test]
fn pauses_beyond_the_range_are_foretold_when_they_agree() {
    let (adaptive, end) = after_pauses(&[min(1_440), min(1_400), min(1_460), min(1_440)]);
    assert_eq!(adaptive.plan(end).pattern, Pattern::Forecast);
    assert_eq!(timetable(&adaptive, end), [(0, 0), (1_440 * 51, 1), (1_440 * 69, 0)]);
    let (adaptive, end) = after_pauses(&[min(1_440), min(300), min(900), min(1_440)]);
    assert_eq!(adaptive.plan(end).pattern, Pattern::Rare);
    assert_eq!(timetable(&adaptive, end), [(0, 1), (600, 0)]);
}

#[test]
fn a_new_rhythm_replaces_the_old_one() {
    let mut pauses = vec![min(30); 500];
    pauses.extend(vec![min(2); 40_000]);
    let (adaptive, end) = after_pauses(&pauses);
    let table = timetable(&adaptive, end);
    assert!(table[0] == (0, 0) && table[1].0 < 120 && table[2].0 < 180, "{table:?}");
}

#[test]
fn each_worker_of_a_pool_has_a_pause_of_its_own() {
    let mut adaptive = Adaptive::new(min(10));
    let mut now = Duration::ZERO;
    // Two workers are needed all the time, a third one for a second of every five minutes.
    for _ in 0..10 {
        adaptive.needs(now, 3);
        adaptive.needs(now + s(1), 2);
        now += min(5);
    }
    let fell = now - min(5) + s(1);
    assert_eq!(adaptive.plan(fell).workers, 2);
    assert_eq!(adaptive.plan(fell + s(270)).workers, 3, "the third is started before it is needed");
    adaptive.needs(now, 0);
    let plan = adaptive.plan(now);
    assert_eq!((plan.workers, plan.pattern), (2 + 1, Pattern::Learning), "the first two have never paused");
}

#[test]
fn bins_follow_each_other_without_a_gap() {
    for bin_ in 0..BINS {
        let (first, next) = (lower(bin_), lower(bin_ + 1));
        assert!(first < next);
        assert_eq!(bin(Duration::from_millis(first)), bin_);
        assert_eq!(bin(Duration::from_millis(next - 1)), bin_);
        assert!(next - first == 1 || (next - first) * SUB <= first, "bin {bin_} is wider than a sixteenth");
    }
    assert!(bin(Adaptive::RANGE) < BINS);
    assert!(bin(Duration::MAX) >= BINS);
}

fn history() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let gap = prop_oneof![0..50_u64, 1_000..60_000_u64, 60_000..900_000_u64, 10_000_000..20_000_000_u64];
    prop::collection::vec((gap, 0..6_u32), 1..200)
}

proptest! {
    #[test]
    fn a_plan_never_falls_below_the_need_and_always_ends(history in history()) {
        let mut adaptive = Adaptive::new(min(10));
        let (mut now, mut peak) = (Duration::ZERO, 0);
        for (gap, workers) in history {
            now += Duration::from_millis(gap);
            adaptive.needs(now, workers);
            peak = peak.max(workers);
            let (mut plan, mut at) = (adaptive.plan(now), now);
            prop_assert!(plan.workers >= workers && plan.workers <= peak);
            let mut changes = 0;
            while let Some(until) = plan.until {
                prop_assert!(until > at, "no time passes");
                let before = adaptive.plan(until - Duration::from_nanos(1));
                prop_assert_eq!(before.workers, plan.workers, "it changed earlier than said");
                (at, plan) = (until, adaptive.plan(until));
                prop_assert!(plan.workers >= workers && plan.workers <= peak);
                changes += 1;
                prop_assert!(changes <= 2 * peak, "it does not end");
            }
            prop_assert_eq!(plan.workers, workers, "in the end only what is needed is alive");
        }
    }

    #[test]
    fn the_same_need_again_changes_nothing(history in history()) {
        let (mut once, mut twice) = (Adaptive::new(min(10)), Adaptive::new(min(10)));
        let mut now = Duration::ZERO;
        for (gap, workers) in history {
            now += Duration::from_millis(gap);
            once.needs(now, workers);
            twice.needs(now, workers);
            twice.needs(now + Duration::from_millis(gap / 2), workers);
            prop_assert_eq!(once.plan(now), twice.plan(now));
        }
    }

    #[test]
    fn what_it_holds_is_bounded(workers in prop::collection::vec(1..u32::MAX, 1..50), gap in 0..20_000_000_u64) {
        let mut adaptive = Adaptive::new(min(10));
        for (n, &workers) in (0..).zip(&workers) {
            adaptive.needs(Duration::from_millis(gap * n), workers);
            adaptive.needs(Duration::from_millis(gap * n), 0);
        }
        prop_assert!(adaptive.since.len() <= 1_000 && adaptive.groups.len() <= 11);
        prop_assert!(adaptive.groups.iter().all(|group| group.inside + group.outside < FULL && group.long.len() <= LONG));
    }
}
