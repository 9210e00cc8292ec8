//! Two dispatchers on one set of services, first in peace, then under the soak's faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{Process, ProcessBuilder, poll};

use crate::system_stage::{LIMIT, Stage, runs, started, stop};

/// A soak starts its own servers, runs, heals and judges; only a fault takes so long.
const SOAK_LIMIT: Duration = Duration::from_secs(300);

/// `weft-soak` with its arguments; the report goes to the file.
fn soak(args: &[&str], report: &std::path::Path) -> ProcessBuilder {
    let mut soak = Process::at(env!("CARGO_BIN_EXE_weft-soak")).args(args).arg("--json").arg(report);
    for kept in [weft_tests::env::POSTGRES_TEMPLATE, "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            soak = soak.env(kept, value);
        }
    }
    soak
}

fn read(report: &std::path::Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap()
}

#[tokio::test]
async fn a_short_soak_loses_nothing_and_does_nothing_twice() {
    let file = weft_tests::folder("soak-test").join("report.json");
    let args = ["--minutes", "0.3", "--seed", "5", "--rate", "20"];
    let exit = soak(&args, &file).run(SOAK_LIMIT).await.success();
    let report = read(&file);
    assert_eq!((&report["lost"], &report["double_effects"]), (&json!(0), &json!(0)), "{}", exit.text());
    assert_eq!((&report["verdict"], &report["unique"]), (&json!("kept"), &json!(361)), "{}", exit.text());
    assert!(report["faults"].as_u64().unwrap() >= 2, "{}", exit.text());
}

/// The judge itself: whatever is falsified is found, by the judgement that is there for it.
#[tokio::test]
async fn a_soak_finds_every_difference_that_is_planted() {
    let file = weft_tests::folder("soak-test").join("report.json");
    let args = ["--minutes", "0.1", "--seed", "1", "--rate", "40", "--calm", "--plant", "all"];
    let exit = soak(&args, &file).run(SOAK_LIMIT).await.code(1);
    let report = read(&file);
    let judgements: BTreeMap<String, u64> = serde_json::from_value(report["judgements"].clone()).unwrap();
    let silent: Vec<_> = judgements.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name.as_str()).collect();
    // Nothing was done to the dispatchers, and every row stands for an event that was published.
    assert_eq!(silent, ["dispatchers", "strangers"], "{}", exit.text());
    assert_eq!(report["verdict"], "broken");
    let kept = exit.text().lines().find_map(|line| line.strip_prefix("kept in ").map(str::to_owned)).unwrap();
    assert!(std::path::Path::new(&kept).join("findings").exists(), "{kept}");
    std::fs::remove_dir_all(kept).unwrap();
}

const SLOW: &str = r#"
[functions.slow]
command = ["SOAK", "handlers"]
events = ["soak.slow"]
slots = 2
env = { SOAK_RUNS = "${SOAK_RUNS}", SOAK_NODE = "${SOAK_NODE}" }
"#;

/// A dispatcher with room for two invocations at once.
async fn small(stage: &Stage, node: &str) -> Process {
    let args = ["run", "--node", node, "--admin", "127.0.0.1:0", "--log-format", "json", "--max-workers", "1"];
    let dispatcher = stage.weft(&args).args(["--lease", "60s"]);
    started(dispatcher.env("SOAK_NODE", node).env("SOAK_RUNS", stage.path("runs"))).await
}

#[tokio::test]
async fn two_dispatchers_share_one_function_and_neither_runs_what_the_other_holds() {
    const EVENTS: usize = 24;
    let stage =
        Stage::real().await.manifest(&SLOW.replace("SOAK\"", &format!("{}\"", env!("CARGO_BIN_EXE_weft-soak"))));
    stage
        .sql("create table effects (function text, key text, fence bigint, attempt bigint, epoch bigint, about text)")
        .await;
    let (one, two) = tokio::join!(small(&stage, "node-a"), small(&stage, "node-b"));
    // Each event twice, one behind the other: while one dispatcher runs it, the other is handed the same.
    let mut lines = String::new();
    for event in 0..EVENTS {
        let line = json!({
            "mode": "binary", "type": "soak.slow", "source": "/soak", "id": event.to_string(), "data": { "ms": 300 },
        });
        lines.push_str(&format!("{line}\n{line}\n"));
    }
    std::fs::write(stage.path("events.ndjson"), lines).unwrap();
    stage.done(&["publish", "-f", "events.ndjson"]).await;
    poll("every event has succeeded", LIMIT, || async {
        let count = stage.sql("select count(*) from weft.invocation where state = 'succeeded'").await;
        if count == EVENTS.to_string() { Ok(()) } else { Err(count) }
    })
    .await;
    stage.queue_empty("slow").await;
    stop(one).await;
    stop(two).await;

    // What, function, key, fence, attempt, epoch, process, node, time.
    let runs = runs(&stage.path("runs"));
    let keys: BTreeSet<&str> = runs.iter().map(|run| run[2].as_str()).collect();
    assert_eq!((runs.len(), keys.len()), (EVENTS, EVENTS), "a key was run more than once: {runs:#?}");
    let nodes: BTreeSet<&str> = runs.iter().map(|run| run[7].as_str()).collect();
    assert_eq!(nodes, ["node-a", "node-b"].into(), "one dispatcher did everything: {runs:#?}");
    assert!(runs.iter().all(|run| run[4] == "1"), "{runs:#?}");
    assert_eq!(stage.sql("select count(*), count(distinct key) from effects").await, format!("{EVENTS}|{EVENTS}"));
}
