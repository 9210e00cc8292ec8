//! Calls of functions whose `concurrency.reserved` is all busy, and the bound's change while they run: as the clients that
//! AWS wrote see it, and as function URLs answer.

use std::path::Path;

use serde_json::{Value, json};
use weft_tests::{Process, poll};

use super::system_stage::{LIMIT, Stage, admin, get, invoke_api, one_json, record, runs, runs_reach, stop};

const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["t.wait"]
slots = 1
concurrency = { reserved = 1 }

[functions.free]
command = ["HANDLERS"]
handler = "wait"
events = ["t.free"]
"#;

const LISTEN: [&str; 4] = ["--invoke", "127.0.0.1:0", "--urls", "127.0.0.1:0"];

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap()
}

/// The calls of `wait` that were refused for its bound, by the admin port.
async fn throttles(dispatcher: &mut Process) -> u64 {
    let address = admin(dispatcher).await;
    let status: Value = get(&address, "/status").await.json().await.unwrap();
    status["functions"]["wait"]["throttled"]["reserved"].as_u64().unwrap_or_default()
}

async fn boto3(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&LISTEN).await;
    let endpoint = format!("http://{}", invoke_api(&mut dispatcher).await);
    let client = Process::at(weft_tests::python()).arg(script("throttles.py")).arg(&endpoint).arg(&stage.folder);
    let seen = one_json(&client.folder(&stage.folder).run(LIMIT).await.success());
    let throttled = |retries: u32| {
        json!({
            "class": "TooManyRequestsException", "code": "TooManyRequestsException", "message": "Rate Exceeded.",
            "status": 429, "retry_after": "1", "reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
            "type": "User", "retries": retries,
        })
    };
    assert_eq!((&seen["throttled"], &seen["again"]), (&throttled(0), &throttled(1)), "retries off and on");
    assert_eq!(seen["legacy"], throttled(1), "boto3's own default way to try again takes it for a throttle too");
    assert_eq!((&seen["event"], &seen["dry_run"]), (&json!([202, "", 0]), &json!([204, "", 0])));
    assert_eq!(seen["ran_meanwhile"], 1, "what was refused has run");
    let done = r#"{"attempt":1}"#;
    assert_eq!(seen["held"], json!([200, done, 0]));
    assert_eq!((&seen["retried"][0], &seen["retried"][1]), (&json!(200), &json!(done)));
    assert!(seen["retried"][2].as_u64() >= Some(1), "{}", seen["retried"]);
    assert_eq!((&seen["put"], &seen["got"], &seen["described"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!((&seen["none"], &seen["other"]), (&throttled(0), &json!([200, done, 0])));
    assert_eq!((&seen["put_other"], &seen["got_other"]), (&json!(3), &json!(3)));
    assert_eq!((&seen["deleted"], &seen["deleted_other"]), (&json!(1), &Value::Null), "what the manifest says again");
    assert_eq!(seen["after"], json!([200, done, 0]));
    assert_eq!(seen["too_many"], json!(["InvalidParameterValueException", 400]));
    assert_eq!(seen["nobody"], json!(["ResourceNotFoundException", 404]));
    // Of what was refused there is nothing: the call that was held, the event, the one tried again and the last.
    let of_wait = stage.invocations_in("wait", "succeeded", 4).await;
    assert!(of_wait.iter().all(|row| row["attempt"] == 1), "{of_wait:?}");
    assert!(throttles(&mut dispatcher).await >= 5, "each refusal is counted as a throttle");
    assert_eq!(stage.json(&["dlq", "ls", "--json"]).await, json!([]));
    stop(dispatcher).await;
}

#[tokio::test]
async fn boto3_is_throttled_by_what_is_reserved_and_changes_it_on_rabbitmq() {
    boto3(Stage::real().await).await;
}

#[tokio::test]
async fn boto3_is_throttled_by_what_is_reserved_and_changes_it_on_the_embedded_default() {
    boto3(Stage::embedded()).await;
}

#[tokio::test]
async fn the_javascript_sdk_is_throttled_and_tries_again_as_with_aws() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&LISTEN).await;
    let endpoint = format!("http://{}", invoke_api(&mut dispatcher).await);
    let client = Process::at(weft_tests::node()).arg(script("throttles.mjs")).arg(&endpoint).arg(&stage.folder);
    let client = client.env("NODE_PATH", weft_tests::node_modules()).folder(&stage.folder);
    let seen = one_json(&client.run(LIMIT).await.success());
    let throttled = |attempts: u32| {
        json!({
            "is": true, "name": "TooManyRequestsException", "status": 429, "attempts": attempts,
            "reason": "ReservedFunctionConcurrentInvocationLimitExceeded", "type": "User", "retry_after": "1",
            "fault": "client",
        })
    };
    assert_eq!((&seen["throttled"], &seen["again"]), (&throttled(1), &throttled(2)));
    assert_eq!(seen["ran_meanwhile"], 1);
    assert_eq!((&seen["held"]["status"], &seen["retried"]["status"]), (&json!(200), &json!(200)));
    assert!(seen["retried"]["attempts"].as_u64() >= Some(2), "{}", seen["retried"]);
    stage.invocations_in("wait", "succeeded", 2).await;
    stop(dispatcher).await;
}

/// A throttled caller's key is free; one that joins what runs, or asks for a stored answer, takes no place and has it.
#[tokio::test]
async fn a_throttled_call_leaves_its_key_free_and_a_known_key_is_not_throttled() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&LISTEN).await;
    let api = invoke_api(&mut dispatcher).await;
    let (go, log) = (stage.path("go"), stage.path("runs"));
    let data = json!({ "file": go, "runs": log }).to_string();
    let call = |key: &str| {
        let url = format!("http://{api}/2015-03-31/functions/wait/invocations");
        let request = client().post(url).header("Idempotency-Key", key).body(data.clone());
        async move {
            let response = request.send().await.unwrap();
            let after = response.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
            (response.status().as_u16(), after, response.text().await.unwrap())
        }
    };
    let first = tokio::spawn(call("first"));
    runs_reach(&log, 1).await;
    let (status, after, _) = call("second").await;
    assert_eq!((status, after.as_deref()), (429, Some("1")));
    assert_eq!(stage.invocations(&[]).await.len(), 1, "the refused call left a row");
    let joined = tokio::spawn(call("first"));
    std::fs::write(&go, "").unwrap();
    let done = (200, None, r#"{"attempt":1}"#.to_owned());
    assert_eq!((first.await.unwrap(), joined.await.unwrap()), (done.clone(), done.clone()));
    assert_eq!(call("second").await, done, "its key was not free");
    assert_eq!(runs(&log).len(), 2);

    // Now one that hangs takes the place again: what is stored is answered all the same.
    std::fs::remove_file(&go).unwrap();
    let third = tokio::spawn(call("third"));
    runs_reach(&log, 3).await;
    assert_eq!((call("second").await, call("fourth").await.0), (done.clone(), 429));
    std::fs::write(&go, "").unwrap();
    assert_eq!(third.await.unwrap(), done);
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_function_url_answers_429_when_all_that_is_reserved_is_busy() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&LISTEN).await;
    let line = dispatcher.wait_for_line("function URLs open", LIMIT).await;
    let site = format!("http://{}/fn", record(&line).unwrap()["fields"]["address"].as_str().unwrap());
    let (go, log) = (stage.path("go"), stage.path("runs"));
    stage.publish("t.wait", "e", &json!({ "file": go, "runs": log })).await;
    runs_reach(&log, 1).await;
    let response = client().get(format!("{site}/wait")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    let later = client().get(format!("{site}/wait")).header("prefer", "respond-async").send().await.unwrap();
    assert_eq!(later.status().as_u16(), 202, "who does not wait is not throttled");
    std::fs::write(&go, "").unwrap();
    // The handler does not take a request for its data: that it was asked is all that is wanted here.
    poll("there is room again", LIMIT, || async {
        let status = client().get(format!("{site}/wait")).send().await.unwrap().status().as_u16();
        if status == 502 { Ok(()) } else { Err(status) }
    })
    .await;
    stop(dispatcher).await;
}
