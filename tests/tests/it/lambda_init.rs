//! `weft init`: what it writes runs at once, and it overwrites nothing.

use serde_json::json;

use crate::lambda_stage::{EXPECTED, result, with_venv};
use crate::system_stage::{LIMIT, Stage, complaints, stop};

/// Writes a function into the stage's folder.
async fn written(stage: Stage, language: &str) -> Stage {
    let said = stage.done(&["init", "--from", language]).await.text();
    assert!(said.contains("wrote ./weft.toml") && said.contains("README.md says how to run it"), "{said}");
    stage
}

/// Sends it an event; its answer, and what was logged of its output.
async fn greeted(stage: Stage) -> (serde_json::Value, String) {
    let dispatcher = stage.start(&[]).await;
    stage.publish("hello.said", "h1", &json!({ "name": "Ada" })).await;
    let done = stage.invocations_in("hello", "succeeded", 1).await;
    assert_eq!(done[0]["attempt"], 1, "{done:#?}");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &EXPECTED), Vec::<String>::new());
    (result(&done[0]), exit.text())
}

#[tokio::test]
async fn a_python_function_from_init_runs_at_once() {
    let (answer, log) = greeted(with_venv(written(Stage::embedded(), "python").await)).await;
    assert_eq!(answer, json!({ "greeting": "hello Ada" }));
    assert!(log.contains("greeting Ada"), "{log}");
}

#[tokio::test]
async fn a_node_function_from_init_runs_at_once() {
    let (answer, log) = greeted(written(Stage::embedded(), "node").await).await;
    assert_eq!(answer, json!({ "greeting": "hello Ada" }));
    assert!(log.contains("greeting Ada"), "{log}");
}

#[tokio::test]
async fn any_program_from_init_runs_at_once() {
    let (answer, log) = greeted(written(Stage::embedded(), "lambda").await).await;
    assert_eq!((&answer["greeting"], &answer["event"]["data"]), (&json!("hello"), &json!({ "name": "Ada" })));
    assert!(log.contains("took "), "{log}");
}

#[tokio::test]
async fn a_function_is_never_written_over_a_file() {
    let stage = written(Stage::embedded(), "node").await;
    let mine = "// mine\n";
    std::fs::write(stage.path("index.mjs"), mine).unwrap();
    let refused = stage.weft(&["init", "--from", "python"]).run(LIMIT).await;
    assert_eq!(refused.status.code(), Some(2), "{}", refused.text());
    assert!(refused.text().contains("has weft.toml, README.md already"), "{}", refused.text());
    assert!(!stage.path("app.py").exists(), "nothing is written where something is in the way");
    assert_eq!(std::fs::read_to_string(stage.path("index.mjs")).unwrap(), mine);
    stage.done(&["init", "new/folder", "--from", "rust"]).await;
    assert!(stage.path("new/folder/src/main.rs").is_file());
}
