//! The Invoke API: synchronous requests through the ledger, on both brokers.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use weft_tests::{PrivateRabbit, poll};

use super::system_stage::{LIMIT, Stage, invoke_api, runs, runs_reach, started, stop};

const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["t.wait"]
retry = { attempts = 3, backoff = { first = "10ms" } }

[functions.retry]
command = ["HANDLERS"]
events = ["t.retry"]
retry = { attempts = 3, backoff = { first = "10ms" } }

[functions.exit]
command = ["HANDLERS"]
events = ["t.exit"]
slots = 1

[functions.block]
command = ["HANDLERS"]
events = ["t.block"]
timeout = "100ms"

[functions.seen]
command = ["HANDLERS"]
handler = "wait"
events = ["t.seen"]
idempotency = { key = "/data/nothing" }
max_event = "4KiB"
"#;

const INVOKE: [&str; 2] = ["--invoke", "127.0.0.1:0"];

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap()
}

/// A request to the API; `key`: an idempotency key.
fn invocation(api: &str, function: &str, key: Option<&str>, data: &Value) -> reqwest::RequestBuilder {
    let url = format!("http://{api}/2015-03-31/functions/{function}/invocations");
    let request = client().post(url).body(data.to_string());
    match key {
        Some(key) => request.header("Idempotency-Key", format!("\"{key}\"")),
        None => request,
    }
}

async fn invoke(api: &str, function: &str, key: Option<&str>, data: &Value) -> Response {
    invocation(api, function, key, data).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// `weft invoke` with this API.
fn weft_invoke(stage: &Stage, api: &str, args: &[&str]) -> weft_tests::ProcessBuilder {
    stage.weft(&[&["invoke", "--invoke", api], args].concat())
}

#[tokio::test]
async fn weft_invoke_prints_the_answer_and_what_it_took_and_fails_with_the_function() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&INVOKE).await;
    let api = invoke_api(&mut dispatcher).await;
    let go = stage.path("go");
    std::fs::write(&go, "").unwrap();
    let data = json!({ "file": go }).to_string();
    std::fs::write(stage.path("event.json"), &data).unwrap();
    let call = async |args: &[&str]| weft_invoke(&stage, &api, args).run(LIMIT).await;

    let first = call(&["wait", "-d", "@event.json", "--key", "k"]).await.success();
    assert_eq!(first.stdout, [r#"{"attempt":1}"#]);
    let text = first.text();
    for part in ["REPORT RequestId: ", "Duration: ", "Billed Duration: ", "Memory Size: 256 MB", "Init Duration: "] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // Answered from the ledger it took nothing.
    let again = call(&["wait", "-d", &data, "--key", "k", "--json"]).await.success();
    let again: Value = serde_json::from_str(&again.stdout.concat()).unwrap();
    assert_eq!((&again["payload"], &again["duration_ms"]), (&json!({ "attempt": 1 }), &Value::Null));
    assert_eq!(again["key"], "/weft/invoke k");

    let failed = call(&["retry", "-d", r#"{"from_attempt":9}"#]).await.code(1);
    assert!(failed.text().contains("error[W0705]") && failed.stdout.concat().contains("NotYet"), "{}", failed.text());
    assert!(call(&["nobody"]).await.code(7).text().contains("error[W0701]"));
    assert!(call(&["seen", "-d", &format!("\"{}\"", "x".repeat(5_000))]).await.code(1).text().contains("error[W0704]"));
    let later = call(&["wait", "-d", &data, "--key", "later", "--async"]).await.success();
    assert_eq!(later.stdout, Vec::<String>::new());
    stage.invocations_in("wait", "succeeded", 2).await;
    stop(dispatcher).await;
    assert!(call(&["wait"]).await.code(4).text().contains("error[W0602]"));
}

#[tokio::test]
async fn with_access_keys_only_who_signs_is_answered() {
    let stage = Stage::embedded().manifest(MANIFEST);
    std::fs::write(stage.path("keys"), "AKIDONE:first-secret\nAKIDTWO:second-secret\n").unwrap();
    std::fs::write(stage.path("wrong"), "AKIDONE:another-secret\n").unwrap();
    std::fs::write(stage.path("unknown"), "AKIDTHREE:first-secret\n").unwrap();
    let keys = ["--invoke-credentials-file", "keys"];
    let mut dispatcher = stage.start(&[&["--invoke", "0.0.0.0:0"][..], &keys].concat()).await;
    let port = invoke_api(&mut dispatcher).await.rsplit_once(':').unwrap().1.to_owned();
    let api = format!("127.0.0.1:{port}");
    let unsigned = invoke(&api, "wait", None, &json!({})).await;
    assert_eq!(
        (unsigned.status().as_u16(), header(&unsigned, "x-amzn-errortype")),
        (403, Some("MissingAuthenticationTokenException"))
    );
    let go = stage.path("go");
    std::fs::write(&go, "").unwrap();
    let data = json!({ "file": go }).to_string();
    let call = async |file: &str| {
        let args = ["wait", "-d", &data, "--invoke-credentials-file", file];
        weft_invoke(&stage, &api, &args).run(LIMIT).await
    };
    assert_eq!(call("keys").await.success().stdout, [r#"{"attempt":1}"#]);
    for (file, kind) in [("wrong", "InvalidSignatureException"), ("unknown", "UnrecognizedClientException")] {
        let text = call(file).await.code(5).text();
        assert!(text.contains("error[W0603]") && text.contains(kind) && !text.contains("-secret"), "{text}");
    }
    let log = dispatcher.lines().concat();
    assert!(!log.contains("-secret"), "{log}");
    stop(dispatcher).await;

    // Without keys nobody but this machine may be answered.
    let open = stage.dispatcher(&["--invoke", "0.0.0.0:0"]).run(LIMIT).await.code(2);
    assert!(open.text().contains("it would answer anybody"), "{}", open.text());
}

/// An invocation runs, its repeat with the same key is answered with the same bytes and runs nothing, and one with another
/// payload is refused.
async fn answers_and_replays(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&INVOKE).await;
    let api = invoke_api(&mut dispatcher).await;
    let (go, log) = (stage.path("go"), stage.path("runs"));
    std::fs::write(&go, "").unwrap();
    let data = json!({ "file": go, "runs": log });
    for _ in 0..3 {
        let response = invoke(&api, "wait", Some("k1"), &data).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "x-amz-executed-version"), Some("$LATEST"));
        assert_eq!(header(&response, "x-weft-key"), Some("/weft/invoke k1"));
        assert_eq!(header(&response, "x-amz-function-error"), None);
        assert!(header(&response, "x-amzn-requestid").is_some());
        assert_eq!(response.text().await.unwrap(), r#"{"attempt":1}"#);
    }
    assert_eq!(runs(&log).len(), 1, "a repeat ran");
    let other = invoke(&api, "wait", Some("k1"), &json!({ "file": go, "from_attempt": 1 })).await;
    assert_eq!(
        (other.status(), header(&other, "x-amzn-errortype")),
        (StatusCode::BAD_REQUEST, Some("InvalidParameterValueException"))
    );
    // Without a key of the caller's each is one of its own.
    for _ in 0..2 {
        assert_eq!(invoke(&api, "wait", None, &data).await.status(), StatusCode::OK);
    }
    assert_eq!(runs(&log).len(), 3);
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_call_is_answered_and_its_repeat_with_the_same_bytes_on_rabbitmq() {
    answers_and_replays(Stage::real().await).await;
}

#[tokio::test]
async fn a_call_is_answered_and_its_repeat_with_the_same_bytes_on_the_embedded_default() {
    answers_and_replays(Stage::embedded()).await;
}

#[tokio::test]
async fn a_function_that_fails_answers_at_once_in_the_shape_of_lambda_and_is_not_tried_again() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&INVOKE).await;
    let api = invoke_api(&mut dispatcher).await;
    let log = stage.path("runs");
    let data = json!({ "runs": log, "from_attempt": 9 });
    for (function, kind, message) in [
        ("retry", "NotYet", "a later attempt will do"),
        ("exit", "Runtime.ExitError", "17"),
        ("block", "Sandbox.Timedout", "Task timed out after 0.10 seconds"),
    ] {
        for _ in 0..2 {
            let response = invoke(&api, function, Some("k"), &data).await;
            assert_eq!(
                (response.status(), header(&response, "x-amz-function-error")),
                (StatusCode::OK, Some("Unhandled"))
            );
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["errorType"], kind, "{body}");
            assert!(body["errorMessage"].as_str().unwrap().contains(message), "{body}");
        }
    }
    let attempts = |function: &str| runs(&log).iter().filter(|run| run[0] == function).count();
    assert_eq!((attempts("retry"), attempts("exit"), attempts("block")), (1, 1, 1), "who waits asks again himself");
    // What nobody waits for is tried again as any event is.
    let later = invocation(&api, "retry", Some("later"), &json!({ "runs": log, "from_attempt": 3 }))
        .header("X-Amz-Invocation-Type", "Event");
    assert_eq!(later.send().await.unwrap().status(), StatusCode::ACCEPTED);
    stage.invocations_in("retry", "succeeded", 1).await;
    assert_eq!(attempts("retry"), 4);
    stop(dispatcher).await;
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_at_the_door_and_leaves_nothing_behind() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&INVOKE).await;
    let api = invoke_api(&mut dispatcher).await;
    let call = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        let kind = header(&response, "x-amzn-errortype").unwrap_or_default().to_owned();
        (response.status().as_u16(), kind)
    };
    let of = |status: u16, kind: &str| (status, kind.to_owned());
    let empty = json!({});
    assert_eq!(call(invocation(&api, "nobody", None, &empty)).await, of(404, "ResourceNotFoundException"));
    assert_eq!(call(invocation(&api, "wait:7", None, &empty)).await, of(404, "ResourceNotFoundException"));
    let with = |name: &'static str, value: &'static str| invocation(&api, "wait", None, &empty).header(name, value);
    assert_eq!(call(with("X-Amz-Invocation-Type", "Later")).await, of(400, "InvalidParameterValueException"));
    assert_eq!(call(with("Idempotency-Key", "\"")).await, of(400, "InvalidParameterValueException"));
    assert_eq!(call(with("X-Amz-Client-Context", "!!!!")).await, of(400, "InvalidRequestContentException"));
    assert_eq!(
        call(invocation(&api, "wait", None, &empty).body("{\"a\":")).await,
        of(400, "InvalidRequestContentException")
    );
    let large = json!("x".repeat(5_000));
    assert_eq!(call(invocation(&api, "seen", None, &large)).await, of(413, "RequestTooLargeException"));
    let larger = vec![b' '; (6 << 20) + 1];
    assert_eq!(call(invocation(&api, "seen", None, &empty).body(larger)).await, of(413, "RequestTooLargeException"));
    let asynchronous = vec![b' '; (1 << 20) + 1];
    let request = with("X-Amz-Invocation-Type", "Event").body(asynchronous);
    assert_eq!(call(request).await, of(413, "RequestTooLargeException"));
    assert_eq!(call(with("X-Amz-Invocation-Type", "DryRun")).await, of(204, ""));
    assert_eq!(stage.invocations(&[]).await, Vec::<Value>::new());
    assert_eq!(stage.json(&["dlq", "ls", "--json"]).await, json!([]));

    // The caller's key stands for it, whatever the manifest takes from events.
    let go = stage.path("go");
    std::fs::write(&go, "").unwrap();
    assert_eq!(invoke(&api, "seen", Some("k"), &json!({ "file": go })).await.status(), StatusCode::OK);
    stop(dispatcher).await;
}

#[tokio::test]
async fn one_dispatcher_is_called_and_another_runs_it() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut called = stage.start(&INVOKE).await;
    let api = invoke_api(&mut called).await;
    let args = ["run", "--admin", "127.0.0.1:0", "--node", "other", "--log-format", "json"];
    let other = started(stage.weft(&args)).await;
    let (go, log) = (stage.path("go"), stage.path("runs"));
    std::fs::write(&go, "").unwrap();
    let owners = poll("both dispatchers have run something", LIMIT, || async {
        for _ in 0..8 {
            let response = invoke(&api, "wait", None, &json!({ "file": go, "runs": log })).await;
            assert_eq!(response.text().await.unwrap(), r#"{"attempt":1}"#);
        }
        let all = stage.invocations(&[]).await;
        let owners: std::collections::BTreeSet<String> =
            all.iter().map(|row| row["owner"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect();
        if owners.len() == 2 { Ok(owners) } else { Err(owners) }
    })
    .await;
    assert!(owners.contains("other"), "{owners:?}");
    stop(called).await;
    stop(other).await;
}

#[tokio::test]
async fn a_call_is_answered_although_rabbitmq_is_restarted_in_the_middle_of_it() {
    let rabbit = PrivateRabbit::start().await;
    let stage = Stage::with_rabbit(&rabbit).await.manifest(MANIFEST);
    let mut dispatcher = stage.start(&INVOKE).await;
    let api = invoke_api(&mut dispatcher).await;
    let (go, log) = (stage.path("go"), stage.path("runs"));
    let data = json!({ "file": go, "runs": log });
    let caller = tokio::spawn({
        let (api, data) = (api.clone(), data.clone());
        async move {
            let response = invoke(&api, "wait", Some("k"), &data).await;
            (response.status(), response.text().await.unwrap())
        }
    });
    runs_reach(&log, 1).await;
    rabbit.stop().await;
    std::fs::write(&go, "").unwrap();
    stage.invocations_in("wait", "succeeded", 1).await;
    rabbit.start_again().await;
    assert_eq!(caller.await.unwrap(), (StatusCode::OK, r#"{"attempt":1}"#.to_owned()));
    assert_eq!(runs(&log).len(), 1);
    // And the next one as before.
    poll("calls are taken again", LIMIT, || async {
        let response = invoke(&api, "wait", Some("k2"), &data).await;
        if response.status() == StatusCode::OK { Ok(()) } else { Err(response.text().await.unwrap()) }
    })
    .await;
    stop(dispatcher).await;
}
