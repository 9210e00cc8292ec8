//! Any executable as a Lambda function: a shell script that speaks the Runtime API with curl, as `provided.al2023` has it.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::system_stage::{Stage, complaints, stop};

/// Takes one invocation after the other; answers with what it was given and what it was told.
const BOOTSTRAP: &str = r#"#!/bin/sh
set -eu
base="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while :; do
    event=$(curl -sS -D "$TMPDIR/head" "$base/next")
    id=$(grep -i '^Lambda-Runtime-Aws-Request-Id:' "$TMPDIR/head" | tr -d '\r' | cut -d' ' -f2)
    echo "saw $id"
    case "$event" in
        *'"fail"'*)
            curl -sS -o /dev/null -X POST "$base/$id/error" \
                -d '{"errorMessage":"no stock","errorType":"OutOfStock","stackTrace":["line one","line two"]}' ;;
        *)
            curl -sS -o /dev/null -X POST "$base/$id/response" \
                -d "{\"handler\":\"$_HANDLER\",\"root\":\"$LAMBDA_TASK_ROOT\",\"event\":$event}" ;;
    esac
done
"#;

const MANIFEST: &str = r#"
[functions.shell]
runtime = "lambda"
command = ["./bootstrap"]
root = "shell"
handler = "main"
events = ["shell.*"]
retry = { attempts = 2, backoff = { first = "10ms", max = "10ms" } }
terminal_errors = ["NeverAgain"]
"#;

fn stage(stage: Stage) -> Stage {
    let stage = stage.manifest(MANIFEST);
    let folder = stage.path("shell");
    std::fs::create_dir(&folder).unwrap();
    let script = folder.join("bootstrap");
    std::fs::write(&script, BOOTSTRAP).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    stage
}

async fn a_script_answers_and_fails(stage: Stage) {
    let dispatcher = stage.start(&[]).await;
    stage.publish("shell.run", "one", &json!({ "amount": 3 })).await;
    let done = stage.invocations_in("shell", "succeeded", 1).await;
    assert_eq!((&done[0]["attempt"], &done[0]["crashes"]), (&json!(1), &json!(0)), "{done:#?}");

    stage.publish("shell.run", "two", &json!({ "fail": true })).await;
    let dead = stage.invocations_in("shell", "dead", 1).await;
    assert_eq!(dead[0]["attempt"], 2, "{dead:#?}");
    let letters = stage.json(&["dlq", "ls", "--json"]).await;
    let text = letters.to_string();
    assert!(text.contains("OutOfStock") && text.contains("no stock"), "{letters:#}");
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("invocation report"), "{}", exit.text());
    let expected = ["invocation report", "share /tmp", "event given up", "attempt failed"];
    assert_eq!(complaints(&exit.lines, &expected), Vec::<String>::new());
}

#[tokio::test]
async fn a_shell_script_runs_as_a_lambda_function_embedded() {
    a_script_answers_and_fails(stage(Stage::embedded())).await;
}

#[tokio::test]
async fn a_shell_script_runs_as_a_lambda_function_on_rabbitmq() {
    a_script_answers_and_fails(stage(Stage::real().await)).await;
}
