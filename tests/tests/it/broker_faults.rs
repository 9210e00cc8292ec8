//! What RabbitMQ may do to a dispatcher that runs: full and deleted queues. Nothing is lost, nothing needs a restart, and
//! each is told a bounded number of times.

use serde_json::{Value, json};
use weft_tests::{Process, QueueDepth, poll};

use crate::system_stage::{LIMIT, Stage, admin, record, stop};

const FAIL: &str = r#"
    [functions.fail]
    command = ["HANDLERS"]
    events = ["fail.event"]
    slots = 4
"#;

async fn get(address: &str, path: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(format!("http://{address}{path}")).send().await.unwrap().json().await.unwrap()
}

/// Waits until a line with this part was logged, and returns the record.
async fn logged(dispatcher: &Process, part: &str) -> Value {
    poll(&format!("{part:?} is logged"), LIMIT, || async {
        let lines = dispatcher.lines();
        lines.iter().filter_map(|line| record(line)).find(|record| record.to_string().contains(part)).ok_or(lines)
    })
    .await
}

fn count(lines: &[String], part: &str) -> usize {
    lines.iter().filter(|line| line.contains(part)).count()
}

async fn depth_is(stage: &Stage, queue: &str, wanted: u64) {
    poll(&format!("{queue} holds {wanted}"), LIMIT, || async {
        match stage.vhost().queue_depth(queue).await {
            Some(QueueDepth { ready, unacked }) if ready + unacked == wanted => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_full_queue_refuses_stays_in_the_outbox_until_there_is_room() {
    let stage = Stage::real().await.manifest(
        r#"
        [functions.traced]
        command = ["HANDLERS"]
        events = ["traced.event"]
    "#,
    );
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    let full = json!({ "x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish" });
    stage.vhost().declare_queue("full", full).await;
    stage.vhost().bind(&format!("{}.events", stage.prefix), "full", "noted").await;
    // A quorum queue takes a little more than its length.
    for id in 0..20 {
        stage.publish("traced.event", &id.to_string(), &json!({ "emit": "noted" })).await;
    }
    stage.invocations_in("traced", "succeeded", 20).await;
    poll("the refusals are counted", LIMIT, || async {
        let status = get(&address, "/status").await;
        if status["refused"].as_u64().unwrap() > 0 { Ok(()) } else { Err(status) }
    })
    .await;
    let line = logged(&dispatcher, "outbox row not published").await;
    assert!(line.to_string().contains("the broker refused it"), "{line}");
    let kept: u32 = stage.sql("select count(*) from weft.outbox").await.trim().parse().unwrap();
    assert!(kept > 0, "a refused row was deleted");
    // Somebody makes room.
    let mut seen = std::collections::BTreeSet::new();
    let deadline = std::time::Instant::now() + LIMIT;
    while seen.len() < 20 {
        for message in stage.vhost().take("full", 10).await {
            seen.insert(message.properties["headers"]["cloudEvents_id"].to_string());
        }
        assert!(std::time::Instant::now() < deadline, "{} of 20 came", seen.len());
    }
    poll("the outbox is empty", LIMIT, || async {
        let left = stage.sql("select count(*) from weft.outbox").await;
        if left.trim() == "0" { Ok(()) } else { Err(left) }
    })
    .await;
    stop(dispatcher).await;
}

#[tokio::test]
async fn queues_that_are_deleted_under_a_dispatcher_are_made_again_and_it_is_told() {
    let stage = Stage::real().await.manifest(FAIL);
    let dispatcher = stage.start(&[]).await;
    let dlq = format!("{}.dlq.fail", stage.prefix);
    stage.vhost().delete_queue(&dlq).await;
    // The copy is returned, as no queue takes it.
    stage.publish("fail.event", "a", &json!({})).await;
    depth_is(&stage, &dlq, 1).await;
    logged(&dispatcher, "outbox row not published").await;
    let told = logged(&dispatcher, "what lay in them is lost").await;
    assert_eq!(told["level"], "ERROR", "a person must look after it");
    stage.vhost().delete_queue(&stage.queue("fail")).await;
    logged(&dispatcher, "broker consumer restored").await;
    stage.publish("fail.event", "b", &json!({})).await;
    stage.invocations_in("fail", "dead", 2).await;
    depth_is(&stage, &dlq, 2).await;
    let lines = stop(dispatcher).await.lines;
    assert_eq!(count(&lines, "broker ended a consumer"), 1);
}
