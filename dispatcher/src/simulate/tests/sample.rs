//! A made trace of 100 functions over eight hours with the traits of the published ones: most functions come seldom, many
//! are timers, some come at random, a few in bursts, and very few make most of the events.

use super::*;

const MINUTES: u32 = 480;

pub(super) fn trace() -> Trace {
    let mut random = fastrand::Rng::with_seed(20);
    let mut functions = Vec::new();
    let mut add = |counts: Vec<u32>, random: &mut fastrand::Rng| {
        // Skewed, as measured durations are: a median of some 10 ms to 3 s and a tail of ten times that.
        let median = 10.0 * 300_f64.powf(random.f64());
        let spread =
            vec![(0.0, median / 4.0), (0.25, median / 2.0), (0.5, median), (0.75, median * 1.5), (1.0, median * 10.0)];
        functions.push(TraceFunction {
            name: format!("made-{}", functions.len()),
            counts,
            durations: Durations::new(spread).unwrap(),
            memory_mb: 10.0 * 20_f64.powf(random.f64()),
        });
    };
    // Seldom: one to five times in eight hours.
    for times in [1; 13].into_iter().chain([2; 5]).chain([3, 3, 4, 4, 5, 5]) {
        let busy: Vec<_> = (0..times).map(|_| random.usize(0..480)).collect();
        let mut counts = vec![0; 480];
        busy.into_iter().for_each(|minute| counts[minute] += 1);
        add(counts, &mut random);
    }
    // Timers, by the minutes between.
    for every in [60; 5]
        .into_iter()
        .chain([30; 3])
        .chain([20; 2])
        .chain([15; 8])
        .chain([10; 3])
        .chain([5; 12])
        .chain([3, 2, 2])
        .chain([1; 8])
    {
        let first = random.u32(0..every);
        add((0..MINUTES).map(|minute| u32::from(minute % every == first)).collect(), &mut random);
    }
    // At random, by the events in an hour.
    for hourly in [1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 14, 15, 20, 30, 40, 60, 80, 120] {
        let mut counts = vec![0; 480];
        (0..hourly * 8).for_each(|_| counts[random.usize(0..480)] += 1);
        add(counts, &mut random);
    }
    // Bursts: one, some, and one every ten minutes.
    for (minutes, most) in [(1, 44), (2, 12), (5, 16), (12, 30), (30, 20), (48, 36)] {
        let mut counts = vec![0; 480];
        (0..minutes).for_each(|nth| counts[480 / minutes * nth] = random.u32(1..=most));
        add(counts, &mut random);
    }
    // All the time, up to once a second.
    for per_minute in [2, 6, 12, 15, 60] {
        add((0..MINUTES).map(|_| random.u32(0..=2 * per_minute)).collect(), &mut random);
    }
    for _ in 0..3 {
        let mut counts = vec![0; 480];
        counts[random.usize(0..480)] = 2;
        add(counts, &mut random);
    }
    trace_of(functions)
}
