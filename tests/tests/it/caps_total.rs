//! `concurrency.total`: never more than so many at once over two dispatchers, through a kill of one of them.

use std::path::Path;

use serde_json::{Value, json};
use weft_tests::{Process, poll};

use crate::system_stage::{LIMIT, Stage, admin, get, runs, started, stop};

const MANIFEST: &str = r#"
[functions.stamp]
command = ["HANDLERS"]
events = ["stamp.event"]
concurrency = { total = 3 }
retry = { attempts = 5, backoff = { first = "10ms", max = "10ms" } }
"#;

/// The most attempts that were between their begin and their end at one time. Those that never ended count to `cut`.
fn overlap(path: &Path, cut: u128) -> usize {
    let mut moments: Vec<(u128, i64)> = Vec::new();
    let lines = runs(path);
    for (at, line) in lines.iter().enumerate() {
        let time: u128 = line[2].parse().unwrap();
        if line[3] == "end" {
            continue;
        }
        let ends = lines[at..].iter().find(|other| other[0] == line[0] && other[1] == line[1] && other[3] == "end");
        moments.push((time, 1));
        moments.push((ends.map_or(cut, |end| end[2].parse().unwrap()), -1));
    }
    // At one moment an end comes first.
    moments.sort_unstable();
    let (mut now, mut most) = (0i64, 0i64);
    for (_, change) in moments {
        now += change;
        most = most.max(now);
    }
    usize::try_from(most).unwrap()
}

fn micros() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()
}

async fn publish(stage: &Stage, count: usize, work_ms: u64) {
    let line = |n| {
        let data = json!({ "runs": stage.path("runs"), "work_ms": work_ms });
        let event =
            json!({ "mode": "binary", "type": "stamp.event", "id": format!("e{n}"), "source": "/t", "data": data });
        format!("{event}\n")
    };
    std::fs::write(stage.path("events.ndjson"), (0..count).map(line).collect::<String>()).unwrap();
    assert_eq!(stage.json(&["publish", "-f", "events.ndjson", "--json"]).await["published"], count);
}

async fn node(stage: &Stage, name: &str) -> (Process, String) {
    let node = format!("{}-{name}", stage.node);
    let args = ["run", "--admin", "127.0.0.1:0", "--log-format", "json", "--node", &node, "--lease", "2s"];
    let mut dispatcher = started(stage.weft(&args)).await;
    let address = admin(&mut dispatcher).await;
    (dispatcher, address)
}

async fn numbers(address: &str) -> Value {
    let status: Value = get(address, "/status").await.json().await.unwrap();
    status["functions"]["stamp"].clone()
}

#[tokio::test]
async fn two_dispatchers_share_a_cap_and_one_takes_over_what_the_other_leaves() {
    let stage = Stage::real().await.manifest(MANIFEST);
    stage.done(&["migrate"]).await;
    let (first, first_address) = node(&stage, "first").await;
    let (second, second_address) = node(&stage, "second").await;
    publish(&stage, 60, 200).await;
    poll("both make progress", LIMIT, || async {
        let (first, second) = (numbers(&first_address).await, numbers(&second_address).await);
        let far = |numbers: &Value| numbers["succeeded"].as_u64().is_some_and(|count| count >= 5);
        if far(&first) && far(&second) { Ok(()) } else { Err((first, second)) }
    })
    .await;
    let throttled = numbers(&second_address).await["throttled"]["total"].clone();
    assert!(throttled.as_u64().is_some_and(|count| count > 0), "nothing waited for the cap: {throttled}");
    first.kill();
    first.wait(LIMIT).await;
    let killed = micros();
    let before = numbers(&second_address).await["succeeded"].as_u64().unwrap();
    stage.invocations_in("stamp", "succeeded", 60).await;
    assert!(numbers(&second_address).await["succeeded"].as_u64().unwrap() > before + 5, "it went on by itself");
    assert_eq!(overlap(&stage.path("runs"), killed), 3, "never more than the cap, and all of it is used");
    stop(second).await;
}

#[tokio::test]
async fn a_cap_holds_on_one_file_and_is_given_back_when_nothing_is_left() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    publish(&stage, 12, 50).await;
    stage.invocations_in("stamp", "succeeded", 12).await;
    assert_eq!(overlap(&stage.path("runs"), micros()), 3);
    assert!(numbers(&address).await["throttled"]["total"].as_u64().is_some_and(|count| count > 0));
    stop(dispatcher).await;
}
