//! `place`: an order whose steps a test can hold, see, and end as it likes, attempt by attempt.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, getpid, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_worker::{Context, Failure, params};

use crate::LOOK;

/// How an attempt ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    #[default]
    Commit,
    Fail,
    Retry,
    /// Takes the whole worker along.
    Kill,
}

/// What an order asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Gets a line for each attempt once its effect is written: key, attempt, epoch, process and time in microseconds.
    runs: PathBuf,
    /// Gets a line with the downstream key for each attempt: the call of an outside service.
    #[serde(default)]
    side: Option<PathBuf>,
    /// Attempt `n` waits, its effect written and its transaction open, until the file `HOLD.n` is there.
    #[serde(default)]
    hold: Option<PathBuf>,
    /// Gets a line when an attempt is told to stop, with the time in microseconds.
    #[serde(default)]
    stopped: Option<PathBuf>,
    /// Gets a line for each attempt that commits: attempt, and what came of it.
    #[serde(default)]
    commits: Option<PathBuf>,
    /// How the attempts end, in order; those after the last commit, and those of a redrive.
    #[serde(default)]
    ends: Vec<End>,
    /// Works in a task of its own, which outlives the attempt.
    #[serde(default)]
    detached: bool,
    /// Without a transaction: emits and succeeds.
    #[serde(default)]
    plain: bool,
}

/// Puts a row into `orders` and emits `order.placed`, in one transaction with its success.
pub async fn place(ctx: Context, order: Order) -> Result<String, Failure> {
    if !order.detached {
        return work(&ctx, order).await;
    }
    let task = tokio::spawn(async move { work(&ctx, order).await });
    task.await.unwrap_or_else(|error| Err(Failure::retry("Detached", error.to_string())))
}

async fn work(ctx: &Context, order: Order) -> Result<String, Failure> {
    let attempt = ctx.attempt().0;
    if let Some(side) = &order.side {
        write(side, &format!("{}\t{attempt}", ctx.downstream_key("charge")))?;
    }
    if order.plain {
        ctx.emit("order.placed", &json!({}))?;
        note(ctx, &order)?;
        hold(ctx, &order).await?;
        return end(ctx, &order).map(|()| format!("placed by attempt {attempt}"));
    }
    let mut tx = ctx.transaction().await?;
    let row = params![ctx.key().as_str(), std::process::id()];
    tx.execute("INSERT INTO orders (id, process) VALUES ($1, $2)", row).await?;
    tx.emit("order.placed", &json!({}))?;
    note(ctx, &order)?;
    hold(ctx, &order).await?;
    end(ctx, &order)?;
    let committed = tx.commit(format!("placed by attempt {attempt}")).await;
    if let Some(commits) = &order.commits {
        let what = match &committed {
            Ok(_) => "committed",
            Err(failure) if failure.is_superseded() => "superseded",
            Err(_) => "failed",
        };
        write(commits, &format!("{attempt}\t{what}"))?;
    }
    committed
}

fn end(ctx: &Context, order: &Order) -> Result<(), Failure> {
    let at = usize::try_from(ctx.attempt().0).unwrap_or(usize::MAX).saturating_sub(1);
    if ctx.epoch().0 > 0 {
        return Ok(());
    }
    match order.ends.get(at).copied().unwrap_or_default() {
        End::Commit => Ok(()),
        End::Fail => Err(Failure::terminal("Told", "the order says so")),
        End::Retry => Err(Failure::retry("Told", "the order says so")),
        End::Kill => {
            kill_process(getpid(), Signal::KILL)?;
            // Not reached: the signal takes every thread.
            Err(Failure::retry("Alive", "the process lives on"))
        }
    }
}

async fn hold(ctx: &Context, order: &Order) -> Result<(), Failure> {
    let Some(hold) = &order.hold else { return Ok(()) };
    let file = PathBuf::from(format!("{}.{}", hold.display(), ctx.attempt().0));
    while !file.exists() {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = ctx.cancelled(), if order.stopped.is_some() => {
                if let Some(stopped) = &order.stopped {
                    write(stopped, &micros().to_string())?;
                }
                return Err(Failure::retry("Stopped", "the attempt was told to stop"));
            }
        }
    }
    Ok(())
}

fn note(ctx: &Context, order: &Order) -> Result<(), Failure> {
    let (key, attempt, epoch, process) = (ctx.key(), ctx.attempt(), ctx.epoch().0, std::process::id());
    write(&order.runs, &format!("{key}\t{attempt}\t{epoch}\t{process}\t{}", micros()))
}

fn micros() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros())
}

/// One line in one write, so that lines of several workers do not mix.
fn write(path: &Path, line: &str) -> Result<(), Failure> {
    std::fs::File::options().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

/// A consumer of what `place` emits: puts a row into `seen`, in a transaction.
pub async fn seen(ctx: Context, _: Value) -> Result<(), Failure> {
    let mut tx = ctx.transaction().await?;
    tx.execute("INSERT INTO seen (id) VALUES ($1)", params![ctx.key().as_str()]).await?;
    tx.commit(()).await
}
