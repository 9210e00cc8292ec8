//! Requests: `reply_to` answered on a real RabbitMQ, once per requester, with the stored bytes.

use serde_json::{Value, json};
use weft_tests::{Fetched, poll};

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
