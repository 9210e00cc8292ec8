//! How many workers a Lambda function has, and what its workers share where nothing may be mounted.

use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{Process, poll, poll_every};

use crate::lambda_stage::EXPECTED;
use crate::system_stage::{LIMIT, Stage, admin, children, complaints, get, runs, runs_reach, started, stop};

const SLOW: &str = r#"
import os, time

def handler(event, context):
    ask = event["data"]
    with open(ask["runs"], "a") as runs:
        runs.write(f"{os.getpid()}\n")
    while not os.path.exists(ask["file"]):
        time.sleep(0.01)
    return os.getpid()
"#;

async fn a_burst_of_slow_calls_has_workers_up_to_what_is_reserved(stage: Stage) {
    let python = weft_tests::python().display().to_string();
    let stage = stage.manifest(&format!(
        "[functions.slow]\nruntime = \"lambda\"\ncommand = [{python:?}, \"-m\", \"awslambdaric\", \"app.handler\"]\n\
         root = \"code\"\nevents = [\"slow.*\"]\nconcurrency = {{ reserved = 3 }}\nkeep_alive = \"1s\"\ntimeout = \"120s\"\n"
    ));
    // `weft dev` replaces workers when something changes beside their code; here nothing does.
    std::fs::create_dir(stage.path("code")).unwrap();
    std::fs::write(stage.path("code/app.py"), SLOW).unwrap();
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    assert!(children(dispatcher.pid().unwrap()).is_empty(), "nothing has come yet");
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("go") }).to_string();
    stage.done(&["publish", "slow.event", "--count", "9", "--data", &data, "--json"]).await;
    // None of them ends before it may.
    let began = runs_reach(&stage.path("runs"), 3).await;
    let numbers = status(&address).await;
    let function = &numbers["functions"]["slow"];
    assert_eq!((&function["running"], &function["workers"]), (&json!(3), &json!(3)), "{numbers:#}");
    assert_eq!(runs(&stage.path("runs")), began, "more than are reserved have begun");
    std::fs::write(stage.path("go"), "").unwrap();
    let done = stage.invocations_in("slow", "succeeded", 9).await;
    assert!(done.iter().all(|one| one["attempt"] == 1), "charged for what we decided: {done:#?}");
    no_workers_left(&dispatcher).await;
    let numbers = status(&address).await;
    assert_eq!(numbers["functions"]["slow"]["peak_workers"], 3, "{numbers:#}");
    // And from zero again.
    stage.done(&["publish", "slow.event", "--id", "again", "--data", &data]).await;
    stage.invocations_in("slow", "succeeded", 10).await;
    assert_eq!(complaints(&stop(dispatcher).await.lines, &EXPECTED), Vec::<String>::new());
}

#[tokio::test]
async fn a_burst_of_slow_python_calls_has_workers_up_to_what_is_reserved_and_then_none_embedded() {
    a_burst_of_slow_calls_has_workers_up_to_what_is_reserved(Stage::embedded()).await;
}

#[tokio::test]
async fn a_burst_of_slow_python_calls_has_workers_up_to_what_is_reserved_and_then_none_on_rabbitmq() {
    a_burst_of_slow_calls_has_workers_up_to_what_is_reserved(Stage::real().await).await;
}

/// The dispatcher's live numbers.
async fn status(address: &str) -> Value {
    get(address, "/status").await.json().await.unwrap()
}

async fn no_workers_left(dispatcher: &Process) {
    let pid = dispatcher.pid().unwrap();
    poll_every(Duration::from_millis(50), "no worker is left", LIMIT, || async {
        let left = children(pid);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn without_the_right_to_mount_workers_share_tmp_and_the_log_says_so() {
    // Not below /tmp, which would be a reason of its own.
    let folder = tempfile::Builder::new().prefix("weft-lambda-").tempdir_in("/var/tmp").unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_weft-test-runtime-client"), folder.path().join("client")).unwrap();
    let mut stage = Stage::embedded();
    stage.folder = folder.path().to_owned();
    let manifest = "[functions.raw]\nruntime = \"lambda\"\ncommand = [\"./client\"]\nevents = [\"raw.*\"]\n";
    std::fs::write(stage.path("weft.toml"), manifest).unwrap();
    // Whoever may drop it drops it; whoever is not root has none.
    let program = if rustix::process::geteuid().is_root() {
        let without = ["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--"];
        stage.program(Process::at("setpriv")).args(without).arg(weft_tests::bin("weft"))
    } else {
        stage.program(Process::weft("weft"))
    };
    let mut dispatcher = started(program.args(["dev", "--admin", "127.0.0.1:0", "--log-format", "json"])).await;
    let line = dispatcher.wait_for_line("share /tmp with the machine", LIMIT).await;
    assert!(line.contains("needs CAP_SYS_ADMIN to mount") && line.contains("\"raw\""), "{line}");
    let marker = format!("weft-lambda-test-{:016x}", fastrand::u64(..));
    std::fs::write(format!("/tmp/{marker}"), "").unwrap();
    stage.publish("raw.event", "look", &json!({ "do": "environment" })).await;
    let of_worker = stage.invocations_in("raw", "succeeded", 1).await;
    let seen: Value = serde_json::from_str(of_worker[0]["result"].as_str().unwrap()).unwrap();
    // Its own folder is what it is told to write to; only who names /tmp shares it.
    let (home, own) = (seen["seen"][0]["HOME"].as_str().unwrap(), seen["seen"][0]["TMPDIR"].as_str().unwrap());
    assert!(home == own && home.contains("weft-run-"), "{home}, {own}");
    stage.publish("raw.event", "list", &json!({ "do": "list_tmp" })).await;
    let listed = poll("the list is there", LIMIT, || async {
        let all = stage.invocations_in("raw", "succeeded", 2).await;
        all.iter().find(|one| one["key"].as_str().is_some_and(|key| key.ends_with("list"))).cloned().ok_or(all)
    })
    .await;
    std::fs::remove_file(format!("/tmp/{marker}")).unwrap();
    assert!(listed["result"].as_str().unwrap().contains(&marker), "it sees the machine's: {listed:#}");
    assert_eq!(complaints(&stop(dispatcher).await.lines, &EXPECTED), Vec::<String>::new());
}
