//! `weft-soak`: a workload on two dispatchers, random faults to everything, and a judge in the end.
//!
//! `cargo xtask soak` builds and starts it; see `docs/soak.md`. Everything is on loopback and of this run alone. The seed
//! decides every event and every fault. It is no test of speed: only what is there in the end counts.

mod args;
mod books;
mod faults;
mod handlers;
mod nodes;
mod oracle;
mod plant;
mod publisher;
mod report;
mod schedule;
mod stand;
mod workload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::args::Args;
use crate::books::{Books, Left};
use crate::faults::Done;
use crate::nodes::Node;
use crate::plant::Plant;
use crate::publisher::Published;
use crate::schedule::{NODES, What};
use crate::stand::{LEASE, PREFIX, Stand};
use crate::workload::{End, FUNCTIONS, Planned};

/// How long a start of everything may take.
const START: Duration = Duration::from_secs(120);
/// Healing is given up when nothing ended for so long.
const STUCK: Duration = Duration::from_secs(90);
/// How long a dispatcher may take to stop in the end.
const STOP: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "handlers") {
        return handlers::run();
    }
    let args = match Args::parse(arguments) {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("{problem}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    let plan = if args.calm { Vec::new() } else { schedule::plan(args.seed, args.length, LEASE) };
    if args.plan {
        plan.iter().for_each(|fault| println!("{fault}"));
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(soak(&args, &plan)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("failed to run the soak: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The whole run; whether the promise was kept.
async fn soak(args: &Args, plan: &[schedule::Fault]) -> Result<bool, String> {
    println!("seed {}, {} faults planned; starting servers and dispatchers", args.seed, plan.len());
    let stand = Arc::new(Stand::start().await?);
    let nodes = Arc::new(NODES.map(|name| Node::start(stand.clone(), name)));
    taking_events(&stand, &nodes).await?;

    let began = Instant::now();
    let leave_out = args.plant.contains(&Plant::LostEvent);
    let publishing = tokio::spawn(publisher::run(stand.clone(), args.seed, args.rate, args.length, leave_out));
    let faults = faults::run(plan, &stand, &nodes, began).await;
    let mut published = publishing.await.map_err(|error| format!("publishing: {error}"))?;

    println!("{:8.2} s  healing", began.elapsed().as_secs_f64());
    let healing = Instant::now();
    let mut nothing_left = heal(&stand, STUCK).await;
    let healing = healing.elapsed();
    let mut state = BTreeMap::new();
    if nothing_left.is_ok() {
        state = read_state(&stand, &mut published).await?;
        nothing_left = heal(&stand, STUCK).await;
    }
    if args.plant.contains(&Plant::OtherCounter) {
        state.entry("counter-0".to_owned()).and_modify(|sum| *sum = sum.map(|sum| sum + 1));
    }

    let nodes = Arc::into_inner(nodes).ok_or("a fault is still under way")?;
    let (restarts, faulty) = finish(nodes).await;
    for plant in &args.plant {
        plant.put(&stand).await?;
    }
    let mut books = Books::read(&stand).await?;
    books.planned = published.events.clone();
    books.requests = published.requests.clone();
    if args.plant.contains(&Plant::MissingAnswer) {
        books.answers.pop();
    }
    books.state = state;
    books.faulty = faulty;
    books.flushed = flushed(&faults);
    books.differences = audit(&stand).await?;
    if let Err(left) = nothing_left {
        println!("gave up waiting: {left:?}");
    }
    let findings = oracle::judge(&books);
    let run = report::Run {
        args,
        published: &published,
        faults: &faults,
        books: &books,
        restarts,
        healing,
        findings: &findings,
    };
    run.print();
    let json = run.json();
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{json}\n")).map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    if !findings.is_empty() {
        let kept = keep(&stand, args.seed, &json, &run)?;
        println!("logs, run log and report:\nkept in {}", kept.display());
    }
    Ok(findings.is_empty())
}

/// Waits until both dispatchers consume from every function's queue.
async fn taking_events(stand: &Stand, nodes: &[Node; 2]) -> Result<(), String> {
    let end = Instant::now() + START;
    loop {
        let mut missing = Vec::new();
        for function in FUNCTIONS {
            let queue = stand.vhost.queue(&format!("{PREFIX}.fn.{function}")).await;
            let consumers = queue.and_then(|queue| queue.get("consumers")?.as_u64()).unwrap_or_default();
            if consumers < 2 {
                missing.push(function);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            let said: Vec<_> = nodes.iter().flat_map(Node::ended).flat_map(|end| end.last).collect();
            return Err(format!("no two consumers after {START:?} of {missing:?}\n{}", said.join("\n")));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until nothing is left to do; gives up when nothing has ended for `stuck`, with what is left then.
async fn heal(stand: &Stand, stuck: Duration) -> Result<(), Left> {
    let (mut progress, mut before, mut quiet) = (Instant::now(), None, 0);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Ok(left) = Left::read(stand).await else { continue };
        // The broker counts twice a second: nothing must be left in several looks.
        quiet = if left.is_nothing() { quiet + 1 } else { 0 };
        if quiet >= 4 {
            return Ok(());
        }
        if before.as_ref() != Some(&left.ended) {
            before = Some(left.ended);
            progress = Instant::now();
        }
        if progress.elapsed() > stuck {
            return Err(left);
        }
    }
}

/// Asks `stock`, by events, for the values that the judge wants to know.
async fn read_state(stand: &Stand, published: &mut Published) -> Result<BTreeMap<String, Option<i64>>, String> {
    let names: Vec<String> = books::state_names(&published.events).into_iter().collect();
    let mut lines = String::new();
    for (number, names) in names.chunks(500).enumerate() {
        let id = format!("read{number}");
        let line = workload::line("stock", &id, &json!({ "read": names }));
        lines.push_str(&format!("{line}\n"));
        published.events.push(Planned { id, function: "stock", end: End::Succeeded, counter: None, line });
    }
    let mut tries = Published::default();
    publisher::confirmed(stand, &lines, &mut tries).await;
    let wanted = names.chunks(500).count();
    let sql = "select convert_from(result, 'UTF8') from weft.invocation \
               where function = 'stock' and key like '/soak read%' and state = 'succeeded'";
    let end = Instant::now() + STUCK;
    loop {
        let text = stand.sql(sql).await?;
        let answers: Vec<&str> = text.lines().collect();
        if answers.len() == wanted {
            let mut values = BTreeMap::new();
            for answer in answers {
                let part: BTreeMap<String, Option<i64>> =
                    serde_json::from_str(answer).map_err(|error| format!("reading a result: {error}"))?;
                values.extend(part);
            }
            return Ok(values);
        }
        if Instant::now() > end {
            return Err(format!("{} of {wanted} questions about the state were answered", answers.len()));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Stops the dispatchers in good order. How often they were started again, and what is wrong with how they ended.
async fn finish(nodes: [Node; 2]) -> (usize, Vec<String>) {
    let (mut restarts, mut faulty) = (0, Vec::new());
    for node in nodes {
        restarts += node.starts().saturating_sub(1);
        let name = node.name;
        let (ended, last) = node.finish(STOP).await;
        for end in ended.iter().filter(|end| end.is_a_fault()) {
            faulty.push(format!("{name}, start {}: {}: {}", end.start, end.status, end.last.join("\n")));
        }
        match last {
            Some(status) if status.success() => {}
            Some(status) => faulty.push(format!("{name} stopped with {status} in the end")),
            None => faulty.push(format!("{name} has not stopped within {STOP:?}")),
        }
    }
    (restarts, faulty)
}

/// What `weft audit` finds, a line each.
async fn audit(stand: &Stand) -> Result<Vec<String>, String> {
    let exit = stand.weft(&["audit", "--json", "--grace", "0s", "--pause", "1s"]).run(STOP).await;
    let answer: serde_json::Value =
        serde_json::from_str(&exit.stdout.concat()).map_err(|error| format!("weft audit: {error}: {}", exit.text()))?;
    let differences = answer["differences"].as_array().ok_or("weft audit lists no differences")?;
    Ok(differences.iter().map(ToString::to_string).collect())
}

/// When Redis was last emptied.
fn flushed(faults: &[Done]) -> Option<u64> {
    faults.iter().filter(|fault| fault.what == What::FlushRedis && fault.hit).map(|fault| fault.until_nanos).max()
}

/// Copies what explains a broken promise to a folder that stays, beside the built programs.
fn keep(stand: &Stand, seed: u64, json: &serde_json::Value, run: &report::Run<'_>) -> Result<PathBuf, String> {
    let io = |error: std::io::Error| format!("keeping the logs: {error}");
    let own = std::env::current_exe().map_err(io)?;
    let target = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let kept = target.join("soak").join(format!("seed-{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&kept).map_err(io)?;
    for entry in std::fs::read_dir(stand.folder.join("logs")).map_err(io)?.flatten() {
        std::fs::copy(entry.path(), kept.join(entry.file_name())).map_err(io)?;
    }
    std::fs::copy(stand.folder.join("runs"), kept.join("runs")).map_err(io)?;
    std::fs::write(kept.join("report.json"), format!("{json}\n")).map_err(io)?;
    let explained: Vec<String> = run.findings.iter().map(|finding| run.explained(finding)).collect();
    std::fs::write(kept.join("findings"), explained.join("\n")).map_err(io)?;
    Ok(kept)
}
