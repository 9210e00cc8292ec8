//! The figures, as tables for people and as one JSON object.

use serde::Serialize;

use crate::idle::Idle;
use crate::latency::{Latencies, Latency};
use crate::machine::Machine;
use crate::numbers::{Percentiles, Spread};
use crate::stage::Servers;
use crate::throughput::{Side, Throughput};

#[derive(Debug, Serialize)]
pub struct Report {
    /// `release`, or `debug`: figures of which mean nothing.
    build: &'static str,
    machine: Machine,
    servers: Versions,
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput: Option<Throughput>,
    #[serde(flatten)]
    latencies: Option<Latencies>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
    ratios: Ratios,
}

#[derive(Debug, Serialize)]
struct Versions {
    rabbitmq: String,
    postgres: String,
    redis: String,
}

/// What can be compared between machines: ours over the floor.
#[derive(Debug, Default, Serialize)]
struct Ratios {
    /// Higher is better; the budget is at least 0.6.
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput_vs_floor: Option<f64>,
    /// Lower is better; the budget is at most 2.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    cold_p50_vs_floor: Option<f64>,
    /// Lower is better; the budget is at most 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_p50_vs_floor: Option<f64>,
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
            latencies: None,
            idle: None,
            ratios: Ratios::default(),
        }
    }

    pub fn throughput(&mut self, throughput: Throughput) {
        self.ratios.throughput_vs_floor = Some(throughput.ratio);
        self.throughput = Some(throughput);
    }

    pub fn latency(&mut self, latencies: Latencies) {
        self.ratios.cold_p50_vs_floor = Some(latencies.cold.ratio_p50);
        self.ratios.warm_p50_vs_floor = Some(latencies.warm.ratio_p50);
        self.latencies = Some(latencies);
    }

    pub fn idle(&mut self, idle: Idle) {
        self.idle = Some(idle);
    }

    /// Prints to stdout.
    pub fn print(&self, json: bool) {
        if json {
            match serde_json::to_string_pretty(self) {
                Ok(text) => println!("{text}"),
                Err(error) => eprintln!("error: failed to write the report: {error}"),
            }
            return;
        }
        let machine = &self.machine;
        println!(
            "{} build · {} cores of {} · Linux {} · {} MiB · {} on {} · load before: {}",
            self.build,
            machine.cores,
            machine.cpu,
            machine.kernel,
            machine.memory_mib,
            machine.file_system,
            machine.folder,
            machine.load_before
        );
        let Versions { rabbitmq, postgres, redis } = &self.servers;
        println!("RabbitMQ {rabbitmq} · Postgres {postgres}, fsync on · Redis {redis}");
        if let Some(throughput) = &self.throughput {
            print_throughput(throughput);
        }
        if let Some(Latencies { cold, warm }) = &self.latencies {
            print_latency("cold: event → handler, a worker to start for each", "start + round trip", cold, 2.5);
            print_latency("warm: event → handler, a worker waits", "claim + round trip", warm, 2.0);
        }
        if let Some(idle) = &self.idle {
            print_idle(idle);
        }
    }
}

fn print_throughput(throughput: &Throughput) {
    let plan = throughput.plan;
    println!(
        "\nthroughput: {} events, {} rounds of each side, up to {} workers of {} slots, prefetch {}",
        plan.events, plan.rounds, plan.workers, plan.slots, throughput.prefetch
    );
    println!("  {:<8}{:>14}{:>12}{:>12}", "", "events/s p50", "min", "max");
    for (name, Spread { median, min, max }) in [("floor", throughput.floor), ("weft", throughput.weft)] {
        println!("  {name:<8}{median:>14.0}{min:>12.0}{max:>12.0}");
    }
    println!("  ratio {:.2} (budget: at least 0.60)", throughput.ratio);
    println!("  processor seconds of each round: this process + workers + rest of the machine, of wall seconds");
    for round in &throughput.rounds {
        let side = match round.side {
            Side::Floor => "floor",
            Side::Weft => "weft",
        };
        let cpu = round.cpu;
        println!(
            "  {:<8}{:>5.2} + {:.2} + {:.2} of {:.2}",
            format!("{side} {}", round.round),
            cpu.own,
            cpu.workers,
            cpu.rest,
            round.seconds
        );
    }
}

fn print_latency(title: &str, floor: &str, latency: &Latency, budget: f64) {
    println!("\n{title}, {} samples", latency.floor_us.samples);
    println!("  {:<32}{:>12}{:>12}{:>12}{:>12}", "", "p50 ms", "p99 ms", "min ms", "max ms");
    let rows = [
        (format!("floor: {floor}"), latency.floor_us),
        ("weft: received → entered".to_owned(), latency.received_to_entered_us),
        ("weft: published → entered".to_owned(), latency.published_to_entered_us),
    ];
    for (name, Percentiles { p50, p99, min, max, .. }) in rows {
        let ms = |us: f64| us / 1e3;
        println!("  {name:<32}{:>12.3}{:>12.3}{:>12.3}{:>12.3}", ms(p50), ms(p99), ms(min), ms(max));
    }
    println!("  ratio {:.2} at p50 (budget: at most {budget:.1}), {:.2} at p99", latency.ratio_p50, latency.ratio_p99);
}

fn print_idle(idle: &Idle) {
    println!("\nidle: `weft run` with {} functions, watched for {:.0} s", idle.functions, idle.seconds);
    println!(
        "  resident {:.1} MiB (budget: below 30), of that anonymous {:.1}; highest ever {:.1}; {} threads",
        idle.resident_mib, idle.anonymous_mib, idle.resident_peak_mib, idle.threads
    );
    println!("  processor {:.0} ms ({:.3} % of a core)", idle.cpu_ms, idle.cpu_percent);
    println!(
        "  wake-ups {:.2}/s, reads and writes {:.2}/s; by thread: {}",
        idle.wakeups_per_second,
        idle.reads_and_writes_per_second,
        idle.wakeups_by_thread.iter().map(|(name, rate)| format!("{name} {rate:.2}")).collect::<Vec<_>>().join(", ")
    );
}
