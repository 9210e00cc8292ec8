//! `stamp` and `bulk`: what caps, order and batches are seen by. Each attempt leaves a line when it begins and one when it
//! ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use weft_worker::{BatchContext, BatchEvent, Context, Failure};

use crate::LOOK;

/// What an event may ask for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ask {
    /// Gets the lines: key, attempt, time in microseconds, `begin` or `end`, with tabs between.
    runs: PathBuf,
    /// What it is ordered by; the handler does not look at it.
    #[serde(rename = "lane")]
    _lane: Option<String>,
    /// A file whose coming into being it waits for.
    file: Option<PathBuf>,
    /// How long it works at least, in milliseconds.
    work_ms: u64,
    /// The attempt that is the first to succeed.
    from_attempt: u32,
    /// It fails for good.
    dies: bool,
    /// Attempts before this one take the whole worker along.
    exits_before: u32,
}

fn note(ctx: &Context, ask: &Ask, what: &str) -> Result<(), Failure> {
    let micros = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros());
    write(&ask.runs, &format!("{}\t{}\t{micros}\t{what}", ctx.key(), ctx.attempt()))
}

/// One line in one write, so that lines of several workers do not mix.
fn write(path: &Path, line: &str) -> Result<(), Failure> {
    std::fs::File::options().create(true).append(true).open(path)?.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

/// Notes each event of the call with how many there are, and answers for each as [`stamp`] does.
pub async fn bulk(_: BatchContext, events: Vec<BatchEvent<Ask>>) -> Result<Vec<Result<u32, Failure>>, Failure> {
    let size = u32::try_from(events.len())?;
    for BatchEvent { ctx, data } in &events {
        note(ctx, data, &size.to_string())?;
    }
    if events.iter().any(|event| event.ctx.attempt().0 < event.data.exits_before) {
        std::process::exit(17);
    }
    let answer = |BatchEvent { ctx, data }: &BatchEvent<Ask>| {
        if data.dies {
            return Err(Failure::terminal("Told", "the event says so"));
        }
        if ctx.attempt().0 < data.from_attempt {
            return Err(Failure::retry("NotYet", "a later attempt will do"));
        }
        Ok(size)
    };
    Ok(events.iter().map(answer).collect())
}

/// Notes its begin, does as it is told, and notes its end.
pub async fn stamp(ctx: Context, ask: Ask) -> Result<(), Failure> {
    note(&ctx, &ask, "begin")?;
    tokio::time::sleep(Duration::from_millis(ask.work_ms)).await;
    while ask.file.as_deref().is_some_and(|file| !file.exists()) {
        tokio::time::sleep(LOOK).await;
    }
    note(&ctx, &ask, "end")?;
    if ask.dies {
        return Err(Failure::terminal("Told", "the event says so"));
    }
    if ctx.attempt().0 < ask.from_attempt {
        return Err(Failure::retry("NotYet", "a later attempt will do"));
    }
    Ok(())
}
