//! `rate`: starts of attempts are spread over time, retries included, and what waits is throttled with its reason.

use std::path::Path;

use serde_json::{Value, json};

use crate::system_stage::{Stage, admin, get, runs, stop};

const MANIFEST: &str = r#"
[functions.stamp]
command = ["HANDLERS"]
events = ["stamp.event"]
rate = "10/s"
retry = { attempts = 3, backoff = { first = "10ms", max = "10ms" } }
"#;

/// When each attempt of a file of `stamp` lines began, in microseconds.
fn starts(path: &Path) -> Vec<u128> {
    let begins = runs(path).into_iter().filter(|line| line[3] == "begin");
    let mut starts: Vec<u128> = begins.map(|line| line[2].parse().unwrap()).collect();
    starts.sort_unstable();
    starts
}

async fn starts_are_spread(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    let path = stage.path("runs");
    for n in 0..8 {
        // Each fails once: sixteen starts.
        let ask = json!({ "runs": path, "from_attempt": 2 });
        stage.publish("stamp.event", &format!("e{n}"), &ask).await;
    }
    stage.invocations_in("stamp", "succeeded", 8).await;
    let starts = starts(&path);
    assert_eq!(starts.len(), 16, "a retry is a start too");
    // Ten a second, one at a time: over any number of starts no faster, save what the way to the handler takes.
    let took = u64::try_from(starts[15] - starts[0]).unwrap();
    println!("16 starts in {took} us");
    assert!(took >= 1_400_000, "sixteen starts in {took} us");
    let status: Value = get(&address, "/status").await.json().await.unwrap();
    let throttled = &status["functions"]["stamp"]["throttled"];
    assert!(throttled["rate"].as_u64().is_some_and(|count| count > 0), "{status}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn starts_come_no_faster_than_the_rate_on_real_services() {
    starts_are_spread(Stage::real().await).await;
}

#[tokio::test]
async fn starts_come_no_faster_than_the_rate_on_one_file() {
    starts_are_spread(Stage::embedded()).await;
}
