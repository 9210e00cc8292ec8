//! The figures, as one JSON object; [`crate::tables`] prints them for people.

use std::time::Duration;

use serde::Serialize;

use crate::audit::Audit;
use crate::burst::Burst;
use crate::drain::Drain;
use crate::growth::Growth;
use crate::idle::Idle;
use crate::lambda::Lambda;
use crate::latency::Latency;
use crate::machine::Machine;
use crate::peers::Peer;
use crate::stage::Servers;
use crate::sweep::Sweep;
use crate::throughput::{Side, Throughput};

/// What one part of the run has measured.
pub enum Part {
    Throughput(Throughput),
    Cold(Latency),
    Warm(Latency),
    Lambda(Box<Lambda>),
    Burst(Burst),
    Idle(Idle),
    Drain(Drain),
    Growth(Growth),
    Sweep(Sweep),
    Audit(Audit),
}

#[derive(Debug, Serialize)]
pub struct Report {
    /// `release`, or `debug`: figures of which mean nothing.
    pub build: &'static str,
    pub machine: Machine,
    pub servers: Versions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput: Option<Throughput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<Box<Lambda>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    pub ratios: Ratios,
    /// From an event's receive to its handler, a worker to start for it; milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_p99_ms: Option<f64>,
    /// A warm invocation of a Python function, from its claim until its response is taken; milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_warm_p50_ms: Option<f64>,
    /// The same with the claim before it; milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_warm_received_p50_ms: Option<f64>,
    /// A caller's round trip through the Invoke API; milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_invoke_p50_ms: Option<f64>,
    /// Resident memory of `weft run` with ten functions and nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_rss_mib: Option<f64>,
    /// Runnable processes, by part of the run.
    pub loads: Vec<Load>,
    /// Parts that did not fit into the limit.
    pub left_out: Vec<Note>,
    /// Parts that went wrong; their figures are not here.
    pub faults: Vec<Note>,
    /// The whole run.
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Versions {
    pub rabbitmq: String,
    pub postgres: String,
    pub redis: String,
}

/// The load average of a minute when a part began and when it ended.
#[derive(Debug, Serialize)]
pub struct Load {
    pub part: &'static str,
    pub before: String,
    pub after: String,
}

#[derive(Debug, Serialize)]
pub struct Note {
    pub part: &'static str,
    pub reason: String,
}

/// What can be compared between machines. Throughput: ours over theirs, higher is better; the others: ours over the floor,
/// lower is better; growth: the large ledger over the small one, 1 at best.
#[derive(Debug, Default, Serialize)]
pub struct Ratios {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_celery: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_dramatiq: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_graphile_worker: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_graphile_single: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_pg_boss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_bullmq: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_bullmq_always: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_apalis_postgres: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_vs_apalis_amqp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_p50_vs_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_p50_vs_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_cold_p50_vs_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_cold_p99_vs_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_warm_p50_vs_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_1000_vs_ten_spawns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_10m_vs_10k: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_10m_vs_10k_after_checkpoint: Option<f64>,
}

impl Report {
    pub async fn new(servers: &Servers, machine: Machine) -> Self {
        Self {
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            machine,
            servers: Versions {
                rabbitmq: servers.rabbit.version().await,
                postgres: servers.postgres.version().await,
                redis: servers.redis.version().await,
            },
            throughput: None,
            cold: None,
            warm: None,
            lambda: None,
            burst: None,
            idle: None,
            drain: None,
            growth: None,
            sweep: None,
            audit: None,
            ratios: Ratios::default(),
            cold_p99_ms: None,
            lambda_warm_p50_ms: None,
            lambda_warm_received_p50_ms: None,
            lambda_invoke_p50_ms: None,
            idle_rss_mib: None,
            loads: Vec::new(),
            left_out: Vec::new(),
            faults: Vec::new(),
            seconds: 0.0,
        }
    }

    pub fn put(&mut self, part: Part) {
        let ratios = &mut self.ratios;
        match part {
            Part::Throughput(throughput) => {
                let over = |side| throughput.ratio(side);
                ratios.throughput_vs_floor = over(Side::Floor);
                ratios.throughput_vs_celery = over(Side::Peer(Peer::Celery));
                ratios.throughput_vs_dramatiq = over(Side::Peer(Peer::Dramatiq));
                ratios.throughput_vs_graphile_worker = over(Side::Peer(Peer::GraphileWorker));
                ratios.throughput_vs_graphile_single = over(Side::Peer(Peer::GraphileSingle));
                ratios.throughput_vs_pg_boss = over(Side::Peer(Peer::PgBoss));
                ratios.throughput_vs_bullmq = over(Side::Peer(Peer::Bullmq));
                ratios.throughput_vs_bullmq_always = over(Side::Peer(Peer::BullmqAlways));
                ratios.throughput_vs_apalis_postgres = over(Side::Peer(Peer::ApalisPostgres));
                ratios.throughput_vs_apalis_amqp = over(Side::Peer(Peer::ApalisAmqp));
                self.throughput = Some(throughput);
            }
            Part::Cold(cold) => {
                ratios.cold_p50_vs_floor = Some(cold.ratio_p50);
                self.cold_p99_ms = Some(cold.received_to_entered_us.p99 / 1e3);
                self.cold = Some(cold);
            }
            Part::Warm(warm) => {
                ratios.warm_p50_vs_floor = Some(warm.ratio_p50);
                self.warm = Some(warm);
            }
            Part::Lambda(lambda) => {
                ratios.lambda_cold_p50_vs_floor = Some(lambda.cold.ratio_p50);
                ratios.lambda_cold_p99_vs_floor = Some(lambda.cold.ratio_p99);
                ratios.lambda_warm_p50_vs_floor = Some(lambda.warm.ratio_p50);
                self.lambda_warm_p50_ms = Some(lambda.warm.claimed_to_taken_us.p50 / 1e3);
                self.lambda_warm_received_p50_ms = Some(lambda.warm.received_to_taken_us.p50 / 1e3);
                self.lambda_invoke_p50_ms = Some(lambda.warm.invoke_us.p50 / 1e3);
                self.lambda = Some(lambda);
            }
            Part::Burst(burst) => {
                ratios.burst_1000_vs_ten_spawns = Some(burst.ratio);
                self.burst = Some(burst);
            }
            Part::Idle(idle) => {
                self.idle_rss_mib = Some(idle.resident_mib);
                self.idle = Some(idle);
            }
            Part::Drain(drain) => self.drain = Some(drain),
            Part::Growth(growth) => {
                ratios.growth_10m_vs_10k = Some(growth.ratio);
                ratios.growth_10m_vs_10k_after_checkpoint = Some(growth.ratio_after_checkpoint);
                self.growth = Some(growth);
            }
            Part::Sweep(sweep) => self.sweep = Some(sweep),
            Part::Audit(audit) => self.audit = Some(audit),
        }
    }

    pub fn left_out(&mut self, part: &'static str, reason: String) {
        eprintln!("{part} is left out: {reason}");
        self.left_out.push(Note { part, reason });
    }

    pub fn fault(&mut self, part: &'static str, reason: String) {
        eprintln!("{part} went wrong: {reason}");
        self.faults.push(Note { part, reason });
    }

    pub fn load(&mut self, part: &'static str, before: String, after: String) {
        self.loads.push(Load { part, before, after });
    }

    pub fn ended(&mut self, took: Duration) {
        self.seconds = took.as_secs_f64();
    }

    /// Whether everything that was asked for was measured, the peers apart.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && self.left_out.is_empty()
    }

    /// Prints to stdout.
    pub fn print(&self, json: bool) {
        if !json {
            return crate::tables::print(self);
        }
        match serde_json::to_string_pretty(self) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: failed to write the report: {error}"),
        }
    }
}
