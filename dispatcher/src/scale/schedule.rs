//! Provisioned concurrency over time: what the manifest's windows say at a moment, and when that changes. Pure: the wall
//! clock comes in with each call.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use weft_schemas::manifest::{Concurrency, Window};

use super::memory::Memory;

/// What a start is thought to take before one has been seen.
const UNSEEN_START: Duration = Duration::from_secs(2);
/// Workers are started at most so long before a window opens.
const LEAD_MOST: Duration = Duration::from_secs(5 * 60);

/// How much is provisioned, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    always: u32,
    windows: Vec<Window>,
}

/// What is provisioned at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provisioned {
    /// Invocations that there must be room for.
    pub invocations: u32,
    /// When that may change: always later than the moment that was asked for. `None`: never.
    pub until: Option<Timestamp>,
}

impl Schedule {
    pub fn new(concurrency: &Concurrency) -> Self {
        Self { always: concurrency.provisioned, windows: concurrency.schedule.clone() }
    }

    /// Whether it never changes.
    pub fn is_constant(&self) -> bool {
        self.windows.is_empty()
    }

    /// The most that is ever provisioned.
    pub fn most(&self) -> u32 {
        self.windows.iter().map(|window| window.provisioned).fold(self.always, u32::max)
    }

    /// What must be warm at `now` so that each window finds its workers ready when it opens: a window counts from `lead`
    /// before it opens until it closes.
    pub fn at(&self, now: Timestamp, lead: Duration) -> Provisioned {
        let lead = SignedDuration::try_from(lead).unwrap_or(SignedDuration::ZERO);
        let mut provisioned = Provisioned { invocations: self.always, until: None };
        for window in &self.windows {
            let closes = window.closes(now);
            let opens = window.opens.after(now);
            let warms = opens.and_then(|opens| opens.checked_sub(lead).ok());
            let warming = warms.is_some_and(|warms| warms <= now);
            if closes.is_some() || warming {
                provisioned.invocations = provisioned.invocations.max(window.provisioned);
            }
            // While it warms up, the next thing to happen is that it opens.
            let next = if warming { opens } else { warms };
            provisioned.until = [provisioned.until, closes, next].into_iter().flatten().min();
        }
        provisioned
    }
}

/// How long before a window `workers` must be started so that they are ready in time: in waves of `starts`, each as long
/// as starts have taken, with half of it to spare, and a second.
pub fn lead(memory: &Memory, workers: u32, starts: u32) -> Duration {
    let waves = workers.div_ceil(starts.max(1));
    let start = memory.init().unwrap_or(UNSEEN_START);
    start.mul_f64(1.5).saturating_mul(waves).saturating_add(Duration::from_secs(1)).min(LEAD_MOST)
}

#[cfg(test)]
mod tests;
