//! Jobs per second, from a full queue to an empty one: one loop without a worker, a dispatcher with its workers, and peers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::child;
use crate::fault::{Fault, Result};
use crate::machine::Cpu;
use crate::numbers::Spread;
use crate::peers::{self, Absent, Home, Installed, Peer};
use crate::stage::{Servers, Shape, Stage};
use crate::{floor, ours};

/// The longest that one round may take, filling the queue included.
const ROUND_LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    pub events: u32,
    pub rounds: u32,
    pub slots: u32,
    pub workers: u32,
    /// No further rounds begin when they would probably end after this.
    #[serde(skip)]
    pub until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Floor,
    Weft,
    Peer(Peer),
}

impl Side {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Weft => "weft",
            Self::Peer(peer) => peer.name(),
        }
    }
}

impl Serialize for Side {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One round of one side.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub side: Side,
    pub round: u32,
    pub events: u32,
    /// From the first delivery to the last settle; on the floor also its ack. Of a peer: from its first job to its last.
    pub seconds: f64,
    pub events_per_second: f64,
    /// Weft only: from the start of the dispatcher (node, consumer and worker included) to the first delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_workers: Option<u32>,
    /// Processor seconds over the whole round, the start and the drain included; not of peers, whose queue is filled by
    /// programs of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
}

/// All rounds of one side.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub side: Side,
    pub rounds: usize,
    pub events: u32,
    pub events_per_second: Spread,
    /// Median of ours over its median; of the floor and the peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weft_over: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Throughput {
    #[serde(flatten)]
    pub plan: Plan,
    /// Rounds of each side that were run.
    pub rounds_run: u32,
    pub prefetch: u16,
    pub floor_batch: usize,
    pub sides: Vec<Summary>,
    pub peers: Vec<Installed>,
    pub absent: Vec<Absent>,
    pub all_rounds: Vec<Round>,
}

impl Throughput {
    /// Median of ours over that of `side`; `None` where it was not measured.
    pub fn ratio(&self, side: Side) -> Option<f64> {
        self.sides.iter().find(|summary| summary.side == side)?.weft_over
    }
}

pub async fn run(servers: &Servers, plan: Plan, peers: &[Peer]) -> Result<Throughput> {
    let (home, mut installed, mut absent) = peers::install(peers).await?;
    let mut rounds: Vec<Round> = Vec::new();
    let shape = Shape { handler: child::NOOP, slots: plan.slots, workers: plan.workers, keep_alive: "5m" };
    let (mut rounds_run, mut longest) = (0, Duration::ZERO);
    for round in 1..=plan.rounds {
        let began = Instant::now();
        if round > 1 && began + longest > plan.until {
            break;
        }
        for side in [Side::Floor, Side::Weft] {
            let measured = tokio::time::timeout(ROUND_LIMIT, ours_or_floor(servers, side, round, plan.events, shape))
                .await
                .map_err(|_| Fault(format!("round {round} of {side:?} has not ended within {ROUND_LIMIT:?}")))??;
            eprintln!("throughput round {round} {}: {:.0} events/s", side.name(), measured.events_per_second);
            rounds.push(measured);
        }
        for peer in installed.iter().map(|installed| installed.peer).collect::<Vec<_>>() {
            let limited = tokio::time::timeout(ROUND_LIMIT, of_peer(servers, &home, peer, round, plan.events)).await;
            match limited.unwrap_or_else(|_| Err(Fault(format!("not ended within {ROUND_LIMIT:?}")))) {
                Ok(measured) => {
                    eprintln!("throughput round {round} {}: {:.0} events/s", peer.name(), measured.events_per_second);
                    rounds.push(measured);
                }
                // A peer's fault is none of ours: it is named, and what it had shown before is not used.
                Err(Fault(text)) => {
                    eprintln!("throughput round {round} {}: {text}", peer.name());
                    installed.retain(|installed| installed.peer != peer);
                    rounds.retain(|round| round.side != Side::Peer(peer));
                    absent.push(Absent { peer, reason: format!("round {round} went wrong: {text}") });
                }
            }
        }
        rounds_run = round;
        longest = longest.max(began.elapsed());
    }
    let prefetch = u16::try_from(plan.slots.saturating_mul(plan.workers)).unwrap_or(u16::MAX);
    let sides = summaries(&rounds, &installed);
    Ok(Throughput {
        plan,
        rounds_run,
        prefetch,
        floor_batch: floor::BATCH,
        sides,
        peers: installed,
        absent,
        all_rounds: rounds,
    })
}

fn summaries(rounds: &[Round], installed: &[Installed]) -> Vec<Summary> {
    let sides = [Side::Floor, Side::Weft].into_iter().chain(installed.iter().map(|peer| Side::Peer(peer.peer)));
    let mut summaries: Vec<Summary> = sides
        .map(|side| {
            let of: Vec<&Round> = rounds.iter().filter(|round| round.side == side).collect();
            Summary {
                side,
                rounds: of.len(),
                events: of.iter().map(|round| round.events).max().unwrap_or(0),
                events_per_second: Spread::of(of.iter().map(|round| round.events_per_second)),
                weft_over: None,
            }
        })
        .collect();
    let weft = summaries.iter().find(|side| side.side == Side::Weft).map(|side| side.events_per_second.median);
    for summary in summaries.iter_mut().filter(|summary| summary.side != Side::Weft) {
        summary.weft_over = weft.map(|weft| weft / summary.events_per_second.median);
    }
    summaries
}

async fn ours_or_floor(servers: &Servers, side: Side, round: u32, events: u32, shape: Shape) -> Result<Round> {
    let stage = Stage::fresh(servers, shape).await?;
    stage.publish(0, events).await?;
    let before = Cpu::now()?;
    let mut measured = match side {
        Side::Floor => rate(side, round, events, floor::run(&stage, events).await?),
        Side::Weft | Side::Peer(_) => {
            let run = ours::run(&stage, Arc::clone(&stage.broker), events, |_, _, _| false).await?;
            Round {
                start_seconds: Some(run.start.as_secs_f64()),
                peak_workers: Some(run.peak_workers),
                ..rate(side, round, events, run.took)
            }
        }
    };
    measured.cpu = Some(Cpu::now()?.since(before));
    stage.wait_empty().await;
    stage.check_ledger(events.into()).await?;
    Ok(measured)
}

async fn of_peer(servers: &Servers, home: &Home, peer: Peer, round: u32, events: u32) -> Result<Round> {
    let done = peers::round(servers, home, peer, events.min(peer.most_events())).await?;
    Ok(rate(Side::Peer(peer), round, done.jobs, done.took))
}

fn rate(side: Side, round: u32, events: u32, took: Duration) -> Round {
    Round {
        side,
        round,
        events,
        seconds: took.as_secs_f64(),
        events_per_second: f64::from(events) / took.as_secs_f64(),
        start_seconds: None,
        peak_workers: None,
        cpu: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ratio_is_of_medians_and_only_of_what_was_measured() {
        let round =
            |side, rate: f64| Round { events_per_second: rate, ..super::rate(side, 1, 10, Duration::from_secs(1)) };
        let rounds = [
            round(Side::Floor, 10.0),
            round(Side::Floor, 30.0),
            round(Side::Floor, 20.0),
            round(Side::Weft, 10.0),
            round(Side::Peer(Peer::Celery), 4.0),
        ];
        let celery = Installed { peer: Peer::Celery, version: "1".to_owned(), settings: "" };
        let sides = summaries(&rounds, &[celery]);
        let over: Vec<_> = sides.iter().map(|side| (side.side.name(), side.weft_over)).collect();
        assert_eq!(over, [("floor", Some(0.5)), ("weft", None), ("celery", Some(2.5))]);
    }
}
