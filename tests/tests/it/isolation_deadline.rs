//! Handlers that ignore their deadline and their neighbours, and starts that take too long.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_tests::poll;

use crate::system_stage::{LIMIT, Stage, admin, complaints, is_alive, runs, runs_reach, stop};

async fn ask(stage: &Stage, kind: &str, id: &str, data: Value) {
    let mut data = data;
    data["runs"] = json!(stage.path("runs"));
    stage.publish(kind, id, &data).await;
}

/// The attempts of one key, each with the process that it ran in.
fn attempts(stage: &Stage, id: &str) -> Vec<(String, u32)> {
    let runs = runs(&stage.path("runs"));
    let of = runs.iter().filter(|run| run[1].contains(id));
    of.map(|run| (run[2].clone(), run[4].parse().unwrap())).collect()
}

#[tokio::test]
async fn the_neighbours_of_a_handler_that_ignores_cancellation_finish_and_its_replacement_does_not_wait_for_them() {
    let stage = Stage::real().await.manifest(
        r#"
        [functions.block]
        command = ["HANDLERS"]
        events = ["block.event"]
        timeout = "6s"
        slots = 8
        retry = { attempts = 2, backoff = { first = "10ms", max = "10ms" } }
        "#,
    );
    let mut dispatcher = stage.start(&[]).await;
    ask(&stage, "block.event", "guilty", json!({ "from_attempt": 2 })).await;
    runs_reach(&stage.path("runs"), 1).await;
    let began = Instant::now();
    // The neighbour's own deadline must be well behind the moment when the other is found to ignore its own.
    poll("the guilty one has run for 3 s", LIMIT, || async {
        if began.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err(began.elapsed()) }
    })
    .await;
    ask(&stage, "block.event", "neighbour", json!({ "file": stage.path("go") })).await;
    runs_reach(&stage.path("runs"), 2).await;
    let old = attempts(&stage, "guilty")[0].1;
    assert_eq!(attempts(&stage, "neighbour"), [("1".to_owned(), old)], "they share a worker");

    dispatcher.wait_for_line("worker ignores the deadline, replaced", LIMIT).await;
    let waiting = stage.invocations_in("block", "waiting", 1).await;
    assert!(waiting[0]["key"].as_str().unwrap().contains("guilty"), "it is counted at once: {waiting:#?}");
    ask(&stage, "block.event", "later", json!({})).await;
    stage.invocations_in("block", "succeeded", 1).await;
    assert!(is_alive(old), "the neighbour has time");
    assert_ne!(attempts(&stage, "later")[0].1, old, "a condemned worker got work");
    std::fs::write(stage.path("go"), "").unwrap();
    let done = stage.invocations_in("block", "succeeded", 3).await;

    assert!(!is_alive(old), "the worker with the blocked thread was kept");
    assert_eq!(attempts(&stage, "neighbour").len(), 1);
    let guilty = attempts(&stage, "guilty");
    assert_eq!((guilty.len(), &*guilty[1].0), (2, "2"), "{guilty:?}");
    for invocation in &done {
        let own = if invocation["key"].as_str().unwrap().contains("guilty") { 2 } else { 1 };
        assert_eq!((&invocation["attempt"], &invocation["crashes"]), (&json!(own), &json!(0)), "{invocation:#}");
    }
    let admin = admin(&mut dispatcher).await;
    let live = &stage.json(&["functions", "--json", "--admin", &admin]).await[0]["live"];
    assert_eq!((&live["timeouts"], &live["crashes"]), (&json!(1), &json!(0)), "{live:#}");
    let exit = stop(dispatcher).await;
    let provoked = ["worker ignores the deadline, replaced", "handler blocks its thread and cannot be stopped"];
    assert_eq!(complaints(&exit.lines, &provoked), Vec::<String>::new());
}

#[tokio::test]
async fn a_worker_has_warmed_up_before_it_gets_an_event() {
    let stage = Stage::embedded().manifest(
        r#"
        [functions.warmed]
        command = ["HANDLERS"]
        events = ["warmed.event"]
        env = { WARM_UP = "prices" }
        "#,
    );
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "warmed.event", "one", json!({})).await;
    let done = stage.invocations_in("warmed", "succeeded", 1).await;
    assert_eq!(done[0]["result"], json!("\"prices\""), "{done:#?}");
    stop(dispatcher).await;
}

/// Publishes one event to a function whose warm-up does not succeed, and waits until the function is unhealthy: why.
async fn unhealthy(stage: &Stage) -> String {
    let mut dispatcher = stage.start(&[]).await;
    let admin = admin(&mut dispatcher).await;
    ask(stage, "warmed.event", "one", json!({})).await;
    let why = poll("the function is unhealthy", LIMIT, || async {
        let live = stage.json(&["functions", "--json", "--admin", &admin]).await[0]["live"].clone();
        live["unhealthy"].as_str().map(str::to_owned).ok_or(live)
    })
    .await;
    assert_eq!(runs(&stage.path("runs")).len(), 0, "an attempt was started");
    stop(dispatcher).await;
    // Its claim was given back, so the next dispatcher runs it as the first attempt.
    let text = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    std::fs::write(stage.path("weft.toml"), text.replace("WARM_UP", "NO_WARM_UP")).unwrap();
    let dispatcher = stage.start(&[]).await;
    let done = stage.invocations_in("warmed", "succeeded", 1).await;
    assert_eq!((&done[0]["attempt"], &done[0]["crashes"]), (&json!(1), &json!(0)), "{done:#?}");
    stop(dispatcher).await;
    why
}

#[tokio::test]
async fn a_warm_up_that_fails_is_a_failed_start_and_costs_the_event_no_attempt() {
    let stage = Stage::embedded().manifest(
        r#"
        [functions.warmed]
        command = ["HANDLERS"]
        events = ["warmed.event"]
        env = { WARM_UP = "fail" }
        "#,
    );
    let why = unhealthy(&stage).await;
    assert!(why.contains("its warm-up failed: NoModel: the model is not there"), "{why}");
}

#[tokio::test]
async fn a_warm_up_that_blocks_is_ended_by_the_init_timeout_and_says_so() {
    let stage = Stage::embedded().manifest(
        r#"
        [functions.warmed]
        command = ["HANDLERS"]
        events = ["warmed.event"]
        init_timeout = "1s"
        env = { WARM_UP = "hang" }
        "#,
    );
    let why = unhealthy(&stage).await;
    assert!(why.contains("its warm-up did not end in time"), "{why}");
}
