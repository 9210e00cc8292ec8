//! Measures Weft against floors, in one run on private servers of its own: see `README.md` beside this crate.
//!
//! The same program is also what is started: the worker of the measured dispatcher and the empty program of the floor
//! (by its hidden first argument), so that both sides load the same file.

mod child;
mod clock;
mod fault;
mod idle;
mod latency;
mod machine;
mod numbers;
mod report;
mod stage;
mod stamped;
mod throughput;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use weft_process::telemetry::{self, Settings};

use crate::fault::{Fault, Result};
use crate::machine::Machine;
use crate::report::Report;
use crate::stage::Servers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Events per second, end to end
    Throughput,
    /// From an event to its handler, with and without a worker to start
    Cold,
    /// Memory and wake-ups of a dispatcher with nothing to do
    Idle,
    All,
}

/// Weft against floors, in one run.
///
/// Starts private servers that write to the disk before they answer. Figures are of this machine; the ratios are what
/// can be compared.
#[derive(Debug, Parser)]
#[command(name = "weft-bench", max_term_width = 110)]
struct Args {
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Throughput: events in a round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Throughput: rounds of each side, interleaved
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Throughput: concurrent invocations in one worker
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slots: u32,
    /// Throughput: workers at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Cold: samples of each side (warm: ten times as many)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    samples: u32,
    /// Idle: how long to watch, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// One JSON object on stdout instead of tables
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // Before anything else: a child's start is what is measured.
    match std::env::args_os().nth(1).as_deref().and_then(|first| first.to_str()) {
        Some(child::WORKER) => return child::worker(),
        Some(child::EMPTY) => return child::empty(),
        Some(child::ECHO) => return child::echo(),
        _ => {}
    }
    let args = Args::parse();
    match measure(&args) {
        Ok(report) => {
            report.print(args.json);
            ExitCode::SUCCESS
        }
        Err(Fault(text)) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<Report> {
    telemetry::init(Settings {
        filter: Some("warn,lapin=error,sqlx=error".to_owned()),
        ..Settings::new("weft-bench", "bench")
    })?;
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

async fn run(args: &Args) -> Result<Report> {
    let wanted = |what| args.what == what || args.what == What::All;
    let machine = Machine::now();
    eprintln!("starting servers");
    let servers = Servers::start().await;
    let mut report = Report::new(&servers, machine).await;
    if wanted(What::Throughput) {
        let plan =
            throughput::Plan { events: args.events, rounds: args.rounds, slots: args.slots, workers: args.workers };
        report.throughput(throughput::run(&servers, plan).await?);
    }
    if wanted(What::Cold) {
        report.latency(latency::run(&servers, args.samples).await?);
    }
    if wanted(What::Idle) {
        report.idle(idle::run(&servers, args.seconds).await?);
    }
    Ok(report)
}
