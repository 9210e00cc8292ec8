//! Batch handlers: several events in one call, a settle for each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::system_stage::{LIMIT, Stage, runs, stop};

const MANIFEST: &str = r#"
[functions.bulk]
command = ["HANDLERS"]
events = ["bulk.event"]
batch = { size = 8, wait = "2s" }
slots = 2
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }
"#;

/// Publishes events `e0`, `e1` and so on, each asking for what it is given.
async fn publish(stage: &Stage, asks: &[Value]) {
    let line = |(n, more): (usize, &Value)| {
        let mut data = json!({ "runs": stage.path("runs") });
        for (name, value) in more.as_object().unwrap() {
            data[name] = value.clone();
        }
        let event =
            json!({ "mode": "binary", "type": "bulk.event", "id": format!("e{n}"), "source": "/t", "data": data });
        format!("{event}\n")
    };
    let text: String = asks.iter().enumerate().map(line).collect();
    std::fs::write(stage.path("events.ndjson"), text).unwrap();
    let published = stage.json(&["publish", "-f", "events.ndjson", "--json"]).await;
    assert_eq!(published["published"], asks.len());
}

/// How often each key was in a call, by the last part of the key, which is the event's id.
fn attempts(stage: &Stage) -> BTreeMap<String, usize> {
    let mut attempts = BTreeMap::new();
    for line in runs(&stage.path("runs")) {
        *attempts.entry(id(&line[0])).or_default() += 1;
    }
    attempts
}

fn id(key: &str) -> String {
    key.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// Of eight events in one call, one fails once and one for good: those alone are tried again, or die.
async fn partial_failure(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    let mut asks = vec![json!({}); 8];
    asks[2] = json!({ "from_attempt": 2 });
    asks[5] = json!({ "dies": true });
    publish(&stage, &asks).await;
    stage.invocations_in("bulk", "succeeded", 7).await;
    let dead = stage.invocations_in("bulk", "dead", 1).await;
    let sizes: BTreeSet<String> = runs(&stage.path("runs")).into_iter().map(|line| line[3].clone()).collect();
    println!("sizes of the calls: {sizes:?}");
    assert!(sizes.iter().any(|size| size != "1"), "no call had two events");
    let expected = (0..8).map(|n| (format!("e{n}"), if n == 2 { 2 } else { 1 })).collect();
    assert_eq!(attempts(&stage), expected, "only what failed was tried again: {dead:?}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn in_a_batch_only_what_failed_is_tried_again_on_real_services() {
    let stage = Stage::real().await;
    partial_failure(stage).await;
}

#[tokio::test]
async fn in_a_batch_only_what_failed_is_tried_again_on_one_file() {
    partial_failure(Stage::embedded()).await;
}

#[tokio::test]
async fn a_batch_that_kills_its_worker_has_its_suspects_run_alone() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    let mut asks = vec![json!({}); 4];
    // It takes the worker along twice: with its neighbours, which costs nobody an attempt, and by itself.
    asks[1] = json!({ "exits_before": 2 });
    publish(&stage, &asks).await;
    stage.invocations_in("bulk", "succeeded", 4).await;
    let mut seen = BTreeSet::new();
    for line in runs(&stage.path("runs")) {
        assert!(seen.insert(line[0].clone()) || line[3] == "1", "a suspect had neighbours: {line:?}");
    }
    assert_eq!(attempts(&stage)["e1"], 3, "with its neighbours, alone, and well");
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("worker went away with work"), "{}", exit.text());
}

#[tokio::test]
async fn a_handler_of_the_other_kind_is_refused_at_start() {
    for (handler, batch, says) in [("noop", "batch = { size = 2 }", "batch_handler"), ("bulk", "", "has no batch")] {
        let text =
            format!("[functions.f]\ncommand = [\"HANDLERS\"]\nevents = [\"a.b\"]\nhandler = \"{handler}\"\n{batch}\n");
        let stage = Stage::embedded().manifest(&text);
        let exit = stage.dispatcher(&[]).run(LIMIT).await.code(9);
        assert!(exit.text().contains("error[W0502]") && exit.text().contains(says), "{}", exit.text());
    }
}
