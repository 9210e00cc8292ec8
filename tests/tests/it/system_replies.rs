//! Requests: `reply_to` answered on a real RabbitMQ, once per requester, with the stored bytes.

use serde_json::{Value, json};
use weft_dispatcher::broker::amqp::requester::{ReplyTo, Requester};
use weft_tests::{Fetched, PrivateRabbit, poll};

use super::system_stage::{LIMIT, Stage, get, stop};

const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["t.wait"]
retry = { attempts = 3, backoff = { first = "10ms" } }

[functions.retry]
command = ["HANDLERS"]
events = ["t.retry"]
retry = { attempts = 3, backoff = { first = "10ms" } }

[functions.fail]
command = ["HANDLERS"]
events = ["t.fail"]
"#;

/// Publishes a request: an event with an id, which is its key.
async fn ask(stage: &Stage, kind: &str, id: &str, to: &str, correlation: &str, data: &Value) {
    let properties = json!({
        "message_id": id, "content_type": "application/json", "delivery_mode": 2,
        "reply_to": to, "correlation_id": correlation,
    });
    let exchange = format!("{}.events", stage.prefix);
    assert!(stage.vhost().publish(&exchange, kind, properties, &data.to_string()).await, "not routed");
}

/// Takes answers out of a queue until there are so many.
async fn answers(stage: &Stage, queue: &str, count: usize) -> Vec<Fetched> {
    let got = std::sync::Mutex::new(Vec::new());
    poll(&format!("{count} answers in {queue}"), LIMIT, || async {
        let more = stage.vhost().take(queue, 100).await;
        let mut got = got.lock().unwrap();
        got.extend(more);
        if got.len() >= count { Ok(()) } else { Err(got.len()) }
    })
    .await;
    got.into_inner().unwrap()
}

fn header<'a>(answer: &'a Fetched, name: &str) -> Option<&'a str> {
    answer.properties["headers"][name].as_str()
}

#[tokio::test]
async fn a_request_and_its_duplicate_get_the_same_bytes() {
    let stage = Stage::real().await.manifest(MANIFEST);
    for queue in ["r1", "r2"] {
        stage.vhost().declare_queue(queue, json!({})).await;
    }
    let dispatcher = stage.start(&[]).await;
    let file = stage.path("go");
    std::fs::write(&file, "").unwrap();
    let data = json!({ "file": file });
    ask(&stage, "t.wait", "1", "r1", "c1", &data).await;
    let first = answers(&stage, "r1", 1).await.remove(0);
    assert_eq!(first.properties["correlation_id"], "c1");
    assert_eq!((header(&first, "weft-status"), header(&first, "weft-function")), (Some("succeeded"), Some("wait")));
    assert_eq!(first.payload, r#"{"attempt":1}"#);

    ask(&stage, "t.wait", "1", "r2", "c2", &data).await;
    let second = answers(&stage, "r2", 1).await.remove(0);
    assert_eq!((second.payload, &second.properties["correlation_id"]), (first.payload, &json!("c2")));
    stage.queue_empty("wait").await;
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_request_is_answered_after_its_retries_and_a_death_with_its_error() {
    let stage = Stage::real().await.manifest(MANIFEST);
    stage.vhost().declare_queue("r", json!({})).await;
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "t.retry", "1", "r", "late", &json!({ "from_attempt": 3 })).await;
    let answer = answers(&stage, "r", 1).await.remove(0);
    assert_eq!((&answer.properties["correlation_id"], answer.payload.as_str()), (&json!("late"), "null"));

    for duplicate in ["one", "two"] {
        ask(&stage, "t.fail", "2", "r", duplicate, &json!({})).await;
        let answer = answers(&stage, "r", 1).await.remove(0);
        assert_eq!(answer.properties["correlation_id"], duplicate);
        assert_eq!((header(&answer, "weft-status"), header(&answer, "weft-code")), (Some("dead"), Some("W0907")));
        let body: Value = serde_json::from_str(&answer.payload).unwrap();
        assert_eq!((&body["reason"], &body["error"]["kind"]), (&json!("terminal"), &json!("NotFixed")));
    }
    stage.queue_empty("fail").await;
    stop(dispatcher).await;
}

#[tokio::test]
async fn requesters_over_direct_reply_to_and_exclusive_queues_are_answered_and_so_are_their_duplicates() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let admin = super::system_stage::admin(&mut dispatcher).await;
    let exchange = format!("{}.events", stage.prefix);
    let file = stage.path("go");
    std::fs::write(&file, "").unwrap();
    let data = json!({ "file": file }).to_string();
    for (to, id) in [(ReplyTo::Direct, "d"), (ReplyTo::Exclusive, "x")] {
        let mut first = Requester::connect(&stage.vhost().amqp_url, to).await;
        for correlation in ["one", "again"] {
            first.ask(&exchange, "t.wait", id, correlation, &data).await;
            let answer = first.answer().await;
            assert_eq!((answer.correlation.as_deref(), answer.body.as_str()), (Some(correlation), r#"{"attempt":1}"#));
        }
        // Another client with the same request has its own answer.
        let mut second = Requester::connect(&stage.vhost().amqp_url, to).await;
        second.ask(&exchange, "t.wait", id, "other", &data).await;
        assert_eq!(second.answer().await.correlation.as_deref(), Some("other"));
        // A retry brings the address along.
        let late = json!({ "from_attempt": 2 }).to_string();
        first.ask(&exchange, "t.retry", id, "late", &late).await;
        assert_eq!(first.answer().await.correlation.as_deref(), Some("late"));
        first.close().await;
        second.close().await;
    }
    let status: Value = get(&admin, "/status").await.json().await.unwrap();
    assert_eq!(status["replies_dropped"], 0, "what was delivered is not told as dropped");
    poll("nothing waits in the outbox", LIMIT, || async {
        let left = stage.sql("select count(*) from weft.outbox").await;
        if left == "0" { Ok(()) } else { Err(left) }
    })
    .await;
    stop(dispatcher).await;
}

#[tokio::test]
async fn an_answer_for_a_client_that_is_gone_is_dropped_and_leaves_nothing_behind() {
    let stage = Stage::real().await.manifest(MANIFEST);
    stage.vhost().declare_queue("gone", json!({})).await;
    let mut dispatcher = stage.start(&[]).await;
    let admin = super::system_stage::admin(&mut dispatcher).await;
    let file = stage.path("go");
    ask(&stage, "t.wait", "1", "gone", "c", &json!({ "file": file })).await;
    stage.invocations_in("wait", "claimed", 1).await;
    stage.vhost().delete_queue("gone").await;
    std::fs::write(&file, "").unwrap();
    stage.invocations_in("wait", "succeeded", 1).await;
    poll("the answer is dropped", LIMIT, || async {
        let status: Value = get(&admin, "/status").await.json().await.unwrap();
        if status["replies_dropped"] == 1 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(stage.sql("select count(*) from weft.outbox").await, "0");
    stop(dispatcher).await;
}

#[tokio::test]
async fn one_queue_that_does_not_confirm_is_named_and_holds_up_no_answer_to_another() {
    let rabbit = PrivateRabbit::start().await;
    let stage = Stage::with_rabbit(&rabbit).await.manifest(MANIFEST);
    for queue in ["stuck", "r"] {
        stage.vhost().declare_queue(queue, json!({})).await;
    }
    let mut dispatcher = stage.start(&[]).await;
    let admin = super::system_stage::admin(&mut dispatcher).await;
    let held = async || -> Value { get(&admin, "/status").await.json::<Value>().await.unwrap()["held"].take() };
    let file = stage.path("go");
    std::fs::write(&file, "").unwrap();
    let data = json!({ "file": file });
    rabbit.hold_queue(stage.vhost(), "stuck", true).await;
    for n in 0..5 {
        ask(&stage, "t.wait", &format!("s{n}"), "stuck", &format!("s{n}"), &data).await;
        ask(&stage, "t.wait", &format!("r{n}"), "r", &format!("r{n}"), &data).await;
        let answer = answers(&stage, "r", 1).await.remove(0);
        assert_eq!(answer.properties["correlation_id"], format!("r{n}"));
    }
    poll("the queue is named", LIMIT, || async {
        let held = held().await;
        if held["stuck"].as_str().is_some_and(|why| why.contains("no confirm")) { Ok(()) } else { Err(held) }
    })
    .await;
    ask(&stage, "t.wait", "last", "r", "last", &data).await;
    answers(&stage, "r", 1).await;
    assert!(held().await["stuck"].is_string(), "it is stuck still");

    rabbit.hold_queue(stage.vhost(), "stuck", false).await;
    poll("nothing waits in the outbox", LIMIT, || async {
        let left = stage.sql("select count(*) from weft.outbox").await;
        if left == "0" { Ok(()) } else { Err(left) }
    })
    .await;
    poll("nothing is held", LIMIT, || async {
        let held = held().await;
        if held.is_null() { Ok(()) } else { Err(held) }
    })
    .await;
    // Published more than once perhaps, each with an id of its own.
    let got = answers(&stage, "stuck", 5).await;
    let ids: std::collections::BTreeSet<_> =
        got.iter().map(|answer| answer.properties["message_id"].to_string()).collect();
    assert_eq!(ids.len(), 5, "none is lost: {ids:?}");
    stop(dispatcher).await;
}
