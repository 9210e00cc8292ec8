//! From nothing to a thousand invocations at once: ten workers of a hundred slots, against ten process starts.

use std::sync::Arc;

use serde::Serialize;
use weft_dispatcher::broker::Broker;

use crate::child::{self, Entered};
use crate::clock::micros_between;
use crate::fault::{Result, ensure};
use crate::latency::start_and_answer;
use crate::numbers::Spread;
use crate::ours;
use crate::stage::{Servers, Shape, Stage};
use crate::stamped::Stamped;

const WORKERS: u32 = 10;
const SLOTS: u32 = 100;
const EVENTS: u32 = WORKERS * SLOTS;

#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Ten starts of the empty program, one after the other, each with its answer.
    pub floor_ms: f64,
    /// From the first delivery until the thousandth handler was entered.
    pub thousand_ms: f64,
    /// Until the first, the hundredth and the half of them were.
    pub first_ms: f64,
    pub hundredth_ms: f64,
    pub half_ms: f64,
}

#[derive(Debug, Serialize)]
pub struct Burst {
    pub events: u32,
    pub workers: u32,
    pub slots: u32,
    pub floor_ms: Spread,
    pub thousand_ms: Spread,
    /// Median over median.
    pub ratio: f64,
    pub rounds: Vec<Round>,
}

pub async fn run(servers: &Servers, rounds: u32) -> Result<Burst> {
    let mut measured = Vec::new();
    for number in 1..=rounds {
        let floor = tokio::task::spawn_blocking(|| -> Result<f64> {
            let mut sum = 0.0;
            for _ in 0..WORKERS {
                sum += start_and_answer()?;
            }
            Ok(sum / 1e3)
        });
        let round = one(servers, floor.await??).await?;
        eprintln!("burst round {number}: {:.1} ms, floor {:.1} ms", round.thousand_ms, round.floor_ms);
        measured.push(round);
    }
    let floor_ms = Spread::of(measured.iter().map(|round| round.floor_ms));
    let thousand_ms = Spread::of(measured.iter().map(|round| round.thousand_ms));
    Ok(Burst {
        events: EVENTS,
        workers: WORKERS,
        slots: SLOTS,
        floor_ms,
        thousand_ms,
        ratio: thousand_ms.median / floor_ms.median,
        rounds: measured,
    })
}

async fn one(servers: &Servers, floor_ms: f64) -> Result<Round> {
    let shape = Shape { handler: child::STAYING, slots: SLOTS, workers: WORKERS, keep_alive: "5m" };
    let stage = Stage::fresh(servers, shape).await?;
    stage.publish(0, EVENTS).await?;
    let broker = Arc::new(Stamped::new(Arc::clone(&stage.broker), stage.queue()));
    let run = ours::run(&stage, Arc::clone(&broker) as Arc<dyn Broker>, EVENTS, |_, _, _| false).await?;
    ensure(run.peak_workers == WORKERS, || format!("{} workers ran instead of {WORKERS}", run.peak_workers))?;
    stage.check_ledger(EVENTS.into()).await?;
    let results = stage.sql("select convert_from(result, 'UTF8') from weft.invocation").await?;
    let mut entered = Vec::new();
    for result in results.lines() {
        let Entered { entered_ns } = serde_json::from_str(result)?;
        entered.push(entered_ns);
    }
    entered.sort_unstable();
    let (first, last) = (entered.first().copied().unwrap_or(0), entered.last().copied().unwrap_or(u64::MAX));
    // The first of them was still there when the last one came.
    let stay = u64::try_from(child::STAY.as_nanos()).unwrap_or(u64::MAX);
    ensure(last.saturating_sub(first) < stay, || "the thousand were not there at the same time".to_owned())?;
    let received = broker.first_ns();
    ensure(0 < received && received < first, || format!("times out of order: {received}, {first}"))?;
    let at = |number: usize| entered.get(number - 1).map_or(f64::NAN, |ns| micros_between(received, *ns) / 1e3);
    Ok(Round { floor_ms, thousand_ms: at(EVENTS as usize), first_ms: at(1), hundredth_ms: at(100), half_ms: at(500) })
}
