//! `weft-soak handlers`: the worker program. Every attempt writes itself down before it does anything else.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_worker::{Context, Failure, Worker, params};

/// The file that attempts are written to.
pub const RUNS: &str = "SOAK_RUNS";
/// The dispatcher that started the worker.
pub const NODE: &str = "SOAK_NODE";
/// What the worker's own `WEFT_CRASH_AT` shall be; a manifest cannot set that one.
pub const TRAP: &str = "SOAK_TRAP";
const CRASH_AT: &str = "WEFT_CRASH_AT";

pub fn run() -> ExitCode {
    if let Ok(trap) = std::env::var(TRAP)
        && !trap.is_empty()
        && std::env::var_os(CRASH_AT).is_none()
    {
        // The same process with one variable more: the link is on standard input and stays open.
        let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        let error = std::process::Command::new(own).arg("handlers").env(CRASH_AT, trap).exec();
        eprintln!("failed to arm the trap: {error}");
        return ExitCode::FAILURE;
    }
    Worker::new()
        .handler("pay", pay)
        .handler("stock", stock)
        .handler("order", order)
        .handler("ship", ship)
        .handler("slow", slow)
        .handler("flaky", flaky)
        .handler("doomed", doomed)
        .handler("mixed", mixed)
        .handler("strict", strict)
        .run()
}

/// Nanoseconds of the clock that all processes of the machine share.
pub fn nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Writes one line, in one write, so that lines of several workers do not mix.
fn note(ctx: &Context, what: &str) -> Result<(), Failure> {
    let Some(path) = std::env::var_os(RUNS) else { return Ok(()) };
    let node = std::env::var(NODE).unwrap_or_default();
    let line = format!(
        "{what}\t{}\t{}\t{}\t{}\t{}\t{}\t{node}\t{}\n",
        ctx.function(),
        ctx.key(),
        ctx.fence().0,
        ctx.attempt().0,
        ctx.epoch().0,
        std::process::id(),
        nanos(),
    );
    std::fs::File::options().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
    Ok(())
}

/// The effect, in the transaction that settles. `about` says whose doing it is.
async fn effect(ctx: &Context, about: Option<&str>, emit: Option<&str>) -> Result<Value, Failure> {
    let mut tx = ctx.transaction().await?;
    tx.execute(
        "insert into effects (function, key, fence, attempt, epoch, about) values ($1, $2, $3, $4, $5, $6)",
        params![
            ctx.function().as_str(),
            ctx.key().as_str(),
            ctx.fence().0,
            i64::from(ctx.attempt().0),
            i64::from(ctx.epoch().0),
            about.map(str::to_owned),
        ],
    )
    .await?;
    if let Some(kind) = emit {
        tx.emit(kind, &json!({ "order": ctx.key().as_str() }))?;
    }
    tx.commit(json!({ "fence": ctx.fence().0 })).await
}

async fn pay(ctx: Context, _: Value) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    effect(&ctx, None, None).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stock {
    /// Count once, and leave the fence behind.
    Counter(u32),
    /// For the judge: what stands under these names.
    Read(Vec<String>),
}

async fn stock(ctx: Context, stock: Stock) -> Result<Value, Failure> {
    let state = ctx.state().await?;
    match stock {
        Stock::Counter(counter) => {
            note(&ctx, "begin")?;
            let sum = state.once().increment(&format!("counter-{counter}"), 1).await?;
            state.set(&format!("fence {}", ctx.key()), &ctx.fence().0).await?;
            note(&ctx, "set")?;
            Ok(json!({ "sum": sum }))
        }
        Stock::Read(names) => {
            let mut values = BTreeMap::new();
            for name in names {
                let value = state.get::<i64>(&name).await?;
                values.insert(name, value);
            }
            Ok(json!(values))
        }
    }
}

async fn order(ctx: Context, _: Value) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    effect(&ctx, None, Some("soak.ship")).await
}

#[derive(Debug, Deserialize)]
struct Ship {
    order: String,
}

async fn ship(ctx: Context, ship: Ship) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    effect(&ctx, Some(&ship.order), None).await
}

#[derive(Debug, Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(ctx: Context, slow: Slow) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    tokio::time::sleep(Duration::from_millis(slow.ms)).await;
    effect(&ctx, None, None).await
}

#[derive(Debug, Deserialize)]
struct Flaky {
    until: u32,
}

async fn flaky(ctx: Context, flaky: Flaky) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    if ctx.attempt().0 < flaky.until {
        return Err(Failure::retry("NotYet", "a later attempt will do"));
    }
    effect(&ctx, None, None).await
}

async fn doomed(ctx: Context, _: Value) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    Err(Failure::terminal("Doomed", "no attempt will do"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mixed {
    poison: bool,
}

async fn mixed(ctx: Context, mixed: Mixed) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    if mixed.poison {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    effect(&ctx, None, None).await
}

async fn strict(ctx: Context, _: Value) -> Result<Value, Failure> {
    note(&ctx, "begin")?;
    effect(&ctx, None, None).await
}
