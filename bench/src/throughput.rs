//! Events per second, from a full queue to the last ack: one loop without a worker, and a dispatcher with its workers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_dispatcher::Dispatcher;
use weft_dispatcher::status::FunctionStats;
use weft_ledger::{ClaimRequest, Settle, Settled, Settlement, Verdict};
use weft_process::shutdown::Shutdown;
use weft_schemas::{Digest, Key, NodeName};

use crate::child::Entered;
use crate::fault::{Fault, Result, ensure};
use crate::machine::Cpu;
use crate::numbers::Spread;
use crate::stage::{Servers, Shape, Stage};

/// The longest that one round may take, filling the queue included.
const ROUND_LIMIT: Duration = Duration::from_secs(180);
/// The most events that the floor claims and settles at once.
const FLOOR_BATCH: usize = 128;
/// How often the dispatcher's counters are looked at.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    pub events: u32,
    pub rounds: u32,
    pub slots: u32,
    pub workers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Floor,
    Weft,
}

/// One round of one side.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub side: Side,
    pub round: u32,
    /// From the first delivery to the last settle; on the floor also its ack.
    pub seconds: f64,
    pub events_per_second: f64,
    /// Weft only: from the start of the dispatcher (node, consumer and worker included) to the first delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_workers: Option<u32>,
    /// Processor seconds over the whole round, the start and the drain included.
    pub cpu: Cpu,
}

#[derive(Debug, Serialize)]
pub struct Throughput {
    #[serde(flatten)]
    pub plan: Plan,
    pub prefetch: u16,
    pub floor_batch: usize,
    pub floor: Spread,
    pub weft: Spread,
    /// Median of ours over median of the floor.
    pub ratio: f64,
    pub rounds: Vec<Round>,
}

pub async fn run(servers: &Servers, plan: Plan) -> Result<Throughput> {
    let mut rounds = Vec::new();
    let mut prefetch = 0;
    for round in 1..=plan.rounds {
        for side in [Side::Floor, Side::Weft] {
            let one = async {
                let shape = Shape { slots: plan.slots, workers: plan.workers, keep_alive: "5m" };
                let stage = Stage::fresh(servers, shape).await?;
                prefetch = stage.prefetch();
                stage.publish(0, plan.events).await?;
                let before = Cpu::now()?;
                let mut measured = match side {
                    Side::Floor => floor(&stage, plan.events).await?,
                    Side::Weft => weft(&stage, plan.events).await?,
                };
                measured.cpu = Cpu::now()?.since(before);
                stage.wait_empty().await;
                stage.check_ledger(plan.events.into()).await?;
                Ok::<_, Fault>(Round { round, ..measured })
            };
            let measured = tokio::time::timeout(ROUND_LIMIT, one)
                .await
                .map_err(|_| Fault(format!("round {round} of {side:?} has not ended within {ROUND_LIMIT:?}")))??;
            eprintln!("throughput round {round} {side:?}: {:.0} events/s", measured.events_per_second);
            rounds.push(measured);
        }
    }
    let of = |side| Spread::of(rounds.iter().filter(|round| round.side == side).map(|round| round.events_per_second));
    let (floor, weft) = (of(Side::Floor), of(Side::Weft));
    Ok(Throughput { plan, prefetch, floor_batch: FLOOR_BATCH, floor, weft, ratio: weft.median / floor.median, rounds })
}

fn measured(side: Side, events: u32, took: Duration) -> Round {
    Round {
        side,
        round: 0,
        seconds: took.as_secs_f64(),
        events_per_second: f64::from(events) / took.as_secs_f64(),
        start_seconds: None,
        peak_workers: None,
        cpu: Cpu::default(),
    }
}

/// One loop, one step after the other: take what is there, claim, settle, ack. No decoding, no worker.
async fn floor(stage: &Stage, events: u32) -> Result<Round> {
    let session = stage.ledger.enter(&NodeName::new("floor")?, Duration::from_secs(300)).await?;
    let mut subscription = stage.broker.subscribe(&stage.queue(), stage.prefetch()).await?;
    let (mut batch, mut done, mut first) = (Vec::new(), 0, None);
    while done < events as usize {
        let count = subscription.deliveries.recv_many(&mut batch, FLOOR_BATCH).await;
        ensure(count > 0, || "the deliveries ended early".to_owned())?;
        first.get_or_insert_with(Instant::now);
        let mut requests = Vec::with_capacity(count);
        for delivery in &batch {
            let id = delivery.message.properties.message_id.as_deref().unwrap_or_default();
            requests.push(ClaimRequest {
                key: Key::new(id)?,
                digest: Digest::of(&[&delivery.message.body]),
                resume: None,
                interrupted: false,
            });
        }
        let verdicts = stage.ledger.claim(session.owner(), &stage.function, &requests).await?;
        let mut settles = Vec::with_capacity(count);
        for (request, verdict) in requests.into_iter().zip(verdicts) {
            let Verdict::Run(claim) = verdict else {
                return Err(Fault(format!("a fresh key was answered with {verdict:?}")));
            };
            let result = serde_json::to_vec(&Entered { entered_ns: crate::clock::now_ns() })?.into();
            let keep = Duration::from_secs(7 * 24 * 3600);
            let to = Settlement::Succeeded { result, keep, outbox: Vec::new() };
            settles.push(Settle { key: request.key, fence: claim.fence, to });
        }
        let settled = stage.ledger.settle(&stage.function, &settles).await?;
        ensure(settled.iter().all(|settled| *settled == Settled::Done), || "a settle was refused".to_owned())?;
        subscription.acks.ack(batch.drain(..).map(|delivery| delivery.id).collect());
        done += count;
    }
    subscription.acks.flush().await;
    let took = first.map(|first| first.elapsed()).unwrap_or_default();
    session.leave().await?;
    stage.broker.close().await;
    Ok(measured(Side::Floor, events, took))
}

/// A dispatcher as `weft run` has it, with real worker processes.
async fn weft(stage: &Stage, events: u32) -> Result<Round> {
    let dispatcher = Dispatcher::prepare(stage.config(std::sync::Arc::clone(&stage.broker))?).await?;
    let stats = dispatcher.stats();
    let numbers = stats
        .functions()
        .get(&stage.function)
        .cloned()
        .ok_or_else(|| Fault("the dispatcher does not know its function".to_owned()))?;
    let shutdown = Shutdown::manual();
    let started = Instant::now();
    let mut running = tokio::spawn(dispatcher.run(shutdown.clone()));
    let mut first = None;
    let mut look = tokio::time::interval(LOOK);
    let took = loop {
        tokio::select! {
            _ = look.tick() => {}
            ended = &mut running => {
                ended??;
                return Err(Fault("the dispatcher ended by itself".to_owned()));
            }
        }
        if numbers.received.load(Ordering::Relaxed) > 0 {
            first.get_or_insert_with(Instant::now);
        }
        if numbers.succeeded.load(Ordering::Relaxed) >= events.into() {
            break first.map(|first| first.elapsed()).unwrap_or_default();
        }
        nothing_failed(&numbers)?;
    };
    shutdown.drain.cancel();
    running.await??;
    nothing_failed(&numbers)?;
    let start_seconds = first.map(|first| (first - started).as_secs_f64());
    Ok(Round { start_seconds, peak_workers: Some(stats.peak_workers()), ..measured(Side::Weft, events, took) })
}

fn nothing_failed(numbers: &FunctionStats) -> Result<()> {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let faults = read(&numbers.retries) + read(&numbers.crashes) + read(&numbers.timeouts) + read(&numbers.duplicates);
    let dead = numbers.dead();
    ensure(faults == 0 && dead.is_empty(), || {
        format!("{faults} attempts failed or were superfluous, and these are dead: {dead:?}")
    })
}
