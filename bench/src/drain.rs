//! A queue that filled while nothing ran: how soon the first effect is there, how soon the last, and the workers meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::child;
use crate::fault::{Fault, Result};
use crate::ours;
use crate::stage::{Servers, Shape, Stage};
use crate::svg::{self, Curve};

/// The longest that it may take, without the filling.
const LIMIT: Duration = Duration::from_secs(300);
/// Between two points of the curves.
const STEP: Duration = Duration::from_millis(50);
/// How long to look on after the last event: the keep-alive ends in it.
const AFTER: Duration = Duration::from_secs(3);

/// One look.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    pub seconds: f64,
    pub done: u64,
    pub workers: u32,
    pub running: u32,
}

#[derive(Debug, Serialize)]
pub struct Drain {
    pub events: u32,
    pub slots: u32,
    pub most_workers: u32,
    /// From before the dispatcher is put together: connecting, the probe of the program and the lease are in these.
    pub first_effect_seconds: f64,
    pub last_effect_seconds: f64,
    /// Over the whole of it, the start included.
    pub events_per_second: f64,
    pub peak_workers: u32,
    /// From the last settle until no worker is left; the keep-alive is one second. `None`: not within the look.
    pub workers_gone_seconds: Option<f64>,
    /// Where the chart is.
    pub chart: String,
    pub points: Vec<Point>,
}

pub async fn run(servers: &Servers, events: u32, slots: u32, workers: u32, chart: &Path) -> Result<Drain> {
    let stage = Stage::fresh(servers, Shape { handler: child::NOOP, slots, workers, keep_alive: "1s" }).await?;
    eprintln!("drain: filling the queue with {events} events");
    stage.publish(0, events).await?;
    eprintln!("drain: starting");
    let mut points: Vec<Point> = Vec::new();
    let (mut first, mut last, mut gone) = (None, None, None);
    let look =
        |at: Duration, numbers: &weft_dispatcher::status::FunctionStats, stats: &weft_dispatcher::status::Stats| {
            let (done, workers) = (numbers.succeeded.load(Ordering::Relaxed), stats.workers());
            if done > 0 {
                first.get_or_insert(at);
            }
            if done >= events.into() {
                last.get_or_insert(at);
                if workers == 0 {
                    gone.get_or_insert(at);
                }
            }
            let due = points.last().is_none_or(|point| at.as_secs_f64() >= point.seconds + STEP.as_secs_f64());
            if due {
                let running = numbers.running.load(Ordering::Relaxed);
                points.push(Point { seconds: at.as_secs_f64(), done, workers, running });
            }
            gone.is_none() && last.is_none_or(|last| at < last + AFTER)
        };
    let run = tokio::time::timeout(LIMIT, ours::run(&stage, Arc::clone(&stage.broker), events, look))
        .await
        .map_err(|_| Fault(format!("the queue was not empty after {LIMIT:?}")))??;
    stage.wait_empty().await;
    stage.check_ledger(events.into()).await?;
    let (Some(first), Some(last)) = (first, last) else { return Err(Fault("nothing was seen".to_owned())) };
    let curve = |name, of: fn(&Point) -> f64| Curve {
        name,
        points: points.iter().map(|point| (point.seconds, of(point))).collect(),
    };
    let curves = [curve("workers", |point| f64::from(point.workers)), curve("events done", |point| point.done as f64)];
    let title = format!("{events} events waiting, then a start: workers (left) and events done (right) over seconds");
    std::fs::write(chart, svg::chart(&title, &curves))?;
    Ok(Drain {
        events,
        slots,
        most_workers: workers,
        first_effect_seconds: first.as_secs_f64(),
        last_effect_seconds: last.as_secs_f64(),
        events_per_second: f64::from(events) / last.as_secs_f64(),
        peak_workers: run.peak_workers,
        workers_gone_seconds: gone.map(|gone| gone.saturating_sub(last).as_secs_f64()),
        chart: chart.display().to_string(),
        points,
    })
}
