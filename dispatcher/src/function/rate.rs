//! `rate`: how many attempts may start in a time. A generic cell rate algorithm (ITU-T I.371), which is a token bucket
//! that keeps one moment instead of a count; the loop waits for the next start by a timer.
//!
//! Starts are what counts: a claim, or a wait for a worker, takes nothing. A retry is a start like any other. Each
//! dispatcher keeps its own, so that with several of them a function's starts add up.

use std::time::{Duration, Instant};

use weft_schemas::manifest::Rate;

use super::core::{Core, Now};
use super::timer::{Timer, What};

/// As many starts as fall due in this time may come at once: what had to wait a little for a slot is caught up with.
const BURST: Duration = Duration::from_millis(100);
/// The loop is not woken more often than this for a start; at a rate beyond it several are due by then.
const WAKE: Duration = Duration::from_millis(1);

/// The pure part: in any time T at most `burst + T / interval` starts are admitted, and one every `interval` for as long
/// as they are asked for.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    interval: Duration,
    /// Starts at once, at most; at least 1.
    burst: u32,
    /// When the next start would be due if they came evenly; `None` before the first.
    due: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = rate.interval().max(Duration::from_nanos(1));
        let burst = u32::try_from(BURST.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX).max(1);
        Self { interval, burst, due: None }
    }

    /// How far ahead of its even time a start may be.
    fn tolerance(&self) -> Duration {
        self.interval * (self.burst - 1)
    }

    /// How many starts are admitted now.
    pub(super) fn admits(&self, now: Instant) -> u32 {
        let ahead = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        match self.tolerance().checked_sub(ahead) {
            Some(room) => u32::try_from(room.as_nanos() / self.interval.as_nanos()).unwrap_or(u32::MAX) + 1,
            None => 0,
        }
    }

    /// Counts a start.
    pub(super) fn take(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + self.interval);
    }

    /// When a start is admitted again. Not in the past.
    pub(super) fn again(&self, now: Instant) -> Instant {
        self.due.and_then(|due| due.checked_sub(self.tolerance())).map_or(now, |at| at.max(now))
    }
}

/// A function's rate in its loop.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    bucket: Bucket,
    /// The timer that is set for the next start.
    timer: Option<Instant>,
}

impl Pace {
    pub(super) fn of(rate: Option<Rate>) -> Option<Self> {
        rate.map(|rate| Self { bucket: Bucket::new(rate), timer: None })
    }
}

impl Core {
    /// How many attempts the rate lets start now.
    pub(super) fn paced(&self, now: Now) -> u32 {
        self.pace.as_ref().map_or(u32::MAX, |pace| pace.bucket.admits(now.mono))
    }

    /// An attempt starts.
    pub(super) fn count_start(&mut self, now: Now) {
        if let Some(pace) = &mut self.pace {
            pace.bucket.take(now.mono);
        }
    }

    /// Something waits for the rate: looks again when the next start is due.
    pub(super) fn wait_for_pace(&mut self, now: Now) {
        let Some(pace) = &mut self.pace else { return };
        if pace.timer.is_some_and(|at| at > now.mono) {
            return;
        }
        let at = pace.bucket.again(now.mono).max(now.mono + WAKE);
        pace.timer = Some(at);
        self.timers.push(Timer::new(at, What::Pace));
    }
}

/// How many events a function with a rate takes from the broker at most: what it can start in the time that an attempt
/// may take and ten seconds. Beyond that they would only be kept from other dispatchers.
pub(crate) fn prefetch(rate: Rate, timeout: Duration) -> u32 {
    let time = timeout + Duration::from_secs(10);
    u32::try_from(time.as_nanos() / rate.interval().as_nanos().max(1)).unwrap_or(u32::MAX).max(2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn bucket(rate: &str) -> Bucket {
        Bucket::new(Rate::parse(rate).unwrap())
    }

    /// Takes all that is admitted, and says how many that was.
    fn drain(bucket: &mut Bucket, now: Instant) -> u32 {
        let mut taken = 0;
        while bucket.admits(now) > 0 {
            bucket.take(now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_slow_rate_starts_one_at_a_time() {
        let (mut bucket, t0) = (bucket("10/m"), Instant::now());
        assert_eq!(drain(&mut bucket, t0), 1);
        assert_eq!(drain(&mut bucket, t0 + Duration::from_millis(5_999)), 0);
        assert_eq!(bucket.again(t0), t0 + Duration::from_secs(6));
        assert_eq!(drain(&mut bucket, t0 + Duration::from_secs(6)), 1);
        // Nothing is saved up.
        assert_eq!(drain(&mut bucket, t0 + Duration::from_secs(3600)), 1);
    }

    #[test]
    fn a_fast_rate_starts_what_falls_due_in_a_tenth_of_a_second_at_once() {
        let (mut bucket, t0) = (bucket("100/s"), Instant::now());
        assert_eq!(drain(&mut bucket, t0), 10);
        assert_eq!(drain(&mut bucket, t0 + Duration::from_millis(10)), 1);
        assert_eq!(drain(&mut bucket, t0 + Duration::from_millis(65)), 5);
        assert_eq!(drain(&mut bucket, t0 + Duration::from_secs(9)), 10);
    }

    #[test]
    fn what_is_admitted_is_told_beforehand() {
        let (mut bucket, t0) = (bucket("100/s"), Instant::now());
        for left in (1..=10).rev() {
            assert_eq!(bucket.admits(t0), left);
            bucket.take(t0);
        }
        assert_eq!(bucket.admits(t0), 0);
    }

    #[test]
    fn no_more_is_taken_from_the_broker_than_can_be_started_soon() {
        let prefetch = |rate, seconds| prefetch(Rate::parse(rate).unwrap(), Duration::from_secs(seconds));
        assert_eq!(prefetch("10/m", 30), 6);
        assert_eq!(prefetch("100/s", 30), 4_000);
        assert_eq!(prefetch("1/h", 30), 2);
    }

    proptest! {
        #[test]
        fn no_window_has_more_starts_than_burst_and_rate_allow(
            starts in 1_u32..=2000,
            asks in prop::collection::vec((0_u64..400_000, 1_u32..40), 1..200),
        ) {
            let rate = Rate { starts, per: Duration::from_secs(1) };
            let mut bucket = Bucket::new(rate);
            let mut now = Instant::now();
            let mut taken: Vec<Instant> = Vec::new();
            for (pause_us, wanted) in asks {
                now += Duration::from_micros(pause_us);
                for _ in 0..wanted.min(bucket.admits(now)) {
                    bucket.take(now);
                    taken.push(now);
                }
                let again = bucket.again(now);
                prop_assert!(bucket.admits(again) > 0, "the timer wakes for nothing");
            }
            for (first, start) in taken.iter().enumerate() {
                for (last, end) in taken.iter().enumerate().skip(first) {
                    let most = u128::from(bucket.burst) + (*end - *start).as_nanos() / bucket.interval.as_nanos();
                    prop_assert!((last - first + 1) as u128 <= most, "{} starts in {:?}", last - first + 1, *end - *start);
                }
            }
        }
    }
}
