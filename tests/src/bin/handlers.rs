//! `weft-test-handlers`: a worker program for whole-system tests. What a handler does is in its event's data, so that a
//! test steers it by files and not by time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tracing::Instrument as _;
use weft_worker::{Context, Failure, Worker};

/// How often a handler looks whether its file is there.
const LOOK: Duration = Duration::from_millis(10);

/// What an event may ask of a handler; each handler looks at what concerns it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ask {
    /// A file that gets a line for each attempt: function, key, attempt, epoch and process, with tabs between.
    runs: Option<PathBuf>,
    /// A file whose coming into being the handler waits for, or that turns a failure into a success.
    file: Option<PathBuf>,
    /// The attempt that is the first to succeed.
    from_attempt: u32,
    /// The type of an event to emit.
    emit: Option<String>,
}

fn main() -> ExitCode {
    Worker::new()
        .handler("noop", noop)
        .handler("wait", wait)
        .handler("block", block)
        .handler("fail", fail)
        .handler("retry", retry)
        .handler("panic", panic)
        .handler("exit", exit)
        .handler("environment", environment)
        .handler("speak", speak)
        .handler("traced", traced)
        .run()
}

/// Writes the attempt down, in one write, so that lines of several workers do not mix.
fn note(ctx: &Context, ask: &Ask) -> Result<(), Failure> {
    let Some(path) = &ask.runs else { return Ok(()) };
    let line =
        format!("{}\t{}\t{}\t{}\t{}\n", ctx.function(), ctx.key(), ctx.attempt(), ctx.epoch().0, std::process::id());
    std::fs::File::options().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
    Ok(())
}

fn is_there(file: Option<&Path>) -> bool {
    file.is_some_and(Path::exists)
}

/// Does nothing, whatever the data.
async fn noop(_: Context, _: Value) -> Result<(), Failure> {
    Ok(())
}

/// Ends when its file is there.
async fn wait(ctx: Context, ask: Ask) -> Result<Value, Failure> {
    note(&ctx, &ask)?;
    while !is_there(ask.file.as_deref()) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(json!({ "attempt": ctx.attempt().0 }))
}

/// Before `from_attempt`: blocks its thread for good, so that nothing but a kill ends it.
async fn block(ctx: Context, ask: Ask) -> Result<(), Failure> {
    note(&ctx, &ask)?;
    while ctx.attempt().0 < ask.from_attempt {
        std::thread::park();
    }
    Ok(())
}

/// Fails for good unless its file is there.
async fn fail(ctx: Context, ask: Ask) -> Result<Value, Failure> {
    note(&ctx, &ask)?;
    if is_there(ask.file.as_deref()) {
        return Ok(json!({ "fixed": true }));
    }
    Err(Failure::terminal("NotFixed", "it is not fixed yet"))
}

/// Fails before `from_attempt`, with another try to come.
async fn retry(ctx: Context, ask: Ask) -> Result<(), Failure> {
    note(&ctx, &ask)?;
    if ctx.attempt().0 < ask.from_attempt {
        return Err(Failure::retry("NotYet", "a later attempt will do"));
    }
    Ok(())
}

/// Panics before `from_attempt`.
async fn panic(ctx: Context, ask: Ask) -> Result<(), Failure> {
    note(&ctx, &ask)?;
    assert!(ctx.attempt().0 >= ask.from_attempt, "the handler panics on purpose");
    Ok(())
}

/// Ends the whole process before `from_attempt`, as a crash would.
async fn exit(ctx: Context, ask: Ask) -> Result<(), Failure> {
    note(&ctx, &ask)?;
    if ctx.attempt().0 < ask.from_attempt {
        eprintln!("going down on purpose");
        std::process::exit(17);
    }
    Ok(())
}

/// Answers with what its process was given.
async fn environment(_: Context, _: Ask) -> Result<Value, Failure> {
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    // The listing's own descriptor is among them, and gone when it is looked at.
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        if let Ok(target) = std::fs::read_link(entry.path()) {
            descriptors.push(format!("{} {}", entry.file_name().to_string_lossy(), target.display()));
        }
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    Ok(json!({
        "variables": variables,
        "descriptors": descriptors,
        "arguments": arguments,
        "folder": std::env::current_dir()?,
        "pid": std::process::id(),
        "group": std::fs::read_to_string("/proc/self/stat")?
            .rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2).map(str::to_owned)),
    }))
}

/// Writes to both streams and to the log.
async fn speak(_: Context, _: Ask) -> Result<(), Failure> {
    println!("said on stdout");
    eprintln!("said on stderr");
    tracing::info!(answer = 42, "said in the log");
    Ok(())
}

/// Opens a span of its own; fails before `from_attempt`; emits.
async fn traced(ctx: Context, ask: Ask) -> Result<(), Failure> {
    async {
        if ctx.attempt().0 < ask.from_attempt {
            return Err(Failure::retry("NotYet", "a later attempt will do"));
        }
        match &ask.emit {
            Some(kind) => ctx.emit(kind, &json!({})),
            None => Ok(()),
        }
    }
    .instrument(tracing::info_span!("inner work"))
    .await
}
