//! The plan of faults: a pure function of the seed and the length.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// One of the two dispatchers.
pub const NODES: [&str; 2] = ["node-a", "node-b"];

/// A server behind a fault proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    Postgres,
    Rabbit,
    Redis,
}

impl Server {
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Rabbit, Self::Redis];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rabbit => "rabbitmq",
            Self::Redis => "redis",
        }
    }
}

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    Requests,
    Answers,
}

/// A named place in the code where a process ends itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Trap {
    pub point: &'static str,
    /// On which passing.
    pub passing: u32,
}

/// Crash points of a dispatcher.
const DISPATCHER_POINTS: [&str; 9] = [
    "after-claim",
    "before-settle",
    "after-settle",
    "before-bury",
    "after-bury",
    "before-publish",
    "after-publish",
    "after-finish",
    "after-ack",
];

/// Crash points of a worker.
const WORKER_POINTS: [&str; 4] = ["before-handler", "after-handler", "before-commit", "after-commit"];

/// What is done to whom. `node` is an index into [`NODES`]; `pick` chooses among the workers that are there then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    KillWorker {
        node: usize,
        pick: u32,
    },
    PauseWorker {
        node: usize,
        pick: u32,
    },
    KillDispatcher {
        node: usize,
    },
    PauseDispatcher {
        node: usize,
    },
    /// The dispatcher and its workers.
    PauseNode {
        node: usize,
    },
    DrainDispatcher {
        node: usize,
    },
    /// The dispatcher is started again with a trap in it.
    TrapDispatcher {
        node: usize,
        trap: Trap,
    },
    /// The dispatcher is started again with a trap in its workers, of which one springs it.
    TrapWorker {
        node: usize,
        trap: Trap,
    },
    Stop(Server),
    Kill(Server),
    Pause(Server),
    FlushRedis,
    Alarm,
    Cut(Server),
    Reset(Server),
    Refuse(Server),
    Delay(Server, Way, u64),
    Hold(Server, Way),
    Lose(Server, Way),
}

impl What {
    /// The kind, for counting.
    pub fn kind(self) -> String {
        match self {
            Self::KillWorker { .. } => "worker killed".to_owned(),
            Self::PauseWorker { .. } => "worker paused".to_owned(),
            Self::KillDispatcher { .. } => "dispatcher killed".to_owned(),
            Self::PauseDispatcher { .. } => "dispatcher paused".to_owned(),
            Self::PauseNode { .. } => "dispatcher and workers paused".to_owned(),
            Self::DrainDispatcher { .. } => "dispatcher drained".to_owned(),
            Self::TrapDispatcher { trap, .. } => format!("dispatcher killed at {}", trap.point),
            Self::TrapWorker { trap, .. } => format!("worker killed at {}", trap.point),
            Self::Stop(server) => format!("{} stopped", server.as_str()),
            Self::Kill(server) => format!("{} killed", server.as_str()),
            Self::Pause(server) => format!("{} paused", server.as_str()),
            Self::FlushRedis => "redis flushed".to_owned(),
            Self::Alarm => "rabbitmq in alarm".to_owned(),
            Self::Cut(server) => format!("{} cut", server.as_str()),
            Self::Reset(server) => format!("{} reset", server.as_str()),
            Self::Refuse(server) => format!("{} refused", server.as_str()),
            Self::Delay(server, ..) => format!("{} slowed", server.as_str()),
            Self::Hold(server, way) => format!("{} {} held", server.as_str(), way.as_str()),
            Self::Lose(server, way) => format!("{} {} lost", server.as_str(), way.as_str()),
        }
    }
}

impl Way {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Answers => "answers",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())?;
        match self {
            Self::KillWorker { node, .. } | Self::PauseWorker { node, .. } => write!(f, " ({})", name(*node)),
            Self::KillDispatcher { node }
            | Self::PauseDispatcher { node }
            | Self::PauseNode { node }
            | Self::DrainDispatcher { node } => write!(f, " ({})", name(*node)),
            Self::TrapDispatcher { node, trap } | Self::TrapWorker { node, trap } => {
                write!(f, " ({}, passing {})", name(*node), trap.passing)
            }
            Self::Delay(_, way, ms) => write!(f, " ({} {ms} ms)", way.as_str()),
            _ => Ok(()),
        }
    }
}

/// The name of a node by its index.
pub fn name(node: usize) -> &'static str {
    NODES.get(node).copied().unwrap_or("nobody")
}

/// One fault of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// From the start.
    pub at: Duration,
    /// How long it lasts; zero for what happens in a moment.
    pub lasts: Duration,
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.2} s  {:5.2} s  {}", self.at.as_secs_f64(), self.lasts.as_secs_f64(), self.what)
    }
}

/// Before the first fault: what runs should run.
const QUIET: Duration = Duration::from_secs(2);
/// How often a fault begins before the one before it has ended.
const OVERLAP: f64 = 0.15;

/// The plan for `length`. `lease` is the dispatchers': pauses are as often longer than it as shorter.
pub fn plan(seed: u64, length: Duration, lease: Duration) -> Vec<Fault> {
    let mut rng = Rng::with_seed(seed ^ 0x5_0a_4b_ed);
    let mut faults: Vec<Fault> = Vec::new();
    let mut at = QUIET;
    // A server that was restarted needs its time: the broker most.
    while at < length {
        let what = any(&mut rng);
        let lasts = lasts(&mut rng, what, lease);
        faults.push(Fault { at, lasts, what });
        let gap = millis(&mut rng, 300, 3_000);
        at += if rng.f64() < OVERLAP { gap.min(lasts) } else { lasts + recovery(what) + gap };
    }
    faults
}

/// How long what was restarted takes to come back, roughly: faults to what is not there are no faults.
fn recovery(what: What) -> Duration {
    match what {
        What::Stop(Server::Rabbit) | What::Kill(Server::Rabbit) => Duration::from_secs(8),
        What::Stop(_) | What::Kill(_) => Duration::from_secs(2),
        What::KillDispatcher { .. }
        | What::DrainDispatcher { .. }
        | What::TrapDispatcher { .. }
        | What::TrapWorker { .. } => Duration::from_secs(1),
        _ => Duration::ZERO,
    }
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

/// A fault, by weight.
fn any(rng: &mut Rng) -> What {
    let node = rng.usize(..NODES.len());
    let pick = rng.u32(..);
    let server = Server::ALL.get(rng.usize(..Server::ALL.len())).copied().unwrap_or(Server::Postgres);
    let way = if rng.bool() { Way::Requests } else { Way::Answers };
    let choices: [(u32, What); 27] = [
        (12, What::KillWorker { node, pick }),
        (8, What::PauseWorker { node, pick }),
        (8, What::KillDispatcher { node }),
        (5, What::PauseDispatcher { node }),
        (4, What::PauseNode { node }),
        (4, What::DrainDispatcher { node }),
        (10, What::TrapDispatcher { node, trap: trap(rng, &DISPATCHER_POINTS) }),
        (6, What::TrapWorker { node, trap: trap(rng, &WORKER_POINTS) }),
        (2, What::Stop(Server::Postgres)),
        (3, What::Kill(Server::Postgres)),
        (4, What::Pause(Server::Postgres)),
        // The broker is only stopped in good order: killed soon after a declare, RabbitMQ 3.10 may lose its own tables.
        (2, What::Stop(Server::Rabbit)),
        (3, What::Pause(Server::Rabbit)),
        (1, What::Stop(Server::Redis)),
        (2, What::Kill(Server::Redis)),
        (2, What::Pause(Server::Redis)),
        (1, What::FlushRedis),
        (2, What::Alarm),
        (4, What::Cut(server)),
        (4, What::Reset(server)),
        (3, What::Refuse(server)),
        (4, What::Delay(server, way, rng.u64(20..400))),
        (3, What::Hold(server, way)),
        (3, What::Hold(Server::Postgres, Way::Answers)),
        (3, What::Lose(server, way)),
        (2, What::Lose(Server::Postgres, Way::Answers)),
        (2, What::Lose(Server::Rabbit, Way::Answers)),
    ];
    let total: u32 = choices.iter().map(|(weight, _)| weight).sum();
    let mut at = rng.u32(..total);
    for (weight, what) in choices {
        if at < weight {
            return what;
        }
        at -= weight;
    }
    What::FlushRedis
}

fn trap(rng: &mut Rng, points: &[&'static str]) -> Trap {
    let point = points.get(rng.usize(..points.len())).copied().unwrap_or("after-claim");
    Trap { point, passing: rng.u32(1..10) }
}

fn lasts(rng: &mut Rng, what: What, lease: Duration) -> Duration {
    let around_lease = |rng: &mut Rng| lease.mul_f64(0.3 + rng.f64() * 2.0);
    match what {
        What::KillWorker { .. }
        | What::KillDispatcher { .. }
        | What::DrainDispatcher { .. }
        | What::FlushRedis
        | What::Cut(_)
        | What::Reset(_) => Duration::ZERO,
        // The trap must be sprung in this time; if it is not, the process just goes on.
        What::TrapDispatcher { .. } | What::TrapWorker { .. } => Duration::from_secs(3),
        What::PauseWorker { .. } | What::PauseDispatcher { .. } | What::PauseNode { .. } => around_lease(rng),
        What::Pause(_) | What::Hold(..) | What::Lose(..) => around_lease(rng),
        What::Stop(_) | What::Kill(_) => millis(rng, 100, 4_000),
        What::Refuse(_) | What::Delay(..) | What::Alarm => millis(rng, 500, 5_000),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        for seed in 0..50 {
            assert_eq!(plan(seed, minutes(5), LEASE), plan(seed, minutes(5), LEASE), "seed {seed}");
        }
        assert_ne!(plan(1, minutes(5), LEASE), plan(2, minutes(5), LEASE));
    }

    #[test]
    fn a_longer_run_begins_as_the_shorter_one_does() {
        for seed in 0..50 {
            let (short, long) = (plan(seed, minutes(1), LEASE), plan(seed, minutes(5), LEASE));
            assert_eq!(short, long.get(..short.len()).unwrap_or_default(), "seed {seed}");
        }
    }

    #[test]
    fn faults_are_in_order_and_within_the_run() {
        for seed in 0..200 {
            let plan = plan(seed, minutes(3), LEASE);
            assert!(plan.len() > 10, "seed {seed} has {} faults in 3 minutes", plan.len());
            assert!(plan.is_sorted_by_key(|fault| fault.at), "seed {seed}");
            assert!(plan.iter().all(|fault| fault.at >= QUIET && fault.at < minutes(3)), "seed {seed}");
            assert!(plan.iter().all(|fault| fault.lasts <= Duration::from_secs(10)), "seed {seed}");
        }
    }

    #[test]
    fn every_kind_of_fault_comes_up() {
        let kinds = |seeds: std::ops::Range<u64>| -> BTreeSet<String> {
            seeds.flat_map(|seed| plan(seed, minutes(20), LEASE)).map(|fault| fault.what.kind()).collect()
        };
        // What many runs know is the whole set; a few long ones must reach nearly all of it.
        let (all, few) = (kinds(0..100), kinds(0..5));
        assert!(few.len() * 10 >= all.len() * 9, "{} of {}: {:#?}", few.len(), all.len(), all.difference(&few));
        for point in DISPATCHER_POINTS.iter().chain(&WORKER_POINTS) {
            assert!(all.iter().any(|kind| kind.ends_with(point)), "{point}");
        }
    }
}
