//! Events out of counts: a trace says how many came in a minute and how durations are spread, not when and which.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::trace::TraceFunction;

const MINUTE: Duration = Duration::from_secs(60);

/// Where in its minute an event arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances, one of them at a place in the minute that the function always keeps. So what comes once in ten
    /// minutes comes after exactly ten minutes, as timers do, the commonest trigger of the published traces.
    Even,
    /// Anywhere, each by itself. What comes once in ten minutes comes after nine to eleven.
    Uniform,
}

impl Arrivals {
    /// As the command line and the figures name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Uniform => "uniform",
        }
    }
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Since the start of the replayed minutes.
    pub at: Duration,
    /// How long its attempt lasts: a whole number of milliseconds, at least one.
    pub lasts: Duration,
}

/// The events of one function, in the order of their arrival. Holds one minute of them at a time.
#[derive(Debug, Clone)]
pub struct Stream<'a> {
    function: &'a TraceFunction,
    arrivals: Arrivals,
    random: fastrand::Rng,
    /// Where in the minute, 0 to 1.
    phase: f64,
    /// Since the start of the trace: the first minute replayed, the one to read next, the one after the last.
    minutes: (usize, usize, usize),
    /// The current minute's, latest first.
    ahead: Vec<Duration>,
}

impl<'a> Stream<'a> {
    /// The events from minute `from` up to but not with minute `end`. `nth` is the function's place in the trace: each has
    /// random numbers of its own.
    pub fn new(
        function: &'a TraceFunction,
        nth: usize,
        arrivals: Arrivals,
        seed: u64,
        (from, end): (usize, usize),
    ) -> Self {
        // The multiplier spreads neighbouring numbers over all bits (Knuth, The Art of Computer Programming, 6.4).
        let own = u64::try_from(nth).unwrap_or(u64::MAX).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = fastrand::Rng::with_seed(seed ^ own);
        let phase = random.f64();
        Self { function, arrivals, random, phase, minutes: (from, from, end), ahead: Vec::new() }
    }

    fn fill(&mut self) -> bool {
        let (from, minute, end) = self.minutes;
        let Some(&count) = self.function.counts.get(minute).filter(|_| minute < end) else { return false };
        self.minutes.1 += 1;
        let start = MINUTE * u32::try_from(minute - from).unwrap_or(u32::MAX);
        match self.arrivals {
            Arrivals::Even => {
                let places = (0..count).map(|nth| (self.phase + f64::from(nth) / f64::from(count)).fract());
                self.ahead.extend(places.map(|place| start + MINUTE.mul_f64(place)));
            }
            Arrivals::Uniform => {
                for _ in 0..count {
                    self.ahead.push(start + MINUTE.mul_f64(self.random.f64()));
                }
            }
        }
        self.ahead.sort_unstable_by_key(|&at| Reverse(at));
        true
    }
}

impl Iterator for Stream<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            if let Some(at) = self.ahead.pop() {
                return Some(Arrival { at, lasts: self.function.durations.at(self.random.f64()) });
            }
            if !self.fill() {
                return None;
            }
        }
    }
}

/// How many of these events run at once at most, when none ever waits.
pub(super) fn peak(stream: Stream<'_>) -> usize {
    let (mut ends, mut peak) = (BinaryHeap::new(), 0);
    for Arrival { at, lasts } in stream {
        while ends.peek().is_some_and(|&Reverse(end)| end <= at) {
            ends.pop();
        }
        ends.push(Reverse(at + lasts));
        peak = peak.max(ends.len());
    }
    peak
}
