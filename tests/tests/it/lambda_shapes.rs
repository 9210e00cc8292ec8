//! The shapes of events through the whole program: what a function is handed, and what its answer does.

use serde_json::json;

use crate::lambda_stage::{EXPECTED, result};
use crate::system_stage::{Stage, complaints, stop};

/// Answers with what it was given; of a batch it names the events that say so, until their second attempt.
const ECHO: &str = r#"
export const echo = async (event) => event;
export async function partial({ Records }) {
  const failed = Records.filter((r) => JSON.parse(r.body).fail && r.attributes.ApproximateReceiveCount === '1');
  return { batchItemFailures: failed.map((r) => ({ itemIdentifier: r.messageId })) };
}
"#;

fn function(name: &str, handler: &str, more: &str) -> String {
    format!(
        "[functions.{name}]\nruntime = \"lambda\"\ncommand = [\"weft\", \"runtime\", \"node\", \"echo.{handler}\"]\n\
         events = [\"{name}.*\"]\nmemory = \"512MiB\"\n{more}\n"
    )
}

fn stage(stage: Stage, manifest: &str) -> Stage {
    let stage = stage.manifest(manifest);
    std::fs::write(stage.path("echo.mjs"), ECHO).unwrap();
    stage
}

async fn each_shape_is_what_its_function_gets(on: Stage) {
    let shapes =
        [("plain", "data"), ("sqs", "aws:sqs"), ("rmq", "aws:rmq"), ("sns", "aws:sns"), ("bus", "aws:eventbridge")];
    let manifest: String =
        shapes.iter().map(|(name, shape)| function(name, "echo", &format!("event = \"{shape}\""))).collect();
    let stage = stage(on, &manifest);
    let dispatcher = stage.start(&[]).await;
    for (name, _) in shapes {
        stage.publish(&format!("{name}.sent"), "e1", &json!({ "order": 7 })).await;
    }
    let mut got = std::collections::BTreeMap::new();
    for (name, _) in shapes {
        got.insert(name, result(&stage.invocations_in(name, "succeeded", 1).await[0]));
    }
    assert_eq!(got["plain"], json!({ "order": 7 }));
    let record = &got["sqs"]["Records"][0];
    assert_eq!((&record["body"], &record["eventSource"]), (&json!(r#"{"order":7}"#), &json!("aws:sqs")));
    assert_eq!(record["eventSourceARN"], format!("arn:aws:sqs:us-east-1:000000000000:{}", stage.queue("sqs")));
    let messages = &got["rmq"]["rmqMessagesByQueue"][format!("{}::/", stage.queue("rmq"))];
    assert_eq!(messages[0]["data"], "eyJvcmRlciI6N30=", "{:#}", got["rmq"]);
    assert_eq!(got["sns"]["Records"][0]["Sns"]["Message"], r#"{"order":7}"#);
    assert_eq!((&got["bus"]["detail"], &got["bus"]["detail-type"]), (&json!({ "order": 7 }), &json!("bus.sent")));
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &EXPECTED), Vec::<String>::new());
}

#[tokio::test]
async fn each_shape_is_what_its_function_gets_embedded() {
    each_shape_is_what_its_function_gets(Stage::embedded()).await;
}

#[tokio::test]
async fn each_shape_is_what_its_function_gets_on_rabbitmq() {
    each_shape_is_what_its_function_gets(Stage::real().await).await;
}

#[tokio::test]
async fn of_a_batch_only_the_named_events_are_tried_again() {
    let more = "event = \"aws:sqs\"\nbatch = { size = 4, wait = \"2s\" }\n\
                retry = { attempts = 3, backoff = { first = \"10ms\" } }";
    let stage = stage(Stage::embedded(), &function("some", "partial", more));
    let dispatcher = stage.start(&[]).await;
    for n in 0..4 {
        stage.publish("some.sent", &format!("e{n}"), &json!({ "fail": n == 2 })).await;
    }
    let done = stage.invocations_in("some", "succeeded", 4).await;
    let again: Vec<&str> =
        done.iter().filter(|one| one["attempt"] == 2).map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(again, ["/t e2"], "{done:#?}");
    assert!(done.iter().all(|one| one["attempt"] == 2 || one["attempt"] == 1), "{done:#?}");
    let exit = stop(dispatcher).await;
    let expected = [EXPECTED.as_slice(), &["attempt failed"]].concat();
    assert_eq!(complaints(&exit.lines, &expected), Vec::<String>::new());
}
