//! What the tests of functions in other languages share: a folder of an example or a template, with its packages in place.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::system_stage::Stage;

/// What each Lambda function logs, and what each machine may lack.
pub const EXPECTED: [&str; 2] = ["invocation report", "share /tmp"];

/// The example's folder in the repository.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// Copies an example's own files into the stage's folder; what it has installed stays away.
pub fn with_example(stage: Stage, name: &str) -> Stage {
    let mut copied = 0;
    for entry in std::fs::read_dir(example(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), stage.path(entry.file_name().to_str().unwrap())).unwrap();
            copied += 1;
        }
    }
    assert!(copied > 2, "examples/{name} has {copied} files");
    stage
}

/// Puts the tests' Python environment where `python3 -m venv venv` and `pip install` would have made one.
pub fn with_venv(stage: Stage) -> Stage {
    let python = weft_tests::python();
    let environment = python.ancestors().nth(2).unwrap();
    symlink(environment, stage.path("venv")).unwrap();
    stage
}

/// Puts a built program where `cargo build --release` would have put it.
pub fn with_program(stage: Stage, program: &Path, name: &str) -> Stage {
    std::fs::create_dir_all(stage.path("target/release")).unwrap();
    symlink(program, stage.path("target/release").join(name)).unwrap();
    stage
}

/// Puts the tests' npm packages where `npm install` would have put them.
pub fn with_node_modules(stage: Stage) -> Stage {
    symlink(weft_tests::node_modules(), stage.path("node_modules")).unwrap();
    stage
}

/// The result of an invocation, as JSON.
pub fn result(invocation: &Value) -> Value {
    let text = invocation["result"].as_str().unwrap_or_else(|| panic!("no result in {invocation:#}"));
    serde_json::from_str(text).unwrap_or_else(|error| panic!("the result is no JSON ({error}): {text}"))
}
