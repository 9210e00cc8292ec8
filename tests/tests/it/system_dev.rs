//! `weft dev` while the code of a function is edited.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use weft_tests::poll;

use crate::system_stage::{LIMIT, Stage, children, complaints, runs, runs_reach, stop};

const MANIFEST: &str = "[functions.wait]\ncommand = ['./run.sh']\nevents = ['wait.event']\nslots = 1\n\
                        keep_alive = '60s'\ntimeout = '60s'";

/// Puts a function's program in place, as an editor or a compiler does it: a worker of the tests, and before it `first`.
fn write_code(stage: &Stage, first: &str) {
    let text = format!("#!/bin/sh\n{first}\nexec {}\n", env!("CARGO_BIN_EXE_weft-test-handlers"));
    let new = stage.path("run.sh.new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, stage.path("run.sh")).unwrap();
}

#[tokio::test]
async fn changed_code_runs_what_comes_next_and_the_old_one_finishes_what_it_has_uncharged() {
    let stage = Stage::embedded().manifest(MANIFEST);
    write_code(&stage, "");
    let mut dispatcher = stage.start(&[]).await;
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("go") });
    stage.publish("wait.event", "under-way", &data).await;
    runs_reach(&stage.path("runs"), 1).await;
    let old = children(dispatcher.pid().unwrap());

    write_code(&stage, "touch second");
    dispatcher.wait_for_line("code has changed", LIMIT).await;
    stage.publish("wait.event", "next", &data).await;
    runs_reach(&stage.path("runs"), 2).await;
    assert!(stage.path("second").exists(), "the old code ran it");
    std::fs::write(stage.path("go"), "").unwrap();
    let done = stage.invocations_in("wait", "succeeded", 2).await;
    assert!(done.iter().all(|invocation| invocation["attempt"] == 1), "{done:#?}");

    // Kept alive for a minute, and gone: the old one now that it has finished, the idle one at the next change.
    let none_of = async |gone: &std::collections::BTreeSet<u32>| {
        poll("the workers with the old code are gone", LIMIT, || async {
            let left: Vec<_> = children(dispatcher.pid().unwrap()).intersection(gone).copied().collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    };
    none_of(&old).await;
    let idle = children(dispatcher.pid().unwrap());
    assert_eq!(idle.len(), 1, "the new one stays");
    write_code(&stage, "touch third");
    none_of(&idle).await;
    stage.publish("wait.event", "last", &data).await;
    stage.invocations_in("wait", "succeeded", 3).await;
    assert!(stage.path("third").exists());
    assert_eq!(runs(&stage.path("runs")).len(), 3);
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn code_that_does_not_start_loses_no_event_and_is_tried_again_as_soon_as_it_is_mended() {
    let stage = Stage::embedded().manifest(MANIFEST);
    write_code(&stage, "");
    let mut dispatcher = stage.start(&[]).await;
    write_code(&stage, "exit 3");
    dispatcher.wait_for_line("code has changed", LIMIT).await;
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("run.sh") });
    stage.publish("wait.event", "patient", &data).await;
    dispatcher.wait_for_line("worker did not start", LIMIT).await;
    write_code(&stage, "");
    let done = stage.invocations_in("wait", "succeeded", 1).await;
    assert_eq!(done[0]["attempt"], 1, "a start that fails is no attempt: {done:#?}");
    let manifest = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    std::fs::write(stage.path("weft.toml"), manifest + "\n").unwrap();
    dispatcher.wait_for_line("the manifest has changed", LIMIT).await;
    stop(dispatcher).await;
}

#[tokio::test]
async fn without_the_watch_workers_keep_the_code_that_they_were_started_with() {
    let stage = Stage::embedded().manifest(MANIFEST);
    write_code(&stage, "");
    let dispatcher = stage.start(&["--no-watch"]).await;
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("run.sh") });
    stage.publish("wait.event", "one", &data).await;
    stage.invocations_in("wait", "succeeded", 1).await;
    let worker = children(dispatcher.pid().unwrap());
    write_code(&stage, "touch second");
    stage.publish("wait.event", "two", &data).await;
    stage.invocations_in("wait", "succeeded", 2).await;
    assert_eq!(children(dispatcher.pid().unwrap()), worker);
    let exit = stop(dispatcher).await;
    assert!(!exit.text().contains("code has changed"), "{}", exit.text());
}
