//! Functions on the clients that AWS wrote: Python through `awslambdaric`, Rust through `lambda_runtime`. What holds for a
//! native handler holds for them.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use weft_tests::{Process, poll};

use crate::system_stage::{LIMIT, Stage, children, complaints, record, runs_reach, started, stop};
use crate::system_telemetry::{Span, Spans, receiver};

const PYTHON: &str = r#"
import json, os, time

class OutOfStock(Exception):
    pass

def handler(event, context):
    ask = event["data"]
    print("handling", event["id"])
    with open(ask["runs"], "a+") as runs:
        runs.write(context.aws_request_id + "\n")
        runs.seek(0)
        count = len(runs.read().splitlines())
    what = ask.get("do")
    if what == "fail":
        raise OutOfStock("no stock of " + ask["item"])
    if what == "retry" and count < 2:
        raise OutOfStock("not yet")
    if what == "hang":
        time.sleep(3600)
    left = context.get_remaining_time_in_millis()
    assert 0 < left <= 2000, left
    return {
        "id": event["id"], "function": context.function_name, "trace": os.environ.get("_X_AMZN_TRACE_ID"),
        "request": context.aws_request_id, "runs": count,
    }

def bulk(events, context):
    failed = [event["id"] for event in events if event["data"].get("do") == "fail" and event["id"].startswith("bad")]
    return {"batchItemFailures": [{"itemIdentifier": id} for id in failed]}

def queue(event, context):
    record = event["Records"][0]
    assert record["eventSource"] == "aws:sqs", record
    return {"body": json.loads(record["body"])}
"#;

const MANIFEST: &str = r#"
[functions.orders]
runtime = "lambda"
command = COMMAND
events = ["orders.*"]
timeout = "2s"
slots = 1
env = { ENVIRONMENT }
retry = { attempts = 2, backoff = { first = "10ms", max = "10ms" } }
"#;

/// Functions of one language.
fn with(stage: Stage, command: &str, environment: &str) -> Stage {
    stage.manifest(&MANIFEST.replace("COMMAND", command).replace("ENVIRONMENT", environment))
}

fn python(stage: Stage) -> Stage {
    std::fs::write(stage.path("app.py"), PYTHON).unwrap();
    let python = weft_tests::python();
    with(stage, &format!("[{:?}, \"-m\", \"awslambdaric\", \"app.handler\"]", python.display().to_string()), "")
}

fn rust(stage: Stage, environment: &str) -> Stage {
    with(stage, &format!("[{:?}]", weft_tests::rust_function().display().to_string()), environment)
}

const NODE: &str = r#"
const { appendFileSync, readFileSync } = require('node:fs');

class OutOfStock extends Error {
  constructor(message) { super(message); this.name = 'OutOfStock'; }
}

exports.handler = async (event, context) => {
  const ask = event.data;
  appendFileSync(ask.runs, context.awsRequestId + '\n');
  const runs = readFileSync(ask.runs, 'utf8').trim().split('\n').length;
  if (ask.do === 'fail') throw new OutOfStock('no stock of ' + ask.item);
  if (ask.do === 'retry' && runs < 2) throw new OutOfStock('not yet');
  if (ask.do === 'hang') await new Promise((done) => setTimeout(done, 3600000));
  return {
    id: event.id, function: context.functionName, trace: process.env._X_AMZN_TRACE_ID,
    request: context.awsRequestId, runs,
  };
};
"#;

fn node(stage: Stage) -> Stage {
    std::fs::write(stage.path("app.js"), NODE).unwrap();
    with(stage, "[\"weft\", \"runtime\", \"node\", \"app.handler\"]\nmemory = \"512MiB\"", "")
}

async fn ask(stage: &Stage, id: &str, what: &str) {
    let data = json!({ "do": what, "runs": stage.path(id), "item": "shoes" });
    stage.publish("orders.placed", id, &data).await;
}

/// The invocation of an event, when it is in `state`.
async fn in_state(stage: &Stage, id: &str, state: &str) -> Value {
    poll(&format!("{id} is {state}"), LIMIT, || async {
        let all = stage.invocations(&[]).await;
        let fits = |one: &&Value| one["key"].as_str().is_some_and(|key| key.ends_with(id)) && one["state"] == state;
        all.iter().find(fits).cloned().ok_or(all)
    })
    .await
}

fn result(invocation: &Value) -> Value {
    serde_json::from_str(invocation["result"].as_str().unwrap()).unwrap()
}

async fn letter(stage: &Stage, id: &str) -> String {
    in_state(stage, id, "dead").await;
    let letters = stage.json(&["dlq", "ls", "--json"]).await;
    let letter = letters.as_array().unwrap().iter().find(|letter| letter.to_string().contains(id)).unwrap();
    stage.done(&["dlq", "show", letter["id"].as_str().unwrap()]).await.text()
}

fn runs(stage: &Stage, id: &str) -> Vec<String> {
    let text = std::fs::read_to_string(stage.path(id)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn ended_well(dispatcher: Process, expected: &[&str]) -> Vec<String> {
    let exit = stop(dispatcher).await;
    let usual = ["share /tmp", "attempt failed", "event given up", "OutOfStock", "ValidationError"];
    assert_eq!(complaints(&exit.lines, &[&usual, expected].concat()), Vec::<String>::new());
    exit.lines
}

/// What holds for a function in any language. `words`: what its error says in the dead letter.
async fn it_works_as_a_native_handler_does(stage: Stage, words: &[&str]) {
    let manifest = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    std::fs::write(stage.path("weft.toml"), manifest.replace("slots = 1", "slots = 1\nkeep_alive = \"1s\"")).unwrap();
    let (endpoint, received) = receiver().await;
    let dispatcher = started(stage.dispatcher(&[]).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)).await;

    // It starts from zero, and finds its trace.
    let pid = dispatcher.pid().unwrap();
    assert_eq!(children(pid).len(), 0, "nothing has come yet");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let event = json!({
        "specversion": "1.0", "type": "orders.placed", "source": "/t", "id": "one",
        "traceparent": format!("00-{trace}-00f067aa0ba902b7-01"), "data": { "runs": stage.path("one") },
    });
    std::fs::write(stage.path("events.ndjson"), format!("{event}\n")).unwrap();
    stage.done(&["publish", "--file", "events.ndjson"]).await;
    let done = result(&in_state(&stage, "one", "succeeded").await);
    assert_eq!((&done["id"], &done["function"]), (&json!("one"), &json!("orders")), "{done:#}");
    let root = format!("Root=1-{}-{}", &trace[..8], &trace[8..]);
    assert!(done["trace"].as_str().is_some_and(|it| it.starts_with(&root)), "{done:#}");

    // A duplicate is answered from the ledger: it does not run.
    stage.done(&["publish", "--file", "events.ndjson"]).await;
    ask(&stage, "two", "").await;
    let warm = result(&in_state(&stage, "two", "succeeded").await);
    assert_ne!(warm["request"], done["request"]);
    assert_eq!((runs(&stage, "one").len(), runs(&stage, "two").len()), (1, 1));

    // A retry, which is an attempt of its own.
    ask(&stage, "three", "retry").await;
    let retried = in_state(&stage, "three", "succeeded").await;
    let ids = runs(&stage, "three");
    assert_eq!((&retried["attempt"], result(&retried)["runs"].as_u64(), ids.len()), (&json!(2), Some(2), 2));
    assert_ne!(ids[0], ids[1], "each attempt has a request id of its own");

    // A dead letter with the error as its language says it.
    ask(&stage, "four", "fail").await;
    let shown = letter(&stage, "four").await;
    let row = in_state(&stage, "four", "dead").await["error"].clone();

    // A timeout costs the worker, and the next one works.
    ask(&stage, "five", "hang").await;
    assert!(letter(&stage, "five").await.contains("TimedOut"));
    ask(&stage, "six", "").await;
    in_state(&stage, "six", "succeeded").await;

    // It goes back to zero, and comes up again.
    poll("no worker is left", LIMIT, || async {
        let left = children(pid);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    ask(&stage, "seven", "").await;
    in_state(&stage, "seven", "succeeded").await;
    let lines = ended_well(dispatcher, &["worker ignores the deadline", "[runtime] "]).await;

    // Its caller's trace goes on in the span of the one attempt that ran, which is what the function was told; and each
    // further attempt says which one it follows.
    let spans = Spans::of(&received);
    let invoke = |process: &&Span| spans.children(process).into_iter().find(|span| span.span.name == "invoke orders");
    let processed = spans.named(&format!("process {}", stage.queue("orders")));
    let of_trace = processed.iter().filter(|process| hex(&process.span.trace_id) == trace);
    let ran: Vec<_> = of_trace.filter_map(invoke).collect();
    assert_eq!(ran.len(), 1, "{}", spans.tree());
    let parent = format!("Parent={}", hex(&ran[0].span.span_id));
    assert!(done["trace"].as_str().is_some_and(|it| it.contains(&parent)), "{parent} is not in {done:#}");
    let failed: Vec<_> =
        spans.named("invoke orders").into_iter().filter(|it| it.attribute("error.type").is_some()).collect();
    // Type, message and stack of the error are where somebody may look for them.
    let given_up =
        lines.iter().filter_map(|line| record(line)).find(|line| line["message"] == "event given up").unwrap();
    let told = |it: &&Span| {
        let said = it.span.status.as_ref().map_or("", |status| &status.message);
        format!("{} {said}", it.attribute("error.type").unwrap_or_default())
    };
    let told =
        failed.iter().map(told).find(|told| told.contains(words[1])).unwrap_or_else(|| panic!("{}", spans.tree()));
    for word in words {
        for place in [&shown, &text(&row), &text(&given_up["fields"]), &told] {
            assert!(place.contains(word), "{word:?} is not in:\n{place}");
        }
    }
    let links: Vec<_> = processed.iter().flat_map(|process| &process.span.links).collect();
    assert_eq!(links.len(), 3, "of the second attempts of three events:\n{}", spans.tree());
    for link in links {
        assert!(failed.iter().any(|it| it.span.span_id == link.span_id), "{}", spans.tree());
    }
}

/// The texts of an object, with their lines as they are.
fn text(object: &Value) -> String {
    let texts = object.as_object().unwrap().values().filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join(" ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PYTHON_WORDS: &[&str] = &["OutOfStock", "no stock of shoes", "app.py", "in handler", "raise OutOfStock"];
const NODE_WORDS: &[&str] = &["OutOfStock", "no stock of shoes", "app.js"];
const RUST_WORDS: &[&str] = &["orders::ValidationError", "no customer"];

#[tokio::test]
async fn a_python_function_works_as_a_native_handler_does_embedded() {
    it_works_as_a_native_handler_does(python(Stage::embedded()), PYTHON_WORDS).await;
}

#[tokio::test]
async fn a_python_function_works_as_a_native_handler_does_on_rabbitmq() {
    it_works_as_a_native_handler_does(python(Stage::real().await), PYTHON_WORDS).await;
}

#[tokio::test]
async fn a_node_function_works_as_a_native_handler_does_embedded() {
    it_works_as_a_native_handler_does(node(Stage::embedded()), NODE_WORDS).await;
}

#[tokio::test]
async fn a_node_function_works_as_a_native_handler_does_on_rabbitmq() {
    it_works_as_a_native_handler_does(node(Stage::real().await), NODE_WORDS).await;
}

#[tokio::test]
async fn a_rust_function_works_as_a_native_handler_does_embedded() {
    it_works_as_a_native_handler_does(rust(Stage::embedded(), ""), RUST_WORDS).await;
}

#[tokio::test]
async fn a_rust_function_works_as_a_native_handler_does_on_rabbitmq() {
    it_works_as_a_native_handler_does(rust(Stage::real().await, ""), RUST_WORDS).await;
}

/// The same, with the client's graceful shutdown: an extension of its own.
fn graceful(stage: Stage) -> Stage {
    let environment = format!("TEST_SHUTDOWN = {:?}", stage.path("ended").display().to_string());
    rust(stage, &environment)
}

#[tokio::test]
async fn a_rust_function_that_ends_gracefully_works_as_a_native_handler_does_embedded() {
    it_works_as_a_native_handler_does(graceful(Stage::embedded()), RUST_WORDS).await;
}

#[tokio::test]
async fn a_rust_function_that_ends_gracefully_works_as_a_native_handler_does_on_rabbitmq() {
    it_works_as_a_native_handler_does(graceful(Stage::real().await), RUST_WORDS).await;
}

#[tokio::test]
async fn a_function_with_an_extension_is_asked_to_end_and_does_its_last_work() {
    let marker = std::env::temp_dir().join(format!("weft-lambda-end-{:016x}", fastrand::u64(..)));
    let stage = rust(Stage::embedded(), &format!("TEST_SHUTDOWN = {:?}", marker.display().to_string()));
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "one", "").await;
    in_state(&stage, "one", "succeeded").await;
    assert!(!marker.exists());
    // What the client says of it on standard error.
    ended_well(dispatcher, &["[runtime] "]).await;
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), "ended well");
    std::fs::remove_file(&marker).unwrap();
}

/// Its client says why it cannot start; the event waits, and costs no attempt.
async fn a_function_whose_module_is_missing_runs_once_it_is_there(stage: Stage, file: &str, code: &str) {
    std::fs::remove_file(stage.path(file)).unwrap();
    let mut dispatcher = stage.start(&[]).await;
    ask(&stage, "one", "").await;
    let line = dispatcher.wait_for_line("worker did not start", LIMIT).await;
    assert!(line.contains("Runtime.ImportModuleError"), "{line}");
    std::fs::write(stage.path(file), code).unwrap();
    let done = in_state(&stage, "one", "succeeded").await;
    assert_eq!((&done["attempt"], &done["crashes"]), (&json!(1), &json!(0)), "{done:#}");
    ended_well(dispatcher, &["worker did not start", "function is unhealthy", "ImportModuleError"]).await;
}

#[tokio::test]
async fn a_python_function_whose_module_is_missing_runs_once_it_is_there() {
    a_function_whose_module_is_missing_runs_once_it_is_there(python(Stage::embedded()), "app.py", PYTHON).await;
}

#[tokio::test]
async fn a_node_function_whose_module_is_missing_runs_once_it_is_there() {
    a_function_whose_module_is_missing_runs_once_it_is_there(node(Stage::embedded()), "app.js", NODE).await;
}

#[tokio::test]
async fn a_killed_python_worker_costs_its_attempt_and_the_next_does_the_work() {
    let stage = python(Stage::embedded());
    let dispatcher = stage.start(&[]).await;
    // The first attempt hangs until it is killed; the second one is not asked to.
    let data = json!({ "do": "hang", "runs": stage.path("runs") });
    stage.publish("orders.placed", "killed", &data).await;
    runs_reach(&stage.path("runs"), 1).await;
    let pid = dispatcher.pid().unwrap();
    let child = poll("the worker runs", LIMIT, || async { child_of(pid, "awslambdaric").ok_or("no worker") }).await;
    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    runs_reach(&stage.path("runs"), 2).await;
    let failed = in_state(&stage, "killed", "dead").await;
    assert_eq!(failed["crashes"], 1, "{failed:#}");
    ended_well(dispatcher, &["worker went away with work", "worker ignores the deadline"]).await;
}

/// A child of a process that has this word on its command line.
fn child_of(parent: u32, word: &str) -> Option<i32> {
    let children = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten().flat_map(|task| {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let mut children = children.filter(|child| {
        std::fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains(word))
    });
    children.next()?.parse().ok()
}

#[tokio::test]
async fn only_the_failed_events_of_a_batch_are_tried_again() {
    let stage = python(Stage::embedded());
    let text = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    let text = text.replace("app.handler", "app.bulk").replace("slots = 1", "batch = { size = 10, wait = \"1s\" }");
    std::fs::write(stage.path("weft.toml"), text).unwrap();
    let dispatcher = stage.start(&[]).await;
    for id in ["good-1", "bad-2", "good-3"] {
        ask(&stage, id, "fail").await;
    }
    assert_eq!(in_state(&stage, "bad-2", "dead").await["attempt"], 2);
    for id in ["good-1", "good-3"] {
        assert_eq!(in_state(&stage, id, "succeeded").await["attempt"], 1, "{id}");
    }
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_function_that_was_written_for_sqs_gets_what_sqs_sends() {
    let stage = python(Stage::embedded());
    let text = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    let text = text.replace("app.handler", "app.queue").replace("slots = 1", "event = \"aws:sqs\"");
    std::fs::write(stage.path("weft.toml"), text).unwrap();
    let dispatcher = stage.start(&[]).await;
    stage.publish("orders.placed", "one", &json!({ "amount": 3 })).await;
    assert_eq!(result(&in_state(&stage, "one", "succeeded").await), json!({ "body": { "amount": 3 } }));
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_line_that_a_function_writes_names_its_request_and_each_invocation_is_reported() {
    let stage = python(Stage::embedded());
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "one", "").await;
    let request = result(&in_state(&stage, "one", "succeeded").await)["request"].clone();
    let lines = ended_well(dispatcher, &[]).await;
    let find = |word: &str| {
        let line = lines.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no line with {word}"));
        record(line).unwrap()["fields"].clone()
    };
    assert_eq!(find("handling one")["request_id"], request);
    let report = find("invocation report");
    assert_eq!((&report["request_id"], &report["memory_mib"]), (&request, &json!(256)), "{report:#}");
    for number in ["duration_us", "billed_ms", "init_us", "max_memory_mib"] {
        assert!(report[number].as_u64().is_some_and(|number| number > 0), "{number}: {report:#}");
    }
}
