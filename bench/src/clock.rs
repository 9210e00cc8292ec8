//! The clock that all processes of this machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the kernel's monotonic clock, the same in every process.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// Microseconds between two readings of [`now_ns`]; zero if the second is the earlier one.
pub fn micros_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e3
}
