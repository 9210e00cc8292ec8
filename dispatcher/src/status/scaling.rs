//! Why a function has as many workers as it has.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::Serialize;

use super::lock;

/// The newest decision and what it was made from. Written by the function's loop, read by anybody.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scaled {
    /// [`crate::scale::Why`].
    pub why: &'static str,
    /// Workers that there should be now.
    pub wanted: u32,
    /// [`crate::scale::Limit`], when one keeps it from having more.
    pub limit: Option<&'static str>,
    /// By how much the last of the events that are known will begin after its `max_age`.
    pub late: Option<Duration>,
    /// Events at the broker behind those that are here; `None`: not known.
    pub behind: Option<u64>,
    /// Age of the oldest event that waits here.
    pub oldest: Duration,
    pub arrivals_per_s: Option<f64>,
    /// How long a handler is busy with one event, on average.
    pub service: Option<Duration>,
    /// What the pauses look like, with an adaptive keep-alive.
    pub pattern: Option<&'static str>,
}

/// What one function's scaling has come to.
#[derive(Debug, Default)]
pub struct Scaling {
    latest: Mutex<Scaled>,
    decisions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Scaling {
    pub(crate) fn now(&self, scaled: Scaled) {
        *lock(&self.latest) = scaled;
    }

    /// Another number or reason than before was decided.
    pub(crate) fn decided(&self, why: &'static str) {
        *lock(&self.decisions).entry(why).or_default() += 1;
    }

    /// The newest decision.
    pub fn latest(&self) -> Scaled {
        *lock(&self.latest)
    }

    /// Changes of the decision since the start, by the new reason.
    pub fn decisions(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.decisions).clone()
    }

    pub(super) fn snapshot(&self) -> ScalingSnapshot {
        let latest = self.latest();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ScalingSnapshot {
            wanted: latest.wanted,
            limit: latest.limit,
            late_ms: latest.late.map(millis),
            behind: latest.behind,
            oldest_ms: millis(latest.oldest),
            arrivals_per_s: latest.arrivals_per_s.map(|rate| (rate * 1000.0).round() / 1000.0),
            pattern: latest.pattern,
            service_ms: latest.service.map(|service| service.as_secs_f64() * 1000.0),
        }
    }
}

/// What the scaling of a function sees and says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScalingSnapshot {
    /// Workers that there should be now.
    pub wanted: u32,
    /// The bound that keeps it from having more: `reserved`, `max_workers`, `node`; `null`: none.
    pub limit: Option<&'static str>,
    /// By how much the last of the events that are known will begin after its `max_age`; `null`: it will not.
    pub late_ms: Option<u64>,
    /// Events at the broker behind those that are here; `null`: not known now.
    pub behind: Option<u64>,
    /// Age of the oldest event that waits here, 0 when none does.
    pub oldest_ms: u64,
    /// Events that came in a second, over the last half minute; `null` before the first.
    pub arrivals_per_s: Option<f64>,
    /// How long a handler is busy with one event, on average; `null` before the first answer.
    pub service_ms: Option<f64>,
    /// With `keep_alive = "adaptive"`: what the function's pauses look like (`learning`, `histogram`, `spread`, `forecast`,
    /// `rare`); else `null`.
    pub pattern: Option<&'static str>,
}
