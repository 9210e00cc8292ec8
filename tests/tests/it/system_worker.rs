//! Workers that misbehave, and what a worker is given: one bad attempt never takes others along, and never ends the flow.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use weft_tests::Process;

use crate::system_stage::{Stage, admin, complaints, is_alive, record, runs, runs_reach, started, stop};

const MANIFEST: &str = r#"
[functions.panic]
command = ["HANDLERS"]
events = ["panic.event"]
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }

[functions.block]
command = ["HANDLERS"]
events = ["block.event"]
timeout = "200ms"
slots = 8
retry = { attempts = 10, backoff = { first = "10ms", max = "10ms" } }

[functions.exit]
command = ["HANDLERS"]
events = ["exit.event"]
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }

[functions.wait]
command = ["HANDLERS"]
events = ["wait.event"]
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }

[functions.speak]
command = ["HANDLERS"]
events = ["speak.event"]
"#;

async fn ask(stage: &Stage, kind: &str, id: &str) {
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("go"), "from_attempt": 2 });
    stage.publish(kind, id, &data).await;
}

/// The processes that the attempts of `runs` ran in, in order.
fn workers(stage: &Stage) -> Vec<u32> {
    runs(&stage.path("runs")).iter().map(|run| run[4].parse().unwrap()).collect()
}

async fn live(stage: &Stage, dispatcher: &mut Process, function: &str) -> Value {
    let admin = admin(dispatcher).await;
    stage.json(&["functions", function, "--json", "--admin", &admin]).await[0]["live"].clone()
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_worker_lives() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    ask(&stage, "panic.event", "one").await;
    let done = stage.invocations_in("panic", "succeeded", 1).await;
    assert_eq!((&done[0]["attempt"], &done[0]["crashes"]), (&json!(2), &json!(0)), "{done:#?}");
    let workers = workers(&stage);
    assert_eq!((workers.len(), workers[0]), (2, workers[1]), "the panic cost the worker");
    let live = live(&stage, &mut dispatcher, "panic").await;
    assert_eq!(
        (&live["cold_starts"], &live["retries"], &live["crashes"]),
        (&json!(1), &json!(1), &json!(0)),
        "{live:#}"
    );
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("the handler panics on purpose"), "{}", exit.text());
    assert_eq!(complaints(&exit.lines, &["the handler panics on purpose", "handler panicked"]), Vec::<String>::new());
}

#[tokio::test]
async fn a_handler_that_blocks_past_its_timeout_costs_its_worker_and_times_out() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    std::fs::write(stage.path("go"), "").unwrap();
    // More than a worker has threads: a worker that were kept could run nothing any more.
    for id in ["a", "b", "c", "d", "e"] {
        ask(&stage, "block.event", id).await;
    }
    stage.invocations_in("block", "succeeded", 5).await;
    let blocked = workers(&stage)[0];
    assert!(!is_alive(blocked), "a worker with blocked threads was kept");
    let live = live(&stage, &mut dispatcher, "block").await;
    assert!(live["timeouts"].as_u64().unwrap() >= 1, "{live:#}");
    assert_eq!((&live["succeeded"], &live["crashes"]), (&json!(5), &json!(0)), "{live:#}");
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("worker ignores the deadline, replaced"), "{}", exit.text());
}

#[tokio::test]
async fn a_killed_worker_and_one_that_exits_cost_an_attempt_and_no_event() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    ask(&stage, "wait.event", "killed").await;
    let first: u32 = runs_reach(&stage.path("runs"), 1).await[0][4].parse().unwrap();
    kill_process(Pid::from_raw(i32::try_from(first).unwrap()).unwrap(), Signal::KILL).unwrap();
    let second: u32 = runs_reach(&stage.path("runs"), 2).await[1][4].parse().unwrap();
    assert_ne!(first, second);
    std::fs::write(stage.path("go"), "").unwrap();
    let done = stage.invocations_in("wait", "succeeded", 1).await;
    assert_eq!((&done[0]["attempt"], &done[0]["crashes"]), (&json!(2), &json!(1)), "{done:#?}");

    ask(&stage, "exit.event", "exits").await;
    let done = stage.invocations_in("exit", "succeeded", 1).await;
    assert_eq!((&done[0]["attempt"], &done[0]["crashes"]), (&json!(2), &json!(1)), "{done:#?}");
    let live = live(&stage, &mut dispatcher, "exit").await;
    assert_eq!((&live["crashes"], &live["retries"]), (&json!(1), &json!(1)), "{live:#}");
    let exit = stop(dispatcher).await;
    for part in ["was ended by SIGKILL", "exited with status 17", "going down on purpose"] {
        assert!(exit.text().contains(part), "{part:?} is not in:\n{}", exit.text());
    }
    let provoked = ["worker went away with work", "going down on purpose"];
    assert_eq!(complaints(&exit.lines, &provoked), Vec::<String>::new());
}

#[tokio::test]
async fn a_worker_is_given_what_is_declared_and_nothing_else() {
    let stage = Stage::real().await.manifest(
        r#"
        [functions.environment]
        command = ["HANDLERS", "--an-argument"]
        events = ["environment.event"]
        env = { GREETING = "hello ${WHO}" }
        "#,
    );
    let dispatcher = stage.dispatcher(&[]).env("TOP_SECRET", "inherited");
    let dispatcher = started(dispatcher.env("WHO", "world")).await;
    ask(&stage, "environment.event", "one").await;
    let done = stage.invocations_in("environment", "succeeded", 1).await;
    let given: Value = serde_json::from_str(done[0]["result"].as_str().unwrap()).unwrap();

    let variables = given["variables"].as_object().unwrap();
    let names: Vec<_> = variables.keys().map(String::as_str).collect();
    assert_eq!(names, ["GREETING", "HOME", "LANG", "PATH", "TMPDIR", "WEFT_LINK_FD"], "{variables:#?}");
    assert_eq!(variables["GREETING"], "hello world");
    assert_eq!(variables["HOME"], variables["TMPDIR"]);
    assert_ne!(variables["HOME"].as_str(), std::env::var("HOME").ok().as_deref());
    assert_eq!(given["arguments"], json!(["--an-argument"]));
    assert_eq!(given["folder"], json!(stage.folder.canonicalize().unwrap()));
    // It leads a process group of its own, so that a stop reaches its children and nobody else.
    assert_eq!(given["group"], given["pid"].to_string());

    for descriptor in given["descriptors"].as_array().unwrap() {
        let (number, target) = descriptor.as_str().unwrap().split_once(' ').unwrap();
        let fits = match number {
            "0" => target == "/dev/null",
            "1" | "2" => target.starts_with("pipe:"),
            _ => ["socket:", "anon_inode:", "/proc/"].iter().any(|kind| target.starts_with(kind)),
        };
        assert!(fits, "{number} is {target}: {given:#}");
    }
    let room = std::path::PathBuf::from(variables["TMPDIR"].as_str().unwrap());
    let exit = stop(dispatcher).await;
    assert!(!room.exists(), "the worker's folder was left");
    assert!(!exit.text().contains("inherited"));
}

#[tokio::test]
async fn what_a_worker_writes_is_logged_with_its_function_and_its_name() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "speak.event", "one").await;
    stage.invocations_in("speak", "succeeded", 1).await;
    let exit = stop(dispatcher).await;
    let said = |text: &str| {
        let records: Vec<_> =
            exit.lines.iter().filter(|line| line.contains(text)).filter_map(|line| record(line)).collect();
        assert_eq!(records.len(), 1, "{text}: {records:#?}");
        let fields = &records[0]["fields"];
        assert_eq!(fields["function"], "speak", "{text}: {fields:#}");
        assert!(fields["worker"].as_str().is_some_and(|worker| worker.starts_with("speak-")), "{text}: {fields:#}");
        assert_eq!(fields["text"], text);
        records[0].clone()
    };
    let stdout = said("said on stdout");
    assert_eq!((&stdout["level"], &stdout["fields"]["stream"]), (&json!("INFO"), &json!("stdout")));
    let stderr = said("said on stderr");
    assert_eq!((&stderr["level"], &stderr["fields"]["stream"]), (&json!("WARN"), &json!("stderr")));
    let log = said("said in the log");
    assert_eq!(log["level"], "INFO");
    let fields: Value = serde_json::from_str(log["fields"]["fields"].as_str().unwrap()).unwrap();
    assert_eq!((&fields["answer"], &fields["attempt"]), (&json!(42), &json!(1)), "{fields:#}");
    assert!(fields["key"].as_str().is_some_and(|key| key.contains("one")), "{fields:#}");
}
