//! Keep-alive that learns from the pauses between arrivals: after the hybrid histogram policy of Shahrad et al.,
//! "Serverless in the Wild", USENIX ATC 2020, section 4. Pure: time comes in with each call.
//!
//! The paper has one instance per application; a function here has a pool. So pauses are kept per **level**: level n is
//! the worker that is needed only while more than n workers are. Its pause lasts from when the need falls to n until it
//! rises above n again. Level 0 is the paper's case, a function that stands still. Levels share histograms in groups
//! (0, 1, 2–3, 4–7, …), so that a function costs at most [`Adaptive::LEVELS`] times 16 bytes and eleven histograms of
//! about 700 bytes, however often it runs.
//!
//! | what the histogram says | what is done |
//! | --- | --- |
//! | fewer than [`Adaptive::LEAST_SEEN`] pauses seen | kept for the standard keep-alive |
//! | mostly pauses beyond [`Adaptive::RANGE`] | forecast: see [`Pattern::Forecast`] |
//! | spread evenly (coefficient of variation of the bins below 2) | kept for the standard keep-alive |
//! | concentrated | stopped at once and started before the 5th percentile, kept until the 99th, each with 10 % margin |
//!
//! Where it departs from the paper, and why, stands in `docs/adr/0010-adaptive-keep-alive.md`. It does not decide how many
//! workers what runs and waits needs (that is [`super::decide`]), and it does not know caps, provisioned workers or slots.

use std::time::Duration;

/// What a function's pauses have taught, and how many workers to keep warm for what they foretell.
///
/// Times are durations since any one fixed moment, and never go back; a time before the one of the call before is taken
/// as no time passed.
#[derive(Debug, Clone)]
pub struct Adaptive {
    standard: Duration,
    needed: usize,
    /// Per level that was ever needed: since when it is not. Of levels below `needed` it means nothing.
    since: Vec<Duration>,
    groups: Vec<Histogram>,
}

/// How many workers to keep warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Workers that should be alive now: those needed, and those that a pause's end is expected for. Idle workers beyond
    /// it may stop; missing ones should be started. Never less than what is needed (up to [`Adaptive::LEVELS`]).
    pub workers: u32,
    /// When `workers` changes if nothing is needed or left before: always later than the time asked for. `None`: never.
    pub until: Option<Duration>,
    /// What decides about the function's first worker.
    pub pattern: Pattern,
}

/// What the pauses look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pattern {
    /// Too few pauses seen to tell: the standard keep-alive.
    #[default]
    Learning,
    /// They concentrate somewhere: the percentiles decide.
    Histogram,
    /// They are spread evenly: the standard keep-alive.
    Spread,
    /// Most are longer than the histogram, and the last ones agree within 15 % of their median: expected again then. The
    /// paper fits an ARIMA model to them. Functions that run some times a day give it a handful of numbers, of which it
    /// can hardly learn more than their middle; what it cannot foretell it does not pretend to (see [`Self::Rare`]).
    Forecast,
    /// Most are longer than the histogram, and they disagree: the standard keep-alive.
    Rare,
}

impl Pattern {
    /// As shown by status and metrics; never changes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Learning => "learning",
            Self::Histogram => "histogram",
            Self::Spread => "spread",
            Self::Forecast => "forecast",
            Self::Rare => "rare",
        }
    }
}

impl Adaptive {
    /// Pauses up to this are binned, as in the paper.
    pub const RANGE: Duration = Duration::from_secs(4 * 60 * 60);
    /// The standard keep-alive where none is chosen.
    pub const STANDARD: Duration = Duration::from_secs(10 * 60);
    /// Workers of a function that are told apart; a need beyond it counts as this one.
    pub const LEVELS: u32 = 1_000;
    /// Pauses that must have been seen before the histogram is asked: two that agree are a pattern to try.
    pub const LEAST_SEEN: u32 = 2;
    /// The end of a pause is waited for at least this long (the paper's smallest bin). So a level whose pauses are shorter
    /// never stops for them, however they are spread.
    pub const LEAST_KEEP: Duration = Duration::from_secs(60);
    /// A worker is not stopped for less than this: the start would cost more than the stop saves.
    pub const LEAST_GAP: Duration = Duration::from_secs(10);

    /// Nothing seen yet. `standard`: what a worker is kept for where the pattern is not known.
    pub fn new(standard: Duration) -> Self {
        Self { standard, needed: 0, since: Vec::new(), groups: Vec::new() }
    }

    /// From `now` on, what runs and waits needs so many workers. Safe to repeat: the same need again changes nothing.
    pub fn needs(&mut self, now: Duration, workers: u32) {
        let workers = usize::try_from(workers.min(Self::LEVELS)).unwrap_or(usize::MAX);
        for level in self.needed..workers {
            match self.since.get(level) {
                Some(&since) => self.record(level, now.saturating_sub(since)),
                // The first time: there is no pause before it.
                None => self.since.push(now),
            }
        }
        if let Some(left) = self.since.get_mut(workers..self.needed) {
            left.fill(now);
        }
        self.needed = workers;
    }

    /// What to keep warm at `now`.
    pub fn plan(&self, now: Duration) -> Plan {
        let (mut warm, mut until) = (0, None);
        for (level, &since) in self.since.iter().enumerate().skip(self.needed) {
            let window = self.window(level);
            let passed = now.saturating_sub(since);
            let resting = window.rest.is_some_and(|rest| passed < rest);
            if !resting && passed < window.keep {
                warm += 1;
            }
            let change = window.rest.filter(|_| resting).or(Some(window.keep).filter(|&keep| passed < keep));
            until = [until, change.map(|after| since + after)].into_iter().flatten().min();
        }
        let workers = u32::try_from(self.needed + warm).unwrap_or(u32::MAX);
        Plan { workers, until, pattern: self.groups.first().map_or(Pattern::Learning, |first| first.window.pattern) }
    }

    fn record(&mut self, level: usize, pause: Duration) {
        let group = group(level);
        if self.groups.len() <= group {
            self.groups.resize_with(group + 1, || Histogram::new(self.standard));
        }
        if let Some(histogram) = self.groups.get_mut(group) {
            histogram.record(pause, self.standard);
        }
    }

    fn window(&self, level: usize) -> Window {
        self.groups.get(group(level)).map_or(Window::standard(self.standard, Pattern::Learning), |group| group.window)
    }
}

/// Levels 0, 1, 2–3, 4–7, … : the more workers, the less one more of them differs.
fn group(level: usize) -> usize {
    usize::try_from(usize::BITS - level.leading_zeros()).unwrap_or(usize::MAX)
}

/// What to do in a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Not alive from the start of the pause for this long (the paper's pre-warming window); `None`: alive at once.
    rest: Option<Duration>,
    /// Alive until this long after the start of the pause; longer than `rest`.
    keep: Duration,
    pattern: Pattern,
}

impl Window {
    const fn standard(keep: Duration, pattern: Pattern) -> Self {
        Self { rest: None, keep, pattern }
    }

    /// Alive around when the pause is expected to end.
    fn around(first: Duration, last: Duration, pattern: Pattern) -> Self {
        let keep = last.max(Adaptive::LEAST_KEEP);
        Self { rest: Some(first).filter(|&first| first >= Adaptive::LEAST_GAP), keep, pattern }
    }
}

/// Bins of one sixteenth of their own size: finer than the margins from milliseconds to hours, in 336 numbers. (The
/// paper's are of one minute; workers here start in milliseconds, and a busy function's pauses are of that size.)
const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
/// The longest pause in bins, in octaves: 2²⁴ ms are 4.66 h.
const OCTAVES: u32 = 24;
const BINS: usize = ((OCTAVES - SUB_BITS + 1) as usize) << SUB_BITS;
/// At so many pauses every count is halved: what was long ago counts less and less, and counts stay small.
const FULL: u32 = 4_096;
/// Pauses beyond the range that are remembered, for the forecast.
const LONG: usize = 8;
/// The histogram's head and tail.
const HEAD: f64 = 0.05;
const TAIL: f64 = 0.99;
const MARGIN: f64 = 0.10;
/// Below it the bins are too evenly filled to foretell anything.
const CV: f64 = 2.0;
/// Long pauses that must agree, and how well.
const LONG_LEAST: usize = 3;
const LONG_MARGIN: f64 = 0.15;

#[derive(Debug, Clone)]
struct Histogram {
    bins: Vec<u16>,
    /// The sum of the bins.
    inside: u32,
    /// Pauses beyond the range.
    outside: u32,
    /// The latest of them, oldest first.
    long: Vec<Duration>,
    /// What all this says: kept, because it is asked for more often than it changes.
    window: Window,
    /// Pauses since `window` was found.
    fresh: u32,
}

impl Histogram {
    fn new(standard: Duration) -> Self {
        let window = Window::standard(standard, Pattern::Learning);
        Self { bins: vec![0; BINS], inside: 0, outside: 0, long: Vec::new(), window, fresh: 0 }
    }

    fn record(&mut self, pause: Duration, standard: Duration) {
        match self.bins.get_mut(bin(pause)).filter(|_| pause <= Adaptive::RANGE) {
            Some(bin) => {
                *bin += 1;
                self.inside += 1;
            }
            None => {
                self.outside += 1;
                if self.long.len() >= LONG {
                    self.long.remove(0);
                }
                self.long.push(pause);
            }
        }
        if self.inside + self.outside >= FULL {
            self.bins.iter_mut().for_each(|bin| *bin /= 2);
            self.inside = self.bins.iter().map(|&bin| u32::from(bin)).sum();
            self.outside /= 2;
        }
        self.fresh += 1;
        // At the latest when a thirty-second part of it is new.
        if self.fresh >= (self.inside + self.outside) / 32 {
            self.window = self.judge(standard);
            self.fresh = 0;
        }
    }

    fn judge(&self, standard: Duration) -> Window {
        if self.inside + self.outside < Adaptive::LEAST_SEEN {
            return Window::standard(standard, Pattern::Learning);
        }
        if self.outside > self.inside {
            return self.forecast().unwrap_or(Window::standard(standard, Pattern::Rare));
        }
        if self.variation() < CV {
            return Window::standard(standard, Pattern::Spread);
        }
        let (head, tail) = (self.percentile(HEAD), self.percentile(TAIL));
        let first = Duration::from_millis(lower(head)).mul_f64(1.0 - MARGIN);
        let last = Duration::from_millis(lower(tail + 1)).mul_f64(1.0 + MARGIN);
        Window::around(first, last, Pattern::Histogram)
    }

    fn forecast(&self) -> Option<Window> {
        let mut long = self.long.clone();
        long.sort_unstable();
        let middle = long.get(long.len() / 2).copied().filter(|_| long.len() >= LONG_LEAST)?;
        let (first, last) = (middle.mul_f64(1.0 - LONG_MARGIN), middle.mul_f64(1.0 + LONG_MARGIN));
        let agree = long.iter().all(|pause| (first..=last).contains(pause));
        agree.then(|| Window::around(first, last, Pattern::Forecast))
    }

    /// The coefficient of variation of the bins' counts: high where the pauses concentrate in few of them.
    fn variation(&self) -> f64 {
        let bins = BINS as f64;
        let mean = f64::from(self.inside) / bins;
        let squares: f64 = self.bins.iter().map(|&bin| f64::from(bin) * f64::from(bin)).sum();
        if mean > 0.0 { (squares / bins - mean * mean).max(0.0).sqrt() / mean } else { 0.0 }
    }

    /// The bin that holds the given part of what is inside, from the short end.
    fn percentile(&self, part: f64) -> usize {
        let wanted = f64::from(self.inside) * part;
        let mut seen = 0.0;
        for (bin, &count) in self.bins.iter().enumerate() {
            seen += f64::from(count);
            if count > 0 && seen >= wanted {
                return bin;
            }
        }
        BINS - 1
    }
}

/// The bin of a pause; beyond [`BINS`] for what is longer than the last one.
fn bin(pause: Duration) -> usize {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let octave = (u64::BITS - ms.leading_zeros()).saturating_sub(SUB_BITS + 1);
    // Within the octave the leading bit is always set, so that the bins of one octave follow those of the one before.
    usize::try_from(u64::from(octave) * SUB + (ms >> octave)).unwrap_or(usize::MAX)
}

/// The shortest pause of a bin, in milliseconds.
fn lower(bin: usize) -> u64 {
    let bin = bin as u64;
    let octave = (bin / SUB).saturating_sub(1);
    (bin - octave * SUB) << octave
}

#[cfg(test)]
#[path = "adaptive/tests.rs"]
mod tests;
