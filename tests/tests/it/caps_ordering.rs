//! `ordering`: one key's events run one after the other in the order in which they arrived, through retries, deaths, drains
//! and a dispatcher that is killed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_tests::{Process, ProcessBuilder, poll};

use crate::system_stage::{LIMIT, Place, Stage, admin, get, runs, runs_reach, started, stop};

const MANIFEST: &str = r#"
[functions.stamp]
command = ["HANDLERS"]
events = ["stamp.event"]
ordering = { key = "/data/lane" }
retry = { attempts = 3, backoff = { first = "200ms", max = "200ms" } }
"#;

/// Publishes events in order; each is its name, which begins with its lane, and what it asks for.
async fn publish(stage: &Stage, events: &[(&str, Value)]) {
    let line = |(name, more): &(&str, Value)| {
        let mut data = json!({ "runs": stage.path("runs"), "lane": &name[..1] });
        for (key, value) in more.as_object().unwrap() {
            data[key] = value.clone();
        }
        let event = json!({ "mode": "binary", "type": "stamp.event", "id": name, "source": "/t", "data": data });
        format!("{event}\n")
    };
    let file = stage.path(&format!("events-{:08x}.ndjson", fastrand::u32(..)));
    std::fs::write(&file, events.iter().map(line).collect::<String>()).unwrap();
    let published = stage.json(&["publish", "-f", file.to_str().unwrap(), "--json"]).await;
    assert_eq!(published["published"], events.len());
}

/// What happened, by lane: `a1 begin`, `a1 end` and so on. A key is an event's source and id.
fn lanes(stage: &Stage) -> BTreeMap<String, Vec<String>> {
    let mut lanes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in runs(&stage.path("runs")) {
        let name = line[0].rsplit(' ').next().unwrap().to_owned();
        lanes.entry(name[..1].to_owned()).or_default().push(format!("{name} {}", line[3]));
    }
    lanes
}

/// A lane in which each of these ran in turn, as often as is said.
fn in_turn(names: &[(&str, usize)]) -> Vec<String> {
    let each = |(name, times): &(&str, usize)| format!("{name} begin,{name} end,").repeat(*times);
    let all: String = names.iter().map(each).collect();
    all.split_terminator(',').map(str::to_owned).collect()
}

async fn retries_and_deaths_keep_the_order(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    let gate = stage.path("gate");
    publish(
        &stage,
        &[
            ("a1", json!({ "from_attempt": 2 })),
            ("a2", json!({})),
            ("b1", json!({ "file": gate })),
            ("a3", json!({ "dies": true })),
            ("a4", json!({})),
            ("b2", json!({})),
        ],
    )
    .await;
    stage.invocations_in("stamp", "dead", 1).await;
    stage.invocations_in("stamp", "succeeded", 3).await;
    assert_eq!(lanes(&stage)["a"], in_turn(&[("a1", 2), ("a2", 1), ("a3", 1), ("a4", 1)]));
    assert_eq!(lanes(&stage)["b"], ["b1 begin"], "it waits, and the other lane did not");
    std::fs::write(&gate, "").unwrap();
    stage.invocations_in("stamp", "succeeded", 5).await;
    assert_eq!(lanes(&stage)["b"], in_turn(&[("b1", 1), ("b2", 1)]));
    let status: Value = get(&address, "/status").await.json().await.unwrap();
    let throttled = &status["functions"]["stamp"]["throttled"]["ordering"];
    assert!(throttled.as_u64().is_some_and(|count| count >= 3), "{status}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn retries_and_deaths_keep_the_order_on_real_services() {
    retries_and_deaths_keep_the_order(Stage::real().await).await;
}

#[tokio::test]
async fn retries_and_deaths_keep_the_order_on_one_file() {
    retries_and_deaths_keep_the_order(Stage::embedded()).await;
}

/// A dispatcher with a name of its own.
fn node(stage: &Stage, name: &str, lease: &str) -> ProcessBuilder {
    let node = format!("{}-{name}", stage.node);
    stage.weft(&["run", "--admin", "127.0.0.1:0", "--log-format", "json", "--node", &node, "--lease", lease])
}

/// Two dispatchers; the first one takes the events, and something happens to it while `a1` runs and its successors wait.
/// `more`: events of the lane that are published meanwhile.
async fn handed_over(more: &[&str], happens: impl AsyncFnOnce(&Stage, Process)) {
    let stage = Stage::real().await.manifest(MANIFEST);
    let first = started(node(&stage, "first", "2s")).await;
    let second = started(node(&stage, "second", "2s")).await;
    let gate = stage.path("gate");
    let mut events = vec![("a1", json!({ "file": gate }))];
    events.extend(["a2", "a3", "a4", "a5"].map(|name| (name, json!({}))));
    events.extend([("b1", json!({ "from_attempt": 2 })), ("b2", json!({}))]);
    publish(&stage, &events).await;
    runs_reach(&stage.path("runs"), 1).await;
    happens(&stage, first).await;
    std::fs::write(&gate, "").unwrap();
    poll("every event has succeeded", LIMIT, || async {
        let left = stage.invocations(&[]).await.into_iter().filter(|one| one["state"] != "succeeded").count();
        let all = stage.invocations(&[]).await.len();
        if left == 0 && all >= 7 + more.len() { Ok(()) } else { Err((left, all)) }
    })
    .await;
    let mut lanes = lanes(&stage);
    // An attempt that was cut short has no end.
    let cut = lanes["a"][1] == "a1 begin";
    if cut {
        lanes.get_mut("a").unwrap().remove(0);
    }
    let names: Vec<(&str, usize)> = ["a1", "a2", "a3", "a4", "a5"].iter().chain(more).map(|name| (*name, 1)).collect();
    assert_eq!(lanes["a"], in_turn(&names));
    let b = lanes["b"].iter().filter(|what| what.ends_with("end")).collect::<Vec<_>>();
    assert_eq!(b.last().map(|what| what.as_str()), Some("b2 end"));
    assert_eq!(lanes["b"].iter().position(|what| what == "b2 begin"), Some(lanes["b"].len() - 2));
    stage.queue_empty("stamp").await;
    stop(second).await;
}

#[tokio::test]
async fn a_killed_dispatchers_lanes_go_on_in_order_elsewhere() {
    handed_over(&[], async |_, first| {
        first.kill();
        first.wait(LIMIT).await;
    })
    .await;
}

#[tokio::test]
async fn a_drain_leaves_no_lane_to_another_before_what_runs_has_ended() {
    handed_over(&["a6"], async |stage, first| {
        first.terminate();
        // Whoever gets the last one has all that was before it.
        publish(stage, &[("a6", json!({})), ("c1", json!({}))]).await;
        let queue = stage.queue("stamp");
        poll("all events are in hand", LIMIT, || async {
            match stage.vhost().queue_depth(&queue).await {
                Some(depth) if depth.ready == 0 && depth.unacked > 0 => Ok(()),
                depth => Err(depth),
            }
        })
        .await;
        assert_eq!(lanes(stage)["a"], ["a1 begin"], "its successors went elsewhere");
        std::fs::write(stage.path("gate"), "").unwrap();
        first.wait(LIMIT).await.success();
    })
    .await;
}

#[tokio::test]
async fn one_dispatcher_at_a_time_takes_events_that_have_an_order() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut addresses = Vec::new();
    let mut dispatchers = Vec::new();
    for name in ["first", "second"] {
        let mut dispatcher = started(node(&stage, name, "15s")).await;
        addresses.push(admin(&mut dispatcher).await);
        dispatchers.push(dispatcher);
    }
    let names: Vec<String> = (0..12).map(|n| format!("{}{n}", ["a", "b", "c"][n % 3])).collect();
    let events: Vec<(&str, Value)> = names.iter().map(|name| (name.as_str(), json!({}))).collect();
    publish(&stage, &events).await;
    stage.invocations_in("stamp", "succeeded", 12).await;
    let mut received = Vec::new();
    for address in &addresses {
        let status: Value = get(address, "/status").await.json().await.unwrap();
        received.push(status["functions"]["stamp"]["received"].as_u64().unwrap());
    }
    received.sort_unstable();
    assert_eq!(received, [0, 12]);
    for dispatcher in dispatchers {
        stop(dispatcher).await;
    }
}

#[tokio::test]
async fn a_queue_that_was_made_without_an_order_is_refused_with_what_to_do() {
    let plain = MANIFEST.replace("ordering = { key = \"/data/lane\" }\n", "");
    for real in [true, false] {
        let stage = if real { Stage::real().await } else { Stage::embedded() };
        let stage = stage.manifest(&plain);
        stop(stage.start(&[]).await).await;
        // In a file only what lies in the queue stands against it.
        if let Place::Embedded = stage.place {
            publish(&stage, &[("a1", json!({}))]).await;
        }
        let stage = stage.manifest(MANIFEST);
        let exit = stage.dispatcher(&[]).run(LIMIT).await.code(3);
        let text = exit.text();
        assert!(text.contains("error[W0203]") && text.contains("ordering"), "{text}");
    }
}
