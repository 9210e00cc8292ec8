//! Cases 21, 22 and 24: an event that never succeeds, one that kills its worker each time, and one that is redriven.

use serde_json::{Value, json};
use weft_tests::poll;

use crate::cases::{Case, LONG, killed};
use crate::system_stage::{LIMIT, Stage, started, stop};

const PATIENT: &str = r#"
[functions.place]
command = ["HANDLERS"]
events = ["place.event"]
slots = 1
retry = { attempts = 4, backoff = { first = "200ms", factor = 2.0, max = "10s", jitter = 0.2 } }
idempotency = { key = "/id" }
"#;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn case_21_what_always_fails_is_tried_as_often_as_allowed_and_leaves_one_dead_letter() {
    let case = Case::on(Stage::real().await, PATIENT).await;
    // Killed with the last failure settled and its message not acked: neither is there a fifth attempt nor a second letter.
    let first = started(case.doomed("a", LONG, "after-settle:4")).await;
    let body = case.ask(&json!({ "ends": ["retry", "retry", "retry", "retry", "retry"] })).to_string() + " ";
    let properties = json!({
        "message_id": "m-1", "correlation_id": "c-1", "content_type": "application/json", "delivery_mode": 2,
        "app_id": "shop", "type": "order", "priority": 3, "timestamp": 1_700_000_000,
        "headers": {
            "cloudEvents_specversion": "1.0", "cloudEvents_id": "one", "cloudEvents_source": "/t",
            "cloudEvents_type": "place.event", "traceparent": TRACE, "mine": "kept", "count": 7,
        },
    });
    let vhost = case.stage.vhost();
    let exchange = format!("{}.events", case.stage.prefix);
    assert!(vhost.publish(&exchange, "place.event", properties.clone(), &body).await);
    killed(first).await;
    assert_eq!(case.stands("one").await, ("dead".to_owned(), 4));
    let second = started(case.node("a", LONG)).await;
    case.queue_holds("place", 0).await;
    let letter = poll("the dead letter is in its queue", LIMIT, || async {
        let letters = vhost.look(&format!("{}.dlq.place", case.stage.prefix), 10).await;
        if letters.is_empty() { Err(()) } else { Ok(letters) }
    })
    .await;
    case.outbox_empty().await;
    assert_eq!(case.count("dead_letter where arrivals = 1").await, 1);
    assert_eq!(letter.len(), 1, "{letter:?}");
    // The broker counts now and then.
    poll("the broker counts one letter", LIMIT, || async {
        let count = case.letters("place").await;
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;

    let runs = case.runs();
    assert_eq!(runs.iter().map(|run| run[1].as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    let at: Vec<i64> = runs.iter().map(|run| run[4].parse().unwrap()).collect();
    for (wait, least) in at.windows(2).map(|pair| pair[1] - pair[0]).zip([160_000, 320_000, 640_000]) {
        assert!(wait >= least, "waited {wait} us, and should have waited {least} at least: {at:?}");
    }

    let letter = &letter[0];
    assert_eq!(letter.payload, body, "the body was touched");
    for (name, value) in properties.as_object().unwrap().iter().filter(|(name, _)| *name != "headers") {
        assert_eq!(&letter.properties[name], value, "{name} was touched: {:#}", letter.properties);
    }
    let headers = &letter.properties["headers"];
    for (name, value) in properties["headers"].as_object().unwrap() {
        assert_eq!(&headers[name], value, "the header {name} was touched: {headers:#}");
    }
    let told = [
        ("weft-function", json!("place")),
        ("weft-key", json!("one")),
        ("weft-reason", json!("exhausted")),
        ("weft-error-type", json!("Told")),
        ("weft-error-message", json!("the order says so")),
        ("weft-attempts", json!(4)),
        ("weft-trace-id", json!("0af7651916cd43dd8448eb211c80319c")),
    ];
    for (name, value) in &told {
        assert_eq!(&headers[*name], value, "{name}: {headers:#}");
    }
    let micros = |name: &str| headers[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond();
    assert!(micros("weft-first-at") <= at[0] && micros("weft-last-at") >= at[3], "{headers:#}, {at:?}");
    stop(second).await;
}

#[tokio::test]
async fn case_22_what_kills_its_worker_each_time_dies_alone() {
    let case = Case::new().await;
    let dispatcher = started(case.node("a", LONG)).await;
    // Poison and its neighbours, all in one worker when it strikes for the first time.
    let neighbours = ["n1", "n2", "n3", "n4", "n5"];
    let ends = json!(["kill", "kill", "kill", "kill"]);
    let poison = ("poison".to_owned(), json!({ "plain": true, "hold": case.hold("poison"), "ends": ends }));
    let neighbour = |id: &&str| ((*id).to_owned(), json!({ "plain": true, "hold": case.hold(id) }));
    let orders: Vec<_> = std::iter::once(poison).chain(neighbours.iter().map(neighbour)).collect();
    case.orders(&orders).await;
    let together = case.runs_reach(6).await;
    assert!(together.iter().all(|run| run[3] == together[0][3]), "not one worker: {together:?}");
    for attempt in 1..=4 {
        case.let_go("poison", attempt);
    }
    poll("the poison has struck", LIMIT, || async {
        let crashes = case.crashes("poison").await;
        if crashes > 0 { Ok(()) } else { Err(crashes) }
    })
    .await;
    // Each alone and as the same attempt, which has not been let go yet.
    for id in neighbours {
        case.let_go(id, 1);
    }
    for id in neighbours {
        case.reaches(id, "succeeded").await;
        assert_eq!((case.stands(id).await.1, case.crashes(id).await), (1, 1), "{id} was taken along once, uncounted");
    }
    case.reaches("poison", "dead").await;
    // Its first crash may have been a neighbour's.
    assert_eq!((case.stands("poison").await, case.crashes("poison").await), (("dead".to_owned(), 2), 3));
    case.queue_holds("place", 0).await;
    let letters = case.stage.json(&["dlq", "ls", "--json"]).await;
    let letters: Vec<_> =
        letters.as_array().unwrap().iter().map(|letter| (&letter["key"], &letter["reason"])).collect();
    assert_eq!(letters, [(&json!("poison"), &json!("crashed"))]);
    stop(dispatcher).await;
}

#[tokio::test]
async fn case_24_a_letter_redriven_twice_at_once_runs_once() {
    let case = Case::new().await;
    let dispatcher = started(case.node("a", LONG)).await;
    case.order("one", &json!({ "ends": ["fail"], "hold": case.hold("one") })).await;
    case.let_go("one", 1);
    case.reaches("one", "dead").await;
    assert_eq!(case.stands("one").await, ("dead".to_owned(), 1));
    let letters = case.stage.json(&["dlq", "ls", "--json"]).await;
    let id = letters[0]["id"].as_str().unwrap();

    // The fault is gone: an attempt of a redrive commits.
    let redrive = || case.stage.weft(&["dlq", "redrive", id, "--json"]).run(LIMIT);
    let (one, two) = tokio::join!(redrive(), redrive());
    let counts = |exit: &weft_tests::Exit| -> (usize, usize) {
        let answer: Value = serde_json::from_str(&exit.stdout.concat()).unwrap();
        let count = |name: &str| answer[name].as_array().unwrap().len();
        (count("redriven"), count("already"))
    };
    let mut answers = [counts(&one.success()), counts(&two.success())];
    answers.sort_unstable();
    assert_eq!(answers, [(0, 1), (1, 0)]);
    case.ends_well_but(1, 1).await;
    assert_eq!(case.stands("one").await, ("succeeded".to_owned(), 1));
    assert_eq!(case.row("one").await["epoch"], 1);
    let runs: Vec<_> = case.runs().iter().map(|run| (run[1].clone(), run[2].clone())).collect();
    assert_eq!(runs, [("1".to_owned(), "0".to_owned()), ("1".to_owned(), "1".to_owned())]);
    // And once it has succeeded there is nothing to redrive.
    assert_eq!(counts(&redrive().await.success()), (0, 1));
    assert_eq!(case.stage.json(&["dlq", "ls", "--json"]).await, json!([]));
    stop(dispatcher).await;
}
