//! The log of an invocation as its caller gets it: `LogType=Tail` of the Invoke API, and `weft invoke`.

use std::path::Path;

use serde_json::{Value, json};
use weft_tests::{Exit, Process};

use super::system_stage::{LIMIT, Stage, invoke_api, one_json, record, stop};

/// A function as it stands at AWS.
const APP: &str = r#"
import os

def handler(event, context):
    for line in event["say"]:
        print(line)
    if event.get("fail"):
        raise ValueError("not with that")
    if event.get("exit"):
        os._exit(3)
    return context.aws_request_id
"#;

async fn stage() -> (Stage, Process, String) {
    let manifest = format!(
        r#"
[functions.app]
runtime = "lambda"
command = ["{}", "-m", "awslambdaric", "app.handler"]
events = ["t.app"]
memory = "200MiB"

[functions.speak]
command = ["HANDLERS"]
events = ["t.speak"]
"#,
        weft_tests::python().display()
    );
    let stage = Stage::embedded().manifest(&manifest);
    std::fs::write(stage.path("app.py"), APP).unwrap();
    let mut dispatcher = stage.start(&["--invoke", "127.0.0.1:0"]).await;
    let api = invoke_api(&mut dispatcher).await;
    (stage, dispatcher, api)
}

/// What a program wrote to standard error.
fn stderr(exit: &Exit) -> Vec<String> {
    exit.lines.iter().filter(|line| !exit.stdout.contains(line)).cloned().collect()
}

/// The lines of a log, and the fields of its last one.
fn lines(log: &Value) -> (Vec<&str>, Vec<&str>) {
    let lines: Vec<&str> = log.as_str().unwrap().lines().collect();
    let report = lines.last().unwrap().split('\t').collect();
    (lines, report)
}

#[tokio::test]
async fn boto3_gets_the_log_of_its_invocation_and_of_no_other() {
    let (stage, dispatcher, api) = stage().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/log.py");
    let client = Process::at(weft_tests::python()).arg(script).arg(format!("http://{api}")).folder(&stage.folder);
    let seen = one_json(&client.run(LIMIT).await.success());

    let cold = &seen["cold"];
    let id = cold["id"].as_str().unwrap();
    assert_eq!(cold["payload"], id, "the function knows its invocation by the same name as its caller");
    let (all, report) = lines(&cold["log"]);
    let start = format!("START RequestId: {id} Version: $LATEST");
    assert_eq!(all[..all.len() - 1], [start.as_str(), "first", "zweitens ü", &format!("END RequestId: {id}")]);
    assert_eq!((report[0], report[3]), (format!("REPORT RequestId: {id}").as_str(), "Memory Size: 200 MB"));
    for (field, name, unit) in [
        (1, "Duration: ", " ms"),
        (2, "Billed Duration: ", " ms"),
        (4, "Max Memory Used: ", " MB"),
        (5, "Init Duration: ", " ms"),
    ] {
        let number = report[field].strip_prefix(name).and_then(|rest| rest.strip_suffix(unit));
        assert!(number.is_some_and(|number| number.parse::<f64>().is_ok_and(|number| number > 0.0)), "{report:?}");
    }
    let (all, report) = lines(&seen["warm"]["log"]);
    assert_eq!((all[1], all.len(), report.len()), ("second", 4, 5), "it was warm: {all:?}");
    assert_eq!(lines(&seen["silent"]["log"]).0.len(), 3);
    let failed = &seen["failed"];
    let (all, _) = lines(&failed["log"]);
    assert_eq!((&failed["error"], all[1]), (&json!("Unhandled"), "about to fail"));
    assert!(all.iter().any(|line| line.contains("not with that")), "{all:?}");

    let long = seen["long"]["log"].as_str().unwrap();
    assert!(long.len() <= 4096 && long.len() > 4090 && long.contains("REPORT RequestId"), "{} bytes", long.len());
    assert!(!long.contains("START") && long.contains(&"x".repeat(99)), "{long}");
    assert_eq!(seen["none"]["log"], Value::Null);
    for (number, log) in seen["many"].as_array().unwrap().iter().enumerate() {
        let (all, _) = lines(log);
        assert_eq!(all[1..all.len() - 2], [format!("line {number}")], "the lines that were written before the answer");
    }
    let (all, _) = lines(&seen["native"]["log"]);
    assert!(all.len() > 3, "a native handler's own lines: {all:?}");
    let exit = stop(dispatcher).await;
    let reports = exit.lines.iter().filter_map(|line| record(line));
    let reports = reports.filter(|record| record["message"] == "invocation report");
    assert!(reports.count() >= 36, "each is reported in the log too");
}

#[tokio::test]
async fn weft_invoke_prints_the_log_of_its_invocation_and_its_report() {
    let (stage, dispatcher, api) = stage().await;
    let call = async |args: &[&str]| stage.weft(&[&["invoke", "--invoke", &api], args].concat()).run(LIMIT).await;
    let first = call(&["app", "-d", r#"{"say":["hello"]}"#, "--key", "k"]).await.success();
    let id = first.stdout.concat().trim_matches('"').to_owned();
    let told = stderr(&first);
    assert_eq!(
        told[..3],
        [format!("START RequestId: {id} Version: $LATEST"), "hello".into(), format!("END RequestId: {id}")]
    );
    assert!(told[3].starts_with(&format!("REPORT RequestId: {id}\tDuration: ")), "{told:?}");
    for part in ["\tBilled Duration: ", "\tMemory Size: 200 MB", "\tMax Memory Used: ", "\tInit Duration: "] {
        assert!(told[3].contains(part), "no {part:?} in {told:?}");
    }
    let warm = one_json(&call(&["app", "-d", r#"{"say":["again"]}"#, "--json"]).await.success());
    assert!(warm["log"].as_str().unwrap().contains("\nagain\nEND "), "{warm}");
    assert!(warm["max_memory_used_mb"].as_f64().is_some_and(|used| used > 1.0), "{warm}");
    assert_eq!((&warm["memory_size_mb"], &warm["init_duration_ms"]), (&json!(200.0), &Value::Null));
    // From the ledger: nothing was run, so there is no log.
    let stored = call(&["app", "-d", r#"{"say":["hello"]}"#, "--key", "k"]).await.success();
    assert_eq!(stored.stdout.concat().trim_matches('"'), id);
    assert!(stored.text().contains("Replayed: from the ledger"), "{}", stored.text());
    let failed = call(&["app", "-d", r#"{"say":["bye"],"fail":true}"#]).await.code(1);
    assert!(stderr(&failed).iter().any(|line| line == "bye"), "{}", failed.text());
    let crashed = call(&["app", "-d", r#"{"say":["last words"],"exit":true}"#]).await.code(1);
    let told = stderr(&crashed);
    assert!(told[0].starts_with("START ") && told[1] == "last words" && told[2].starts_with("END "), "{told:?}");
    assert!(crashed.stdout.concat().contains("Runtime.ExitError"), "{}", crashed.text());
    stop(dispatcher).await;
}
