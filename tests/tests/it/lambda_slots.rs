//! Several invocations at once in one Lambda worker: a client that may have so many asks for them, and each is its own.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use weft_tests::Process;

use crate::lambda_stage::{EXPECTED, result};
use crate::system_stage::{Stage, complaints, stop};

const MANIFEST: &str = r#"
[functions.raw]
runtime = "lambda"
command = ["CLIENT"]
root = "code"
events = ["raw.*"]
slots = 3
concurrency = { reserved = 3 }
retry = { attempts = 2, crashes = 2, backoff = { first = "10ms", max = "10ms" } }
"#;

fn with_client(stage: Stage) -> Stage {
    // `weft dev` replaces workers when something changes beside their code; here nothing does.
    std::fs::create_dir(stage.path("code")).unwrap();
    stage.manifest(&MANIFEST.replace("CLIENT", env!("CARGO_BIN_EXE_weft-test-runtime-client")))
}

/// Publishes three events that do nothing before all of them are in one process; then each does its own.
async fn three(stage: &Stage, then: [&str; 3]) {
    for (number, then) in then.into_iter().enumerate() {
        let marker = stage.path(&format!("began-{number}"));
        let data = json!({ "do": "together", "of": 3, "then": then, "marker": marker });
        stage.publish("raw.event", &format!("event-{number}"), &data).await;
    }
}

/// The invocations of the three, in their order, when all have succeeded.
async fn all_succeeded(stage: &Stage) -> Vec<Value> {
    let mut done = stage.invocations_in("raw", "succeeded", 3).await;
    done.sort_by_key(|invocation| invocation["key"].as_str().map(str::to_owned));
    done
}

fn counts(invocation: &Value) -> (u64, u64) {
    (invocation["attempt"].as_u64().unwrap(), invocation["crashes"].as_u64().unwrap())
}

async fn ended_well(dispatcher: Process, expected: &[&str]) {
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[&EXPECTED, expected].concat()), Vec::<String>::new());
}

#[tokio::test]
async fn questions_at_once_get_an_invocation_each() {
    let stage = with_client(Stage::embedded());
    let dispatcher = stage.start(&[]).await;
    three(&stage, ["answer"; 3]).await;
    let done = all_succeeded(&stage).await;
    assert!(done.iter().all(|one| counts(one) == (1, 0)), "{done:#?}");
    let results: Vec<Value> = done.iter().map(result).collect();
    let one_of_each = |name: &str| results.iter().map(|result| result[name].to_string()).collect::<BTreeSet<_>>();
    assert_eq!((one_of_each("process").len(), one_of_each("seen").len()), (1, 3), "{results:#?}");
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn one_of_several_that_fails_costs_its_own_attempt() {
    let stage = with_client(Stage::embedded());
    let dispatcher = stage.start(&[]).await;
    three(&stage, ["answer", "fail", "answer"]).await;
    let done = all_succeeded(&stage).await;
    assert_eq!(done.iter().map(counts).collect::<Vec<_>>(), [(1, 0), (2, 0), (1, 0)], "{done:#?}");
    let processes: BTreeSet<String> = done.iter().map(|one| result(one)["process"].to_string()).collect();
    assert_eq!(processes.len(), 1, "the worker goes on: {done:#?}");
    ended_well(dispatcher, &["attempt failed"]).await;
}

/// A worker that is killed with three in its hands. Which of them is to blame is not known, so each gets another try, alone.
async fn a_worker_killed_with_several_loses_none(stage: Stage) {
    let dispatcher = stage.start(&[]).await;
    three(&stage, ["stay", "kill", "stay"]).await;
    let done = all_succeeded(&stage).await;
    // The crash is counted, and no attempt is.
    assert!(done.iter().all(|one| counts(one) == (1, 1)), "{done:#?}");
    let letters = stage.json(&["dlq", "ls", "--json"]).await;
    assert_eq!(letters, json!([]));
    ended_well(dispatcher, &["worker went away with work", "attempt failed"]).await;
}

#[tokio::test]
async fn a_worker_killed_with_several_loses_none_embedded() {
    a_worker_killed_with_several_loses_none(with_client(Stage::embedded())).await;
}

#[tokio::test]
async fn a_worker_killed_with_several_loses_none_on_rabbitmq() {
    a_worker_killed_with_several_loses_none(with_client(Stage::real().await)).await;
}

const PYTHON: &str = r#"
import os, time

def handler(event, context):
    ask = event["data"]
    with open(ask["runs"], "a") as runs:
        runs.write(f"{os.getpid()}\t{os.getppid()}\n")
    until = time.monotonic() + 30
    while len(open(ask["runs"]).readlines()) < 3:
        assert time.monotonic() < until, "the others did not come"
        time.sleep(0.01)
    return {"process": os.getpid(), "worker": os.getppid()}
"#;

#[tokio::test]
async fn a_python_function_takes_several_at_once() {
    let python = weft_tests::python().display().to_string();
    let stage = Stage::embedded().manifest(&format!(
        "[functions.raw]\nruntime = \"lambda\"\ncommand = [{python:?}, \"-m\", \"awslambdaric\", \"app.handler\"]\n\
         root = \"code\"\nevents = [\"raw.*\"]\nslots = 3\nconcurrency = {{ reserved = 3 }}\ntimeout = \"60s\"\nmemory = \"512MiB\"\n"
    ));
    std::fs::create_dir(stage.path("code")).unwrap();
    std::fs::write(stage.path("code/app.py"), PYTHON).unwrap();
    let dispatcher = stage.start(&[]).await;
    for number in 0..3 {
        stage.publish("raw.event", &format!("event-{number}"), &json!({ "runs": stage.path("runs") })).await;
    }
    let results: Vec<Value> = all_succeeded(&stage).await.iter().map(result).collect();
    let one_of_each = |name: &str| results.iter().map(|result| result[name].to_string()).collect::<BTreeSet<_>>();
    // The client forks a process for each slot of its one worker.
    assert_eq!((one_of_each("worker").len(), one_of_each("process").len()), (1, 3), "{results:#?}");
    ended_well(dispatcher, &[]).await;
}
