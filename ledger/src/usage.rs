//! What functions have used, hour by hour: the figures that costs are reckoned from.

use jiff::Timestamp;
use serde::Serialize;
use weft_schemas::FunctionName;

use crate::Owner;

/// What one function has used in one hour, by one dispatcher's count since its start. Each count only grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub function: FunctionName,
    /// The hour's start, in UTC, by the dispatcher's clock.
    pub hour: Timestamp,
    /// Who counted.
    pub by: Owner,
    pub used: Used,
}

/// Counts of use. Milliseconds and MB (1,048,576 bytes) are whole, so that sums are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Attempts that were started: what a function platform bills as a request.
    pub attempts: u64,
    /// Of these, how many waited for a worker to start.
    pub cold_starts: u64,
    /// How long handlers were busy, each time rounded up to a millisecond.
    pub billed_ms: u64,
    /// The same, times the function's memory at that time.
    pub billed_mb_ms: u64,
    /// How long workers were alive, from launch to end, idle or not.
    pub worker_ms: u64,
    /// The same, times the function's memory at that time.
    pub worker_mb_ms: u64,
}

impl Used {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.each(earlier, u64::saturating_sub)
    }

    fn each(self, other: Self, how: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            attempts: how(self.attempts, other.attempts),
            cold_starts: how(self.cold_starts, other.cold_starts),
            billed_ms: how(self.billed_ms, other.billed_ms),
            billed_mb_ms: how(self.billed_mb_ms, other.billed_mb_ms),
            worker_ms: how(self.worker_ms, other.worker_ms),
            worker_mb_ms: how(self.worker_mb_ms, other.worker_mb_ms),
        }
    }

    /// In the order of the table's columns.
    pub(crate) fn columns(self) -> [i64; 6] {
        [self.attempts, self.cold_starts, self.billed_ms, self.billed_mb_ms, self.worker_ms, self.worker_mb_ms]
            .map(|count| i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(crate) fn of(columns: [i64; 6]) -> Self {
        let [attempts, cold_starts, billed_ms, billed_mb_ms, worker_ms, worker_mb_ms] =
            columns.map(|count| u64::try_from(count).unwrap_or(0));
        Self { attempts, cold_starts, billed_ms, billed_mb_ms, worker_ms, worker_mb_ms }
    }
}
