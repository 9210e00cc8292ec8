//! What RabbitMQ may do to a dispatcher that runs: an alarm, full and deleted queues, consumers that it times out, events
//! that it gives up or cannot route. Nothing is lost, nothing needs a restart, and each is told a bounded number of times.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use weft_dispatcher::broker::Broker;
use weft_dispatcher::broker::amqp::Amqp;
use weft_process::secret::Address;
use weft_tests::{PrivateRabbit, Process, QueueDepth, poll};

use crate::system_stage::{LIMIT, Stage, admin, complaints, get, record, runs, runs_reach, stop};

const RETRY: &str = r#"
    [functions.retry]
    command = ["HANDLERS"]
    events = ["retry.event"]
    slots = 4
    retry = { attempts = 5, backoff = { first = "1s", jitter = 0.0 } }
"#;

const FAIL: &str = r#"
    [functions.fail]
    command = ["HANDLERS"]
    events = ["fail.event"]
    slots = 4
"#;

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

/// The open dead letters of a function.
async fn letters(stage: &Stage, function: &str) -> Vec<Value> {
    let all = stage.json(&["dlq", "ls", "--json"]).await;
    all.as_array().unwrap().iter().filter(|letter| letter["function"] == function).cloned().collect()
}

async fn letter(stage: &Stage, function: &str) -> Value {
    poll(&format!("a dead letter of {function}"), LIMIT, || async {
        let mut letters = letters(stage, function).await;
        if letters.len() == 1 { Ok(letters.remove(0)) } else { Err(letters) }
    })
    .await
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
async fn a_broker_in_alarm_is_told_and_what_must_leave_waits_for_its_end() {
    let rabbit = PrivateRabbit::start().await;
    let stage = Stage::with_rabbit(&rabbit).await.manifest(RETRY);
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    let runs_file = stage.path("runs");
    for id in 0..20 {
        stage.publish("retry.event", &id.to_string(), &json!({ "runs": runs_file, "from_attempt": 2 })).await;
    }
    // Each fails once; the second attempts are outbox rows that are due in a second.
    runs_reach(&runs_file, 1).await;
    rabbit.alarm(true).await;
    // The alarm is told on the connection that publishes; a failure makes it publish.
    let published = AtomicUsize::new(20);
    let told = poll("the health says blocked", LIMIT, || async {
        // Through the broker's own interface, which the alarm does not block.
        let id = published.fetch_add(1, Ordering::Relaxed).to_string();
        let data = json!({ "runs": runs_file, "from_attempt": 2 }).to_string();
        let exchange = format!("{}.events", stage.prefix);
        let properties = json!({ "message_id": id, "content_type": "application/json", "delivery_mode": 2 });
        stage.vhost().publish(&exchange, "retry.event", properties, &data).await;
        let health = get(&address, "/health").await.json::<Value>().await.unwrap();
        match health["broker"].as_str() {
            Some(broker) if broker.starts_with("blocked") => Ok(health.clone()),
            _ => Err(health),
        }
    })
    .await;
    assert_eq!(told["healthy"], false);
    // What is here goes on: every event has had its first attempt, though nothing can leave.
    let published = published.into_inner();
    poll("all wait", LIMIT, || async {
        let all = stage.invocations(&[]).await;
        let open = all.iter().filter(|invocation| invocation["state"] == "claimed").count();
        if open == 0 && all.len() == published { Ok(()) } else { Err(all) }
    })
    .await;
    // Two passes may have been under way when the broker fell silent; none is begun after that.
    let tries: u32 = stage.sql("select coalesce(max(tries), 0) from weft.outbox").await.trim().parse().unwrap();
    assert!(tries <= 2, "{tries} tries in an alarm");
    rabbit.alarm(false).await;
    stage.invocations_in("retry", "succeeded", published).await;
    let health = poll("well again", LIMIT, || async {
        let health = get(&address, "/health").await.json::<Value>().await.unwrap();
        if health["healthy"] == true { Ok(health) } else { Err(health) }
    })
    .await;
    assert_eq!(health["broker"], Value::Null);
    let lines = stop(dispatcher).await.lines;
    assert_eq!(count(&lines, "broker takes no publishes"), 1);
    assert_eq!(count(&lines, "broker takes publishes again"), 1);
    // For each invocation its two attempts, whatever was published twice.
    assert_eq!(runs(&runs_file).len(), 2 * published);
    let complaints = complaints(&lines, &["attempt failed"]);
    assert!(complaints.len() <= 5, "a storm:\n{}", complaints.join("\n"));
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
        let status = get(&address, "/status").await.json::<Value>().await.unwrap();
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

#[tokio::test]
async fn a_consumer_that_the_broker_times_out_is_made_again_and_the_run_counts_once() {
    let rabbit = PrivateRabbit::start().await;
    rabbit.time_consumers_out_after(Duration::from_millis(1500)).await;
    let stage = Stage::with_rabbit(&rabbit).await.manifest(
        r#"
        [functions.wait]
        command = ["HANDLERS"]
        events = ["wait.event"]
        slots = 4
    "#,
    );
    let dispatcher = stage.start(&[]).await;
    let (runs_file, gate) = (stage.path("runs"), stage.path("gate"));
    let data = json!({ "runs": runs_file, "file": gate });
    stage.publish("wait.event", "slow", &data).await;
    // Twice: the redelivery has joined what runs, and is timed out as well.
    poll("two consumers are timed out", LIMIT, || async {
        let lines = dispatcher.lines();
        if count(&lines, "broker ended a consumer") >= 2 { Ok(()) } else { Err(lines) }
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    stage.invocations_in("wait", "succeeded", 1).await;
    stage.queue_empty("wait").await;
    // The consumer works.
    stage.publish("wait.event", "next", &data).await;
    stage.invocations_in("wait", "succeeded", 2).await;
    assert_eq!(runs(&runs_file).len(), 2, "a redelivery was run");
    let all = stage.invocations(&[]).await;
    assert!(all.iter().all(|invocation| invocation["attempt"] == 1), "{all:?}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn what_the_broker_gave_up_is_listed_and_redriven_as_any_dead_letter() {
    let stage = Stage::real().await.manifest(FAIL);
    // Declares, and leaves.
    stop(stage.start(&[]).await).await;
    stage.publish("fail.event", "poison", &json!({ "file": stage.path("weft.toml") })).await;
    // Hands it back until the broker has enough of it.
    let rogue = Amqp::connect(&Address::new(stage.vhost().amqp_url.as_str()), "rogue").await.unwrap();
    let mut subscription = rogue.subscribe(&stage.queue("fail"), 1).await.unwrap();
    let crashed = format!("{}.crashed", stage.prefix);
    while rogue.depth(&crashed).await == Some(0) {
        if let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::from_millis(50), subscription.deliveries.recv()).await
        {
            subscription.acks.requeue(vec![delivery.id]);
        }
    }
    drop(subscription);
    rogue.close().await;
    let dispatcher = stage.start(&[]).await;
    let letter = letter(&stage, "fail").await;
    assert_eq!((letter["reason"].as_str(), letter["error"]["kind"].as_str()), (Some("crashed"), Some("DeliveryLimit")));
    assert_eq!((letter["attempts"].as_u64(), letter["key"].is_string()), (Some(0), true));
    depth_is(&stage, &crashed, 0).await;
    let dlq = format!("{}.dlq.fail", stage.prefix);
    depth_is(&stage, &dlq, 1).await;
    stage.done(&["dlq", "redrive", letter["id"].as_str().unwrap()]).await;
    stage.invocations_in("fail", "succeeded", 1).await;
    // What is closed does not lie at the broker as if it waited for somebody.
    depth_is(&stage, &dlq, 0).await;
    stop(dispatcher).await;
}

#[tokio::test]
async fn an_event_that_nobody_was_bound_to_is_redriven_to_who_is_bound_since() {
    let stage = Stage::real().await.manifest(FAIL);
    let dispatcher = stage.start(&[]).await;
    stage.publish("wait.event", "early", &json!({ "file": stage.path("weft.toml") })).await;
    let letter = letter(&stage, "unrouted").await;
    assert_eq!(letter["reason"], "unroutable");
    let events = format!("{}.events", stage.prefix);
    let message = letter["error"]["message"].as_str().unwrap();
    assert!(message.contains("wait.event") && message.contains(&events), "{message}");
    let dlq = format!("{}.dlq.unrouted", stage.prefix);
    depth_is(&stage, &dlq, 1).await;
    stop(dispatcher).await;
    let stage = stage.manifest(
        r#"
        [functions.wait]
        command = ["HANDLERS"]
        events = ["wait.event"]
    "#,
    );
    let dispatcher = stage.start(&[]).await;
    stage.done(&["dlq", "redrive", letter["id"].as_str().unwrap()]).await;
    stage.invocations_in("wait", "succeeded", 1).await;
    depth_is(&stage, &dlq, 0).await;
    assert!(letters(&stage, "unrouted").await.is_empty());
    stop(dispatcher).await;
}
