//! `weft demo`: the orders example from zero workers back to zero, judged.
//!
//! It leaves nothing behind: the embedded file is temporary; on real services it works in a database and under a prefix
//! of its own, and removes both.

mod place;
mod summary;

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use weft_dispatcher::broker::{Broker, Names};
use weft_dispatcher::status::Stats;
use weft_dispatcher::{Config, Dispatcher};
use weft_example_orders::{dataset, judge, model};
use weft_ledger::{Ledger, State};
use weft_process::report::{Code, Exit, Report};
use weft_process::shutdown::Shutdown;
use weft_process::telemetry::{Export, Metrics};
use weft_schemas::NodeName;
use weft_schemas::manifest::Manifest;

use self::place::Place;
use self::summary::Summary;
use crate::args;

/// Orders a second: brisk for a shop, and slow enough that latencies are those of the way and not of a queue.
const RATE: u32 = 150;
/// How often the demo looks at where things stand.
const LOOK: Duration = Duration::from_millis(100);
/// Looks in a row that must find nothing to do before the flow counts as ended.
const QUIET_LOOKS: u32 = 5;

pub async fn run(args: args::Demo, export: Export) -> Result<Exit, Report> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to follow signals: {error}")))?;
    let place = Place::make(&args.services).await?;
    let result = flow(&args, &place, export, shutdown).await;
    place.remove().await;
    let summary = result?;
    summary.show(args.json)?;
    Ok(if summary.passes() { Exit::Ok } else { Exit::Check })
}

async fn flow(args: &args::Demo, place: &Place, export: Export, shutdown: Shutdown) -> Result<Summary, Report> {
    let unexpected = |what: &str, error: &(dyn std::error::Error + 'static)| {
        Report::new(Code::Unexpected, format!("failed to {what}: {}", weft_process::report::chain(error)))
    };
    let entries = dataset::committed().map_err(|error| unexpected("read the orders", &error))?;
    let expected = model::Expected::committed().map_err(|error| unexpected("read the expected end", &error))?;
    let manifest = manifest()?;

    let ledger = place.ledger().await?;
    ledger.migrate().await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    let (ledger_address, state_address) = (place.ledger_address(), place.state_address());
    weft_example_orders::prepare(ledger_address.expose())
        .await
        .map_err(|error| unexpected("make the shop's tables", &error))?;
    let broker = place.broker().await?;
    let node =
        NodeName::new(format!("{}-demo", super::hostname())).map_err(|error| unexpected("name the node", &error))?;
    let config = Config {
        node,
        prefix: place.prefix().to_owned(),
        budget: weft_dispatcher::machine::budget(&manifest),
        manifest,
        broker: Arc::clone(&broker),
        ledger: Arc::clone(&ledger),
        ledger_address: ledger_address.clone(),
        state_address: state_address.clone(),
        admin: None,
        lease: Config::LEASE,
        drain_limit: Config::DRAIN_LIMIT,
        max_workers: Config::MAX_WORKERS,
        export,
        metrics: Metrics::off(),
    };
    let dispatcher = Dispatcher::prepare(config).await?;
    let stats = dispatcher.stats();
    // Declared here as well as by the dispatcher, so that nothing is published before the queues are bound.
    broker.declare(&dispatcher.topology()).await.map_err(|error| weft_dispatcher::report::broker(&error))?;
    let running = tokio::spawn(dispatcher.run(shutdown.clone()));

    let started = Instant::now();
    let bar = bar(args.json, expected.published);
    let exchange = Names::new(place.prefix()).events();
    let messages = entries.iter().map(|entry| Ok(entry.to_message(&exchange)));
    let (published, _) = super::publish::publish_all(&broker, messages, Some(RATE), |_| ()).await?;
    let outcome = watch(args, &ledger, &broker, place, &stats, &shutdown, &bar).await;
    let took = started.elapsed();
    let workers_at_end = stats.workers();
    bar.finish_and_clear();

    let observed = judge::observe(ledger_address.expose(), state_address.expose(), ledger.as_ref(), place.prefix())
        .await
        .map_err(|error| unexpected("look at the effects", &error))?;
    shutdown.drain.cancel();
    let stopped = running.await.map_err(|error| unexpected("stop the dispatcher", &error))?;
    outcome?;
    stopped?;
    let verdict = judge::compare(&expected, &observed, dataset::accounts());
    Ok(Summary::new(&expected, &observed, &verdict, &stats, published, workers_at_end, took))
}

/// The example's manifest, with this very program as the worker.
fn manifest() -> Result<Manifest, Report> {
    let program = std::env::current_exe()
        .map_err(|error| Report::new(Code::ProgramMissing, format!("failed to find this program: {error}")))?;
    let mut manifest = weft_example_orders::manifest()
        .map_err(|faults| Report::new(Code::Manifest, format!("failed to read the example's manifest: {faults}")))?;
    for function in manifest.functions.values_mut() {
        function.command = vec![program.display().to_string(), crate::WORKER.to_owned()];
    }
    Ok(manifest)
}

/// Follows the flow until nothing is left to do and every worker has left.
async fn watch(
    args: &args::Demo,
    ledger: &Arc<dyn Ledger>,
    broker: &Arc<dyn Broker>,
    place: &Place,
    stats: &Stats,
    shutdown: &Shutdown,
    bar: &ProgressBar,
) -> Result<(), Report> {
    let limit = Instant::now() + args.limit;
    let names = Names::new(place.prefix());
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        if Instant::now() > limit {
            return Err(Report::new(
                Code::CheckFailed,
                format!("the flow was not done within {} s", args.limit.as_secs()),
            )
            .help("give it longer with --limit; `--log info` shows what it waits for"));
        }
        tokio::select! {
            () = shutdown.drain.cancelled() => {
                return Err(Report::new(Code::CheckFailed, "the demo was stopped before it was done"));
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        // Neither a service that is away nor an answer that fails is the end of the demo: it is part of the show.
        let Ok(totals) = ledger.totals().await else {
            quiet = 0;
            continue;
        };
        let open: u64 = totals
            .iter()
            .filter(|(_, state, _)| matches!(state, State::Claimed | State::Waiting))
            .map(|(_, _, n)| n)
            .sum();
        let done: u64 = totals.iter().map(|(_, _, n)| n).sum::<u64>() - open;
        show(bar, done, open, stats);
        let empty = open == 0 && matches!(ledger.next_due().await, Ok(None)) && stats.workers() == 0;
        let mut drained = empty;
        if empty {
            for function in stats.functions().keys() {
                drained &= broker.depth(&names.function(function)).await == Some(0);
            }
        }
        quiet = if drained { quiet + 1 } else { 0 };
    }
    Ok(())
}

fn bar(json: bool, published: u64) -> ProgressBar {
    use std::io::IsTerminal as _;
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // Each order passes four functions, less what dies on the way.
    let bar = ProgressBar::new(published.saturating_mul(4));
    if let Ok(style) = ProgressStyle::with_template("{bar:30.cyan} {pos} invocations  {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, done: u64, open: u64, stats: &Stats) {
    let snapshot = stats.snapshot();
    let sum = |field: fn(&weft_dispatcher::status::FunctionSnapshot) -> u64| {
        snapshot.functions.values().map(field).sum::<u64>()
    };
    bar.set_position(done);
    bar.set_message(format!(
        "{open} open, {} workers, {} retries, {} duplicates, {} dead",
        snapshot.workers,
        sum(|function| function.retries),
        sum(|function| function.duplicates),
        sum(|function| function.dead.values().sum()),
    ));
}
