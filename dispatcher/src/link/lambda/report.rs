//! A line for each call that was answered, as AWS's REPORT line: how long it took, what of it counts, what it took of memory.

use std::time::Duration;

use weft_schemas::FunctionName;

use super::most_memory;

/// What is said of one call.
pub(super) struct Report<'a> {
    pub(super) function: &'a FunctionName,
    pub(super) worker: &'a str,
    pub(super) request: &'a str,
    /// From the hand-out of the call until its answer was there.
    pub(super) took: Duration,
    /// Of the worker's start; with its first call only.
    pub(super) init: Option<Duration>,
    pub(super) memory_mib: u64,
    /// The worker's process; 0: none.
    pub(super) pid: u32,
}

impl Report<'_> {
    /// Logs it, at INFO. The memory is the most that the worker's first process ever held, where the kernel tells.
    pub(super) fn log(&self) {
        if !tracing::enabled!(target: "weft_worker", tracing::Level::INFO) {
            return;
        }
        let Self { function, worker, request, took, init, memory_mib, pid } = self;
        let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let took_us = micros(took);
        tracing::info!(
            target: "weft_worker", %function, worker, request_id = request, duration_us = took_us,
            billed_ms = took_us.div_ceil(1000), init_us = init.as_ref().map(micros), memory_mib,
            max_memory_mib = most_memory(*pid), "invocation report"
        );
    }
}
