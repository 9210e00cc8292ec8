//! What a function's loop remembers between two scaling decisions: how fast events arrive, how long one takes, how long
//! a worker takes to start. Estimates of a few numbers each, cheap enough to be fed by every batch.

use std::time::{Duration, Instant};

/// Over which time the arrival rate is an average.
const WINDOW: Duration = Duration::from_secs(30);
/// The weight of a new sample in an average of durations.
const WEIGHT: f64 = 0.1;

/// The estimates. Empty at first: each says `None` until it has seen something, which is not the same as zero.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    arrivals: Option<Arrivals>,
    service_s: Option<f64>,
    init_s: Option<f64>,
}

/// An average that forgets exponentially. `count` is what of the arrivals is still remembered at `at`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Arrivals {
    first: Instant,
    at: Instant,
    count: f64,
}

impl Memory {
    /// Events have come. Moments that go back count as the last one.
    pub fn arrived(&mut self, now: Instant, events: u32) {
        let arrivals = self.arrivals.get_or_insert(Arrivals { first: now, at: now, count: 0.0 });
        arrivals.count = arrivals.count * faded(now.saturating_duration_since(arrivals.at)) + f64::from(events);
        arrivals.at = arrivals.at.max(now);
    }

    /// A handler was busy with one event for so long.
    pub fn served(&mut self, took: Duration) {
        self.service_s = Some(average(self.service_s, took));
    }

    /// A worker was ready so long after its start began.
    pub fn started(&mut self, took: Duration) {
        self.init_s = Some(average(self.init_s, took));
    }

    /// Events a second over the last half minute, or since the first one if that is shorter (at least a second). `None`
    /// before the first event.
    pub fn arrivals_per_s(&self, now: Instant) -> Option<f64> {
        let arrivals = self.arrivals?;
        let since_first = now.saturating_duration_since(arrivals.first).max(Duration::from_secs(1));
        // What a steady stream that began then would have left by now.
        let full = WINDOW.as_secs_f64() * (1.0 - faded(since_first));
        Some(arrivals.count * faded(now.saturating_duration_since(arrivals.at)) / full)
    }

    /// How long a handler is busy with one event, on average. `None` before the first answer.
    pub fn service(&self) -> Option<Duration> {
        self.service_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// How long a worker takes to start, on average. `None` before the first.
    pub fn init(&self) -> Option<Duration> {
        self.init_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}

fn faded(since: Duration) -> f64 {
    (-since.as_secs_f64() / WINDOW.as_secs_f64()).exp()
}

fn average(before: Option<f64>, sample: Duration) -> f64 {
    let sample = sample.as_secs_f64();
    before.map_or(sample, |before| before + WEIGHT * (sample - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<f64>, wanted: f64) -> bool {
        found.is_some_and(|found| (found - wanted).abs() <= wanted * 0.05)
    }

    #[test]
    fn nothing_seen_is_no_estimate() {
        let memory = Memory::default();
        assert_eq!(memory.arrivals_per_s(Instant::now()), None);
        assert_eq!((memory.service(), memory.init()), (None, None));
    }

    #[test]
    fn a_steady_stream_has_its_rate_from_the_first_seconds_on() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        for second in 0..300u64 {
            let now = start + Duration::from_secs(second);
            memory.arrived(now, 20);
            if second >= 30 {
                let found = memory.arrivals_per_s(now + Duration::from_millis(500));
                assert!(near(found, 20.0), "after {second} s: {found:?}");
            }
        }
    }

    #[test]
    fn a_stream_that_ended_is_forgotten() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        for second in 0..60u64 {
            memory.arrived(start + Duration::from_secs(second), 20);
        }
        let found = memory.arrivals_per_s(start + Duration::from_secs(60 + 300)).unwrap_or(f64::MAX);
        assert!(found < 0.01, "{found}");
    }

    #[test]
    fn durations_are_averaged_with_the_newer_ones_weighing_more() {
        let mut memory = Memory::default();
        memory.served(Duration::from_secs(10));
        for _ in 0..100 {
            memory.served(Duration::from_secs(1));
        }
        let service = memory.service().unwrap_or_default();
        assert!(service > Duration::from_secs(1) && service < Duration::from_millis(1_010), "{service:?}");
    }
}
