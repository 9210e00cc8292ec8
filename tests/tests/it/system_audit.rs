//! `weft audit` on real services: quiet on a system at work, and loud on what a person plants.

use serde_json::{Value, json};
use weft_tests::poll;

use crate::system_stage::{LIMIT, Stage, one_json, stop};

const MANIFEST: &str = r#"
[functions.noop]
command = ["HANDLERS"]
events = ["noop.event"]

[functions.fail]
command = ["HANDLERS"]
events = ["fail.event"]

[functions.wait]
command = ["HANDLERS"]
events = ["wait.event"]
slots = 1
concurrency = { reserved = 1 }
"#;

/// The answer of an audit, and whether it was clean.
async fn audit(stage: &Stage, more: &[&str]) -> Value {
    let args = [&["audit", "--json", "--pause", "200ms", "--grace", "0s"], more].concat();
    let exit = stage.weft(&args).run(LIMIT).await;
    let clean = one_json(&exit)["clean"] == json!(true);
    one_json(&if clean { exit.success() } else { exit.code(6) })
}

/// What an audit found, by kind.
fn kinds(answer: &Value) -> Vec<&str> {
    let all = answer["differences"].as_array().unwrap();
    let mut kinds: Vec<_> = all.iter().map(|found| found["difference"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

#[tokio::test]
async fn a_system_at_work_and_at_rest_is_accounted_for() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    let go = stage.path("go");
    stage.publish("wait.event", "running", &json!({ "file": go })).await;
    stage.publish("noop.event", "done", &json!({})).await;
    stage.publish("fail.event", "dead", &json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;
    stage.invocations_in("fail", "dead", 1).await;
    stage.invocations_in("wait", "claimed", 1).await;
    let answer = audit(&stage, &[]).await;
    assert_eq!(answer["differences"], json!([]), "at work");
    let of = |name: &str| answer["functions"].as_array().unwrap().iter().find(|one| one["function"] == name).cloned();
    assert_eq!(of("wait").unwrap()["claimed"], 1);
    assert_eq!(of("noop").unwrap()["succeeded"], 1);
    assert_eq!((&of("fail").unwrap()["dead"], &of("fail").unwrap()["open_letters"]), (&json!(1), &json!(1)));

    std::fs::write(&go, "").unwrap();
    stage.invocations_in("wait", "succeeded", 1).await;
    stop(dispatcher).await;
    assert_eq!(audit(&stage, &[]).await["differences"], json!([]), "at rest");
}

#[tokio::test]
async fn rows_that_are_deleted_by_hand_are_found_and_named() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    let lines = (0..5).map(
        |n| json!({ "specversion": "1.0", "type": "noop.event", "id": format!("n{n}"), "source": "/t", "data": {} }),
    );
    let file = stage.path("published.ndjson");
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let file = file.display().to_string();
    stage.done(&["publish", "--file", &file, "--json"]).await;
    stage.publish("fail.event", "dead", &json!({})).await;
    stage.invocations_in("noop", "succeeded", 5).await;
    stage.invocations_in("fail", "dead", 1).await;
    stop(dispatcher).await;
    let answer = audit(&stage, &["--published", &file]).await;
    assert_eq!((&answer["differences"], &answer["published"]["expected"]), (&json!([]), &json!(5)));

    stage.sql("DELETE FROM weft.invocation WHERE function = 'noop' AND key LIKE '%n3%'").await;
    let answer = audit(&stage, &[]).await;
    assert_eq!(kinds(&answer), ["rows"], "{answer}");
    assert_eq!((&answer["differences"][0]["accepted"], &answer["differences"][0]["present"]), (&json!(5), &json!(4)));
    // Whoever has the list of what was published learns which.
    let answer = audit(&stage, &["--published", &file]).await;
    assert_eq!(kinds(&answer), ["missing", "rows"], "{answer}");
    assert!(answer["published"]["unknown"][0]["key"].as_str().unwrap().contains("n3"), "{answer}");

    stage.sql("DELETE FROM weft.dead_letter").await;
    let answer = audit(&stage, &[]).await;
    assert!(kinds(&answer).contains(&"dead_without_letter"), "{answer}");
    let found = answer["differences"].as_array().unwrap().iter().find(|one| one["difference"] == "dead_without_letter");
    assert!(found.unwrap()["key"].as_str().unwrap().contains("dead"), "{answer}");
}

#[tokio::test]
async fn a_message_that_is_moved_by_hand_is_found_and_named() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&["--lease", "1s"]).await;
    let (go, runs) = (stage.path("go"), stage.path("runs"));
    stage.publish("wait.event", "one", &json!({ "file": go, "runs": runs })).await;
    stage.invocations_in("wait", "claimed", 1).await;
    dispatcher.kill();
    dispatcher.wait(LIMIT).await;
    // The claim lapses, and the message that brings it back lies in the queue.
    poll("its lease is over", LIMIT, || async {
        let answer = audit(&stage, &[]).await;
        let wait = answer["functions"].as_array().unwrap().iter().find(|one| one["function"] == "wait").cloned();
        if wait.is_some_and(|wait| wait["lapsed"] == 1) && answer["clean"] == true { Ok(()) } else { Err(answer) }
    })
    .await;

    let taken = stage.vhost().take(&stage.queue("wait"), 1).await;
    let dlq = format!("{}.dlq.wait", stage.prefix);
    assert!(stage.vhost().publish("", &dlq, json!({ "message_id": "moved" }), &taken[0].payload).await);
    let answer = audit(&stage, &[]).await;
    let found = kinds(&answer);
    assert!(found.contains(&"foreign"), "{answer}");
    assert!(found.contains(&"stranded"), "{answer}");
    let message = answer["differences"].as_array().unwrap().iter().find(|one| one["difference"] == "foreign").unwrap();
    assert_eq!(message["message"]["message_id"], "moved", "{answer}");
    // The look inside has taken nothing out.
    assert_eq!(stage.vhost().take(&dlq, 10).await.len(), 1);
}
