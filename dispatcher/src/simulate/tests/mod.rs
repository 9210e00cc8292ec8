//! The simulation against figures that a hand or a few lines can reach.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod counts;
mod engine;
mod output;
mod sample;
mod trace;

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;

fn n(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A function whose attempts all last as long, in a worker of 100 MB.
fn function(name: &str, ms: u32, counts: Vec<u32>) -> TraceFunction {
    let durations = Durations::new(vec![(0.5, f64::from(ms))]).unwrap();
    TraceFunction { name: name.to_owned(), counts, durations, memory_mb: 100.0 }
}

fn trace_of(functions: Vec<TraceFunction>) -> Trace {
    Trace { minutes: functions[0].counts.len(), functions, incomplete: 0 }
}

/// A row of minutes with one event in each of those named.
fn at(minutes: usize, busy: &[usize]) -> Vec<u32> {
    (0..minutes).map(|minute| u32::from(busy.contains(&minute))).collect()
}

fn replay(trace: &Trace, setup: &Setup, policies: &[&str]) -> Vec<PolicyFigures> {
    let policies: Vec<Policy> = policies.iter().map(|name| name.parse().unwrap()).collect();
    simulate(trace, setup, &policies, &|| ()).policies
}
