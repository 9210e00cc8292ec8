//! Measures Weft against floors and peers, in one run on private servers of its own: see `README.md` beside this crate.
//!
//! The same program is also what is started: the worker of the measured dispatcher and the empty program of the floor
//! (by its hidden first argument), so that both sides load the same file.

mod audit;
mod burst;
mod child;
mod clock;
mod drain;
mod fault;
mod fill;
mod floor;
mod growth;
mod idle;
mod lambda;
mod latency;
mod limit;
mod machine;
mod noted;
mod numbers;
mod ours;
mod peers;
mod report;
mod running;
mod stage;
mod stamped;
mod svg;
mod sweep;
mod tables;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio_util::task::AbortOnDropHandle;
use weft_process::telemetry::{self, Settings};

use crate::fault::{Fault, Result};
use crate::limit::Limit;
use crate::machine::{Machine, load};
use crate::peers::Peer;
use crate::report::{Part, Report};
use crate::stage::Servers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Every figure that has a budget: throughput, cold, warm, lambda, burst, idle, drain, growth
    All,
    /// Events per second end to end, with peers
    Throughput,
    /// From an event to its handler, with a worker to start
    Cold,
    /// From an event to its handler, with a worker that waits
    Warm,
    /// A Python function on AWS's client, with a worker to start and with one that waits
    Lambda,
    /// From nothing to a thousand invocations at once
    Burst,
    /// Memory and wake-ups of a dispatcher with nothing to do
    Idle,
    /// A ledger of ten million rows against one of ten thousand
    Growth,
    /// A queue that filled while nothing ran
    Drain,
    /// Deleting expired rows from a ledger of ten million
    Sweep,
    /// `weft audit` over a million rows
    Audit,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Throughput => "throughput",
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Lambda => "lambda",
            Self::Burst => "burst",
            Self::Idle => "idle",
            Self::Growth => "growth",
            Self::Drain => "drain",
            Self::Sweep => "sweep",
            Self::Audit => "audit",
        }
    }

    /// What it takes at least on two processors. With less left it is not begun.
    const fn least(self) -> Duration {
        Duration::from_secs(match self {
            Self::All => 0,
            Self::Throughput => 30,
            Self::Cold | Self::Warm | Self::Audit => 20,
            Self::Burst => 30,
            Self::Idle | Self::Lambda => 60,
            Self::Drain => 45,
            Self::Growth => 240,
            Self::Sweep => 240,
        })
    }
}

/// Weft against floors and peers, in one run.
///
/// Starts private servers that write to the disk before they answer. Figures are of this machine; the ratios are what
/// can be compared.
#[derive(Debug, Clone, Parser)]
#[command(name = "weft-bench", max_term_width = 110)]
struct Args {
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// The whole run, in minutes; what does not fit in is left out and named
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    limit: u32,
    /// Throughput, growth: events in a round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    events: u32,
    /// Throughput, growth: rounds of each side, interleaved
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Throughput, growth, drain: concurrent invocations in one worker
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slots: u32,
    /// Throughput, growth, drain: workers at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Throughput: the peers to measure, with commas between; default: all
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "no_peers")]
    peers: Vec<Peer>,
    /// Throughput: no peers
    #[arg(long)]
    no_peers: bool,
    /// Cold, lambda: samples of each side (warm: ten times as many)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    samples: u32,
    /// Burst: rounds of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    bursts: u32,
    /// Idle: how long to watch, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Drain: events that wait
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    waiting: u32,
    /// Drain: where the chart goes
    #[arg(long, default_value = "drain.svg")]
    chart: PathBuf,
    /// Sweep, audit: rows in the ledger; default: ten million, and one million
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    rows: Option<u64>,
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
            if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn run(args: &Args) -> Result<Report> {
    let limit = Limit::of(Duration::from_secs(u64::from(args.limit) * 60));
    let machine = Machine::now();
    eprintln!("starting servers");
    let servers = Arc::new(Servers::start().await);
    let mut bench = Bench { args: args.clone(), limit, report: Report::new(&servers, machine).await, servers };
    bench.parts().await;
    bench.report.ended(limit.elapsed());
    Ok(bench.report)
}

struct Bench {
    args: Args,
    limit: Limit,
    report: Report,
    servers: Arc<Servers>,
}

impl Bench {
    /// In the order of what most people ask for first; the one that takes longest comes last.
    async fn parts(&mut self) {
        let args = self.args.clone();
        let Args { events, rounds, slots, workers, samples, .. } = args;
        let peers = match (args.no_peers, args.peers.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => Peer::ALL.to_vec(),
            (false, false) => args.peers.clone(),
        };
        let until = self.limit.share(if args.what == What::All { 0.5 } else { 1.0 });
        self.part(What::Throughput, async move |servers| {
            let plan = throughput::Plan { events, rounds, slots, workers, until };
            throughput::run(&servers, plan, &peers).await.map(Part::Throughput)
        })
        .await;
        self.part(What::Cold, async move |servers| latency::cold(&servers, samples).await.map(Part::Cold)).await;
        self.part(What::Warm, async move |servers| latency::warm(&servers, samples).await.map(Part::Warm)).await;
        self.part(What::Lambda, async move |servers| {
            lambda::run(&servers, samples).await.map(|lambda| Part::Lambda(Box::new(lambda)))
        })
        .await;
        self.part(What::Burst, async move |servers| burst::run(&servers, args.bursts).await.map(Part::Burst)).await;
        self.part(What::Idle, async move |servers| idle::run(&servers, args.seconds).await.map(Part::Idle)).await;
        self.part(What::Drain, async move |servers| {
            drain::run(&servers, args.waiting, slots, workers, &args.chart).await.map(Part::Drain)
        })
        .await;
        self.part(What::Growth, async move |servers| {
            growth::run(&servers, events, rounds, slots, workers).await.map(Part::Growth)
        })
        .await;
        // Not of a budget, and only on demand.
        self.part(What::Sweep, async move |servers| {
            sweep::run(&servers, args.rows.unwrap_or(10_000_000)).await.map(Part::Sweep)
        })
        .await;
        self.part(What::Audit, async move |servers| {
            audit::run(&servers, args.rows.unwrap_or(1_000_000)).await.map(Part::Audit)
        })
        .await;
    }

    /// Runs one part if it is wanted and fits in. What goes wrong in it, a panic of the harness included, is noted, and the
    /// others go on.
    async fn part<F: Future<Output = Result<Part>> + Send + 'static>(
        &mut self,
        what: What,
        run: impl FnOnce(Arc<Servers>) -> F,
    ) {
        let on_demand = matches!(what, What::Sweep | What::Audit);
        if self.args.what != what && (self.args.what != What::All || on_demand) {
            return;
        }
        let (name, left) = (what.name(), self.limit.left());
        if left < what.least() {
            let text =
                format!("{} s of the limit were left, it takes {} or more", left.as_secs(), what.least().as_secs());
            return self.report.left_out(name, text);
        }
        let before = load();
        let task = AbortOnDropHandle::new(tokio::spawn(run(Arc::clone(&self.servers))));
        match tokio::time::timeout(left, task).await {
            Ok(Ok(Ok(part))) => self.report.put(part),
            Ok(Ok(Err(Fault(text)))) => self.report.fault(name, text),
            Ok(Err(panic)) => self.report.fault(name, panic.to_string()),
            Err(_) => self.report.left_out(name, "it was under way when the limit was over".to_owned()),
        }
        self.report.load(name, before, load());
    }
}
