//! `weft init`: what it writes runs at once, and it overwrites nothing.

use std::time::Duration;

use serde_json::json;
use weft_tests::Process;

use crate::lambda_stage::{EXPECTED, example, result, with_program, with_venv};
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
    // The Rust client tells of its graceful end on standard error.
    let expected = [EXPECTED.as_slice(), &["[runtime] "]].concat();
    assert_eq!(complaints(&exit.lines, &expected), Vec::<String>::new());
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
async fn a_rust_function_from_init_runs_once_it_is_built() {
    let stage = written(Stage::embedded(), "rust").await;
    // With the versions that are there already, and what was built of them.
    let locked = std::fs::read_to_string(example("rust-lambda").join("Cargo.lock")).unwrap();
    std::fs::write(stage.path("Cargo.lock"), locked.replace("weft-example-rust-lambda", "hello")).unwrap();
    let target = weft_tests::rust_function().ancestors().nth(2).unwrap().to_owned();
    let build = Process::at("cargo").folder(&stage.folder).args(["build", "--offline", "--quiet", "--config"]);
    let mut build = build.arg("profile.dev.debug=false").arg("--target-dir").arg(&target);
    for home in ["CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(path) = std::env::var_os(home) {
            build = build.env(home, path);
        }
    }
    build.run(Duration::from_secs(300)).await.success();
    let (answer, log) = greeted(with_program(stage, &target.join("debug/hello"), "hello")).await;
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
