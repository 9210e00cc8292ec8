//! Does a ledger that has grown slow its dispatcher down? Throughput and warm latency with ten thousand, a million and ten
//! million settled rows, each in a database of its own, in turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_process::secret::Address;

use crate::child;
use crate::fault::Result;
use crate::fill::filled;
use crate::latency;
use crate::numbers::{Percentiles, Spread};
use crate::ours;
use crate::stage::{Servers, Shape, Stage};

const SIZES: [u64; 3] = [10_000, 1_000_000, 10_000_000];
/// Warm samples at each size, one of which starts the worker.
const SAMPLES: u32 = 201;

#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub rows: u64,
    pub round: u32,
    pub events_per_second: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Size {
    /// Settled rows before the first round; each round adds its events.
    pub rows: u64,
    pub fill_seconds: f64,
    pub table_mib: f64,
    pub index_mib: f64,
    pub events_per_second: Spread,
    /// Received → entered.
    pub warm_us: Percentiles,
    /// Throughput over that of the smallest size.
    pub over_smallest: f64,
}

#[derive(Debug, Serialize)]
pub struct Growth {
    pub events: u32,
    pub sizes: Vec<Size>,
    /// The largest over the smallest size.
    pub ratio: f64,
    pub rounds: Vec<Round>,
}

struct Filled {
    rows: u64,
    ledger: Address,
    fill: Duration,
    /// The number of the next event.
    next: u32,
}

pub async fn run(servers: &Servers, events: u32, rounds: u32, slots: u32, workers: u32) -> Result<Growth> {
    let mut ledgers = Vec::new();
    for rows in SIZES {
        eprintln!("growth: filling a ledger with {rows} rows");
        let began = Instant::now();
        let ledger = filled(servers, rows, 0).await?;
        ledgers.push(Filled { rows, ledger, fill: began.elapsed(), next: 0 });
    }
    let mut measured: Vec<Round> = Vec::new();
    let shape = |slots, workers| Shape { handler: child::NOOP, slots, workers, keep_alive: "5m" };
    // The first round of each warms its caches and is not used.
    for round in 0..=rounds {
        for filled in &mut ledgers {
            let stage = Stage::on(servers, shape(slots, workers), filled.ledger.clone()).await?;
            let from = filled.next;
            filled.next += events;
            stage.publish(from, filled.next).await?;
            let run = ours::run(&stage, Arc::clone(&stage.broker), events, |_, _, _| false).await?;
            stage.wait_empty().await;
            let events_per_second = f64::from(events) / run.took.as_secs_f64();
            eprintln!("growth round {round}, {} rows: {events_per_second:.0} events/s", filled.rows);
            if round > 0 {
                measured.push(Round { rows: filled.rows, round, events_per_second });
            }
        }
    }
    let mut sizes: Vec<Size> = Vec::new();
    for filled in &ledgers {
        let stage = Stage::on(servers, shape(1, 1), filled.ledger.clone()).await?;
        let mib = async |what: &str| -> Result<f64> {
            let bytes = stage.sql(&format!("select {what}('weft.invocation')")).await?;
            Ok(bytes.parse::<f64>().unwrap_or(f64::NAN) / 1_048_576.0)
        };
        let (table_mib, index_mib) = (mib("pg_relation_size").await?, mib("pg_indexes_size").await?);
        let warm_us = latency::warm_on(stage, filled.next, filled.next + SAMPLES).await?;
        let of = measured.iter().filter(|round| round.rows == filled.rows).map(|round| round.events_per_second);
        let events_per_second = Spread::of(of);
        let smallest = sizes.first().map_or(events_per_second.median, |size| size.events_per_second.median);
        sizes.push(Size {
            rows: filled.rows,
            fill_seconds: filled.fill.as_secs_f64(),
            table_mib,
            index_mib,
            events_per_second,
            warm_us,
            over_smallest: events_per_second.median / smallest,
        });
    }
    let ratio = sizes.last().map_or(f64::NAN, |size| size.over_smallest);
    Ok(Growth { events, sizes, ratio, rounds: measured })
}
