//! How many workers there are, seen from outside: a burst from zero, bounds, a full node shared by two functions, and
//! scale-down while work comes.

use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{Process, poll, poll_every};

use crate::system_stage::{LIMIT, Stage, admin, children, complaints, get, runs, runs_reach, stop};

/// The dispatcher's live numbers.
async fn status(address: &str) -> Value {
    get(address, "/status").await.json().await.unwrap()
}

/// Waits until the live numbers fit, and returns them.
async fn status_when(address: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    poll(what, LIMIT, || async {
        let status = status(address).await;
        if fits(&status) { Ok(status) } else { Err(status) }
    })
    .await
}

async fn no_workers_left(dispatcher: &Process) {
    let pid = dispatcher.pid().unwrap();
    poll_every(Duration::from_millis(50), "no worker is left", LIMIT, || async {
        let left = children(pid);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

fn waiting(stage: &Stage, file: &str) -> Value {
    json!({ "runs": stage.path("runs"), "file": stage.path(file) })
}

fn go(stage: &Stage, file: &str) {
    std::fs::write(stage.path(file), "").unwrap();
}

async fn all_succeeded_at_the_first_attempt(stage: &Stage, function: &str, count: usize) {
    let done = stage.invocations_in(function, "succeeded", count).await;
    let again: Vec<_> = done.iter().filter(|invocation| invocation["attempt"] != 1).collect();
    assert!(again.is_empty(), "charged for what we decided: {again:#?}");
}

#[tokio::test]
async fn a_burst_from_zero_runs_all_at_once_with_just_the_workers_that_it_needs_and_then_none() {
    let stage = Stage::embedded().manifest(
        "[functions.wait]\ncommand = ['HANDLERS']\nevents = ['wait.event']\nslots = 10\nkeep_alive = '1s'\ntimeout = '60s'",
    );
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    assert!(children(dispatcher.pid().unwrap()).is_empty(), "nothing has come yet");
    let data = waiting(&stage, "go").to_string();
    stage.done(&["publish", "wait.event", "--count", "95", "--data", &data, "--json"]).await;
    // None of them ends before all have begun.
    runs_reach(&stage.path("runs"), 95).await;
    let numbers = status(&address).await;
    let function = &numbers["functions"]["wait"];
    assert_eq!((&function["running"], &function["peak_workers"]), (&json!(95), &json!(10)), "{numbers:#}");
    assert_eq!(function["throttles"], 0, "{numbers:#}");
    assert_eq!(function["scaling"]["wanted"], 10, "{numbers:#}");
    go(&stage, "go");
    all_succeeded_at_the_first_attempt(&stage, "wait", 95).await;
    no_workers_left(&dispatcher).await;
    let idle = status_when(&address, "it says that it is idle", |status| {
        status["functions"]["wait"]["scale"] == "idle" && status["functions"]["wait"]["workers"] == 0
    })
    .await;
    assert_eq!(idle["functions"]["wait"]["scaling"]["behind"], 0);
    assert_eq!(complaints(&stop(dispatcher).await.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn reserved_concurrency_is_never_passed_and_what_is_behind_it_is_known() {
    let stage = Stage::real().await.manifest(
        "[functions.wait]\ncommand = ['HANDLERS']\nevents = ['wait.event']\nslots = 4\nkeep_alive = '1s'\ntimeout = '60s'\n\
         concurrency = { reserved = 6 }",
    );
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    let data = waiting(&stage, "go").to_string();
    stage.done(&["publish", "wait.event", "--count", "30", "--data", &data, "--json"]).await;
    runs_reach(&stage.path("runs"), 6).await;
    let seen = status_when(&address, "it knows what is behind", |status| {
        status["functions"]["wait"]["scaling"]["behind"] == 24
    })
    .await;
    assert_eq!(seen["functions"]["wait"]["running"], 6, "{seen:#}");
    assert_eq!(runs(&stage.path("runs")).len(), 6, "more than are reserved have begun");
    let live = stage.json(&["functions", "wait", "--admin", &address, "--json"]).await;
    assert_eq!(live[0]["live"]["scale"], "demand", "its prefetch holds no more than it may run: {live:#}");
    go(&stage, "go");
    all_succeeded_at_the_first_attempt(&stage, "wait", 30).await;
    let numbers = status(&address).await;
    assert_eq!(numbers["functions"]["wait"]["peak_workers"], 2, "{numbers:#}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_function_that_floods_a_full_node_gives_back_what_is_anothers_share() {
    let stage = Stage::real().await.manifest(
        "[functions.flood]\ncommand = ['HANDLERS']\nhandler = 'wait'\nevents = ['flood.event']\nslots = 1\ntimeout = '60s'\n\
         [functions.late]\ncommand = ['HANDLERS']\nhandler = 'wait'\nevents = ['late.event']\nslots = 1\nkeep_alive = '0s'",
    );
    let mut dispatcher = stage.start(&["--node-workers", "3"]).await;
    let address = admin(&mut dispatcher).await;
    for number in 0..8 {
        let data = waiting(&stage, &format!("go-{number}"));
        stage.publish("flood.event", &format!("flood-{number}"), &data).await;
    }
    runs_reach(&stage.path("runs"), 3).await;
    let full = status_when(&address, "the flood is throttled by the node", |status| {
        status["functions"]["flood"]["throttled"]["node"].as_u64() >= Some(5)
    })
    .await;
    assert_eq!(full["functions"]["flood"]["scaling"]["limit"], "node", "{full:#}");

    let data = json!({ "runs": stage.path("late-runs"), "file": stage.path("go-late") });
    stage.publish("late.event", "late", &data).await;
    status_when(&address, "the late one waits for the node", |status| {
        status["functions"]["late"]["throttled"]["node"] == 1
    })
    .await;
    assert_eq!(children(dispatcher.pid().unwrap()).len(), 3, "the budget holds");

    // The flood's three end: two take more of its events, the third has left its room to the other.
    for run in runs(&stage.path("runs")) {
        go(&stage, &format!("go-{}", run[1].chars().last().unwrap()));
    }
    runs_reach(&stage.path("late-runs"), 1).await;
    let begun = runs(&stage.path("runs")).len();
    assert!(begun <= 5, "the flood took more than its share: {begun} begun");

    go(&stage, "go-late");
    // When nobody else wants it, it is the flood's again.
    for number in 0..8 {
        go(&stage, &format!("go-{number}"));
    }
    all_succeeded_at_the_first_attempt(&stage, "flood", 8).await;
    all_succeeded_at_the_first_attempt(&stage, "late", 1).await;
    let numbers = status(&address).await;
    assert_eq!(numbers["peak_workers"], 3, "{numbers:#}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn more_functions_than_the_node_has_workers_all_get_their_turn() {
    let function = |name: &str| {
        format!(
            "[functions.{name}]\ncommand = ['HANDLERS']\nhandler = 'noop'\nevents = ['{name}.event']\nslots = 1\nkeep_alive = '1m'\n"
        )
    };
    let names = ["a", "b", "c", "d"];
    let stage = Stage::embedded().manifest(&names.map(function).concat());
    let mut dispatcher = stage.start(&["--node-workers", "1"]).await;
    let address = admin(&mut dispatcher).await;
    for name in names {
        stage.done(&["publish", &format!("{name}.event"), "--count", "20", "--data", "null", "--json"]).await;
    }
    for name in names {
        all_succeeded_at_the_first_attempt(&stage, name, 20).await;
    }
    assert_eq!(status(&address).await["peak_workers"], 1);
    stop(dispatcher).await;
}

#[tokio::test]
async fn scale_down_in_the_middle_of_work_loses_nothing_and_charges_no_attempt() {
    // Each worker goes as soon as it has nothing to do, and the node is too small for both.
    let function = |name: &str| {
        format!(
            "[functions.{name}]\ncommand = ['HANDLERS']\nhandler = 'noop'\nevents = ['{name}.event']\nslots = 2\nkeep_alive = '0s'\n"
        )
    };
    let stage = Stage::real().await.manifest(&["left", "right"].map(function).concat());
    let mut dispatcher = stage.start(&["--node-workers", "2"]).await;
    let address = admin(&mut dispatcher).await;
    let publish = async |kind: &str| {
        stage.done(&["publish", kind, "--count", "150", "--rate", "60", "--data", "null", "--json"]).await
    };
    tokio::join!(publish("left.event"), publish("right.event"));
    for name in ["left", "right"] {
        all_succeeded_at_the_first_attempt(&stage, name, 150).await;
        stage.queue_empty(name).await;
    }
    no_workers_left(&dispatcher).await;
    let numbers = status(&address).await;
    for name in ["left", "right"] {
        let function = &numbers["functions"][name];
        let ends = [&function["crashes"], &function["timeouts"], &function["retries"]];
        assert_eq!(ends, [&json!(0); 3], "{numbers:#}");
        assert!(function["cold_starts"].as_u64() > Some(1), "no worker ever left: {numbers:#}");
    }
    assert!(numbers["peak_workers"].as_u64() <= Some(2), "{numbers:#}");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_provisioned_and_does_not_fit_the_node_is_refused_at_the_start() {
    let stage = Stage::embedded().manifest(
        "[functions.f]\ncommand = ['HANDLERS']\nhandler = 'noop'\nevents = ['f.event']\nslots = 1\nmemory = '64MiB'\n\
         concurrency = { provisioned = 3 }",
    );
    for args in [["--node-workers", "2"], ["--node-memory", "128MiB"]] {
        let exit = stage.dispatcher(&args).run(LIMIT).await.code(2);
        assert!(exit.text().contains("provisioned"), "{}", exit.text());
    }
    let exit = stage.dispatcher(&["--node-memory", "32MiB"]).run(LIMIT).await.code(2);
    assert!(exit.text().contains("its worker wants 64MiB"), "{}", exit.text());
}
