//! The same counts, reached another way.

use proptest::prelude::*;

use super::*;

/// Cold starts under a fixed keep-alive when starting takes no time: an event is warm if a worker is free and has been for
/// less than that. Of several the newest takes it.
fn cold_starts(stream: Stream<'_>, keep: Duration) -> usize {
    let mut free_at: Vec<Duration> = Vec::new();
    for Arrival { at, lasts } in stream {
        let warm = free_at.iter_mut().rev().find(|free| **free <= at && at - **free < keep);
        match warm {
            Some(free) => *free = at + lasts,
            None => free_at.push(at + lasts),
        }
    }
    free_at.len()
}

/// Cold starts by the minutes alone, where no minute has two events and none lasts: after a gap longer than the keep-alive.
fn cold_by_minutes(counts: &[u32], minutes: usize) -> usize {
    let busy: Vec<_> = (0..counts.len()).filter(|&minute| counts[minute] > 0).collect();
    busy.first().into_iter().count() + busy.windows(2).filter(|pair| pair[1] - pair[0] > minutes).count()
}

#[test]
fn fixed_policies_agree_with_an_independent_count() {
    let trace = sample::trace();
    let setup = Setup { cold_start: Duration::ZERO, ..Setup::default() };
    for minutes in [1, 5, 10, 20, 60] {
        let policy = format!("fixed:{minutes}m");
        let figures = &replay(&trace, &setup, &[&policy])[0];
        let mut shares = Vec::new();
        let mut all = 0;
        for (nth, function) in trace.functions.iter().enumerate() {
            let stream = Stream::new(function, nth, setup.arrivals, setup.seed, (0, trace.minutes));
            let cold = cold_starts(stream, Duration::from_secs(60 * minutes));
            let events: u32 = function.counts.iter().sum();
            shares.push(cold as f64 / f64::from(events));
            all += cold;
            if function.counts.iter().all(|&count| count <= 1) && function.durations.at(1.0) <= s(1.0) {
                assert_eq!(
                    cold,
                    cold_by_minutes(&function.counts, usize::try_from(minutes).unwrap()),
                    "{}",
                    function.name
                );
            }
        }
        shares.sort_by(f64::total_cmp);
        assert_eq!(figures.cold_starts, all as u64, "{policy}");
        // 100 functions: the middle is between the 50th and the 51st, the 75th percentile a quarter past the 75th.
        assert_eq!(shares.len(), 100);
        assert!((figures.cold_share_median - (shares[49] + shares[50]) / 2.0).abs() < 1e-12, "{policy}");
        let p75 = shares[74] + (shares[75] - shares[74]) * 0.25;
        assert!((figures.cold_share_p75 - p75).abs() < 1e-12, "{policy}");
    }
}

#[test]
fn adaptive_beats_ten_minutes_on_a_trace_of_the_published_kind() {
    let trace = sample::trace();
    for arrivals in [Arrivals::Even, Arrivals::Uniform] {
        let setup = Setup { arrivals, ..Setup::default() };
        let figures = replay(&trace, &setup, &["fixed:10m", "adaptive"]);
        let (fixed, adaptive) = (&figures[0], &figures[1]);
        let shown = format!("{arrivals:?}: {fixed:?} {adaptive:?}");
        assert!(adaptive.cold_share_p75 < fixed.cold_share_p75, "{shown}");
        assert!(adaptive.cold_share_median < fixed.cold_share_median, "{shown}");
        assert!(adaptive.cold_starts < fixed.cold_starts, "{shown}");
        assert!(adaptive.memory_mb_seconds < fixed.memory_mb_seconds, "{shown}");
    }
}

#[test]
fn durations_follow_their_percentiles() {
    let spread = Durations::new(vec![(0.0, 0.0), (0.25, 10.0), (0.75, 1_000.0), (1.0, 1_000.0)]).unwrap();
    for (part, ms) in [(0.0, 1), (0.25, 10), (0.5, 100), (0.75, 1_000), (0.9, 1_000), (1.0, 1_000)] {
        assert_eq!(spread.at(part), Duration::from_millis(ms), "{part}");
    }
    assert_eq!(Durations::new(vec![(0.0, 5.0), (0.5, 4.0)]), None);
    assert_eq!(Durations::new(Vec::new()), None);
}

proptest! {
    #[test]
    fn as_many_arrive_in_each_minute_as_the_trace_counts(
        counts in prop::collection::vec(0..20_u32, 1..30),
        seed in any::<u64>(),
        nth in 0..5_usize,
        even in any::<bool>(),
    ) {
        let arrivals = if even { Arrivals::Even } else { Arrivals::Uniform };
        let function = function("f", 10, counts.clone());
        let found: Vec<_> = Stream::new(&function, nth, arrivals, seed, (0, counts.len())).map(|one| one.at).collect();
        prop_assert!(found.is_sorted());
        let mut per_minute = vec![0; counts.len()];
        for at in &found {
            per_minute[usize::try_from(at.as_secs() / 60).unwrap()] += 1;
        }
        prop_assert_eq!(per_minute, counts);
    }

    #[test]
    fn what_comes_once_in_some_minutes_comes_as_a_timer_does(every in 1..30_usize, seed in any::<u64>()) {
        let counts = (0..120).map(|minute| u32::from(minute % every == 0)).collect();
        let function = function("f", 10, counts);
        let found: Vec<_> = Stream::new(&function, 0, Arrivals::Even, seed, (0, 120)).map(|one| one.at).collect();
        for pair in found.windows(2) {
            prop_assert_eq!(pair[1] - pair[0], Duration::from_secs(60) * u32::try_from(every).unwrap());
        }
    }
}
