//! `weft-test-handlers`: a worker program for whole-system tests. What a handler does is in its event's data, so that a
//! test steers it by files and not by time.

#[path = "handlers/caps.rs"]
mod caps;
#[path = "handlers/confined.rs"]
mod confined;
#[path = "handlers/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::Instrument as _;
use weft_worker::{Context, Failure, WarmUp, Worker, params};

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
        .handler("echo", echo)
        .handler("wait", wait)
        .handler("block", block)
        .handler("fail", fail)
        .handler("retry", retry)
        .handler("panic", panic)
        .handler("exit", exit)
        .handler("environment", environment)
        .handler("speak", speak)
        .warm_up(warm_up)
        .handler("warmed", warmed)
        .handler("traced", traced)
        .handler("state", state)
        .handler("order", order)
        .handler("confined", confined::confined)
        .handler("place", place::place)
        .handler("seen", place::seen)
        .handler("stamp", caps::stamp)
        .batch_handler("bulk", caps::bulk)
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

/// Answers with `answer` of the JSON in the request's body, else with the request itself; with `hang` in it, never.
async fn echo(_: Context, request: Value) -> Result<Value, Failure> {
    let body: Option<Value> = request["body"].as_str().and_then(|body| serde_json::from_str(body).ok());
    if body.as_ref().is_some_and(|body| body.get("hang").is_some()) {
        std::future::pending::<()>().await;
    }
    let answer = body.and_then(|mut body| body.get_mut("answer").map(Value::take));
    Ok(answer.unwrap_or(request))
}

/// Ends when its file is there.
async fn wait(ctx: Context, ask: Ask) -> Result<Value, Failure> {
    note(&ctx, &ask)?;
    while !is_there(ask.file.as_deref()) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(json!({ "attempt": ctx.attempt().0 }))
}

/// Before `from_attempt`: blocks its thread for good, so that nothing but a kill ends it. From then on it ends when its
/// file is there, if it has one.
async fn block(ctx: Context, ask: Ask) -> Result<(), Failure> {
    note(&ctx, &ask)?;
    while ctx.attempt().0 < ask.from_attempt {
        std::thread::park();
    }
    while ask.file.as_ref().is_some_and(|file| !file.exists()) {
        tokio::time::sleep(LOOK).await;
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

/// What a warm-up was told to write, by the variable `WARM_UP`; set once it has run.
static WARMED: OnceLock<String> = OnceLock::new();

/// Does what the variable `WARM_UP` says: `fail`, `hang`, or a word to remember. Without it, nothing.
async fn warm_up(_: WarmUp) -> Result<(), Failure> {
    match std::env::var("WARM_UP").as_deref() {
        Err(_) => Ok(()),
        Ok("fail") => Err(Failure::terminal("NoModel", "the model is not there")),
        // Badly, as only a handler can be: nothing but a kill ends its thread.
        Ok("hang") => loop {
            std::thread::park();
        },
        Ok(word) => {
            WARMED.get_or_init(|| word.to_owned());
            Ok(())
        }
    }
}

/// Answers with what the warm-up left.
async fn warmed(ctx: Context, ask: Ask) -> Result<Option<&'static str>, Failure> {
    note(&ctx, &ask)?;
    Ok(WARMED.get().map(String::as_str))
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

/// A value with some structure.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Basket {
    owner: String,
    items: BTreeMap<String, u32>,
    paid: Option<bool>,
}

/// What `state` may be told to do with the function's state.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    Put { name: String, basket: Basket },
    PutFor { name: String, basket: Basket, ttl_ms: u64 },
    Read { name: String },
    Increment { name: String, by: i64 },
    IncrementOnce { name: String, by: i64 },
    Swap { name: String, expected: Option<i64>, value: i64 },
    Expire { name: String, ttl_ms: u64 },
    Pause { runs: PathBuf, file: PathBuf },
    Fail,
    FailBefore { attempt: u32 },
}

/// Does its steps in order; the result has an answer for each.
async fn state(ctx: Context, steps: Vec<Step>) -> Result<Vec<Value>, Failure> {
    let state = ctx.state().await?;
    let mut answers = Vec::new();
    for step in steps {
        answers.push(match step {
            Step::Put { name, basket } => json!(state.set(&name, &basket).await?),
            Step::PutFor { name, basket, ttl_ms } => {
                json!(state.set_for(&name, &basket, Duration::from_millis(ttl_ms)).await?)
            }
            Step::Read { name } => json!(state.get::<Basket>(&name).await?),
            Step::Increment { name, by } => json!(state.increment(&name, by).await?),
            Step::IncrementOnce { name, by } => json!(state.once().increment(&name, by).await?),
            Step::Swap { name, expected, value } => {
                json!(state.compare_and_set(&name, expected.as_ref(), &value).await?)
            }
            Step::Expire { name, ttl_ms } => json!(state.expire(&name, Duration::from_millis(ttl_ms)).await?),
            Step::Pause { runs, file } => json!(pause(&ctx, runs, &file).await?),
            Step::FailBefore { attempt } if ctx.attempt().0 >= attempt => Value::Null,
            Step::FailBefore { .. } | Step::Fail => return Err(Failure::retry("Told", "the steps say so")),
        });
    }
    Ok(answers)
}

/// Writes the attempt down and goes on when the file is there.
async fn pause(ctx: &Context, runs: PathBuf, file: &Path) -> Result<(), Failure> {
    note(ctx, &Ask { runs: Some(runs), ..Ask::default() })?;
    while !is_there(Some(file)) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// How `order` ends.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Commit,
    Fail,
    Panic,
    Forget,
}

/// What `order` is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Where to write that the effect is written and the transaction open, and the file to wait for then.
    #[serde(default)]
    pause: Option<(PathBuf, PathBuf)>,
    end: End,
}

/// In one transaction: puts a row into `orders` and emits. Then it ends as told.
async fn order(ctx: Context, order: Order) -> Result<String, Failure> {
    let mut tx = ctx.transaction().await?;
    tx.execute("INSERT INTO orders (id, process) VALUES ($1, $2)", params![ctx.key().as_str(), std::process::id()])
        .await?;
    tx.emit("order.placed", &json!({ "order": ctx.key().as_str() }))?;
    if let Some((runs, file)) = order.pause {
        pause(&ctx, runs, &file).await?;
    }
    match order.end {
        End::Commit => tx.commit("placed".to_owned()).await,
        End::Fail => Err(Failure::terminal("Told", "the order says so")),
        End::Panic => std::panic::panic_any("the handler panics on purpose"),
        End::Forget => Ok("forgotten".to_owned()),
    }
}
