//! Does a ledger that has grown slow its dispatcher down? Throughput and warm latency with ten thousand, a million and ten
//! million settled rows, each in a database of its own, in turns; between two checkpoints of Postgres and right after one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_process::secret::Address;

use crate::child;
use crate::fault::Result;
use crate::fill::{checkpoint, insert, rested};
use crate::latency;
use crate::numbers::{Percentiles, Spread};
use crate::ours;
use crate::stage::{Servers, Shape, Stage, fresh_ledger};

const SIZES: [u64; 3] = [10_000, 1_000_000, 10_000_000];
/// One in so many rows is inserted after the checkpoint, so that the rounds fall between two of them, where nearly all of
/// an installation's time is: with it, each page of the large index has been changed three to four times since.
const RECENT: u64 = 20;
/// Warm samples at each size, one of which starts the worker.
const SAMPLES: u32 = 201;

#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub rows: u64,
    pub round: u32,
    /// Whether a checkpoint was made right before it.
    pub after_checkpoint: bool,
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
    /// The same in rounds that begin with a checkpoint.
    pub after_checkpoint: Spread,
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
    /// The same in rounds that begin with a checkpoint.
    pub ratio_after_checkpoint: f64,
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
        let ledger = fresh_ledger(servers).await?;
        insert(&ledger, 0..rows - rows / RECENT, 0).await?;
        rested(&ledger).await?;
        ledgers.push(Filled { rows, ledger, fill: began.elapsed(), next: 0 });
    }
    if let Some(any) = ledgers.first() {
        checkpoint(&any.ledger).await?;
    }
    for filled in &mut ledgers {
        let began = Instant::now();
        insert(&filled.ledger, filled.rows - filled.rows / RECENT..filled.rows, 0).await?;
        filled.fill += began.elapsed();
    }
    let mut measured: Vec<Round> = Vec::new();
    let shape = |slots, workers| Shape { handler: child::NOOP, slots, workers, keep_alive: "5m" };
    // The first round of each warms its caches and is not used.
    let between = (0..=rounds).map(|round| (round, false));
    for (round, after_checkpoint) in between.chain((1..=rounds).map(|round| (round, true))) {
        for filled in &mut ledgers {
            let stage = Stage::on(servers, shape(slots, workers), filled.ledger.clone()).await?;
            let from = filled.next;
            filled.next += events;
            stage.publish(from, filled.next).await?;
            if after_checkpoint {
                checkpoint(&filled.ledger).await?;
            }
            let run = ours::run(&stage, Arc::clone(&stage.broker), events, |_, _, _| false).await?;
            stage.wait_empty().await;
            let events_per_second = f64::from(events) / run.took.as_secs_f64();
            let when = if after_checkpoint { ", after a checkpoint" } else { "" };
            eprintln!("growth round {round}, {} rows{when}: {events_per_second:.0} events/s", filled.rows);
            if round > 0 {
                measured.push(Round { rows: filled.rows, round, after_checkpoint, events_per_second });
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
        let of = |after_checkpoint: bool| {
            let its = |round: &&Round| round.rows == filled.rows && round.after_checkpoint == after_checkpoint;
            Spread::of(measured.iter().filter(its).map(|round| round.events_per_second))
        };
        let (events_per_second, after_checkpoint) = (of(false), of(true));
        let smallest = sizes.first().map_or(events_per_second.median, |size| size.events_per_second.median);
        sizes.push(Size {
            rows: filled.rows,
            fill_seconds: filled.fill.as_secs_f64(),
            table_mib,
            index_mib,
            events_per_second,
            after_checkpoint,
            warm_us,
            over_smallest: events_per_second.median / smallest,
        });
    }
    let ratio = sizes.last().map_or(f64::NAN, |size| size.over_smallest);
    let after = |size: Option<&Size>| size.map_or(f64::NAN, |size| size.after_checkpoint.median);
    let ratio_after_checkpoint = after(sizes.last()) / after(sizes.first());
    Ok(Growth { events, sizes, ratio, ratio_after_checkpoint, rounds: measured })
}
