//! The Invoke API as the clients that AWS wrote see it: boto3 and @aws-sdk/client-lambda.

use std::path::Path;

use serde_json::{Value, json};
use weft_tests::{Process, ProcessBuilder};

use super::system_stage::{LIMIT, Stage, invoke_api, one_json, stop};

const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["t.wait"]

[functions.retry]
command = ["HANDLERS"]
events = ["t.retry"]

[functions.exit]
command = ["HANDLERS"]
events = ["t.exit"]
concurrency = { reserved = 7 }

[functions.seen]
command = ["HANDLERS"]
handler = "wait"
events = ["t.seen"]
timeout = "12s"
memory = "128MiB"
"#;

/// What a client saw, of an API that wants signatures.
async fn seen(stage: Stage, client: impl FnOnce(&Path) -> ProcessBuilder) -> Value {
    let stage = stage.manifest(MANIFEST);
    std::fs::write(stage.path("keys"), "AKIDONE:first-secret").unwrap();
    let mut dispatcher = stage.start(&["--invoke", "127.0.0.1:0", "--invoke-credentials-file", "keys"]).await;
    let api = invoke_api(&mut dispatcher).await;
    let go = stage.path("go");
    std::fs::write(&go, "").unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let endpoint = format!("http://{api}");
    let client = client(&scripts).args([endpoint.as_str(), "AKIDONE", "first-secret"]).arg(&go).folder(&stage.folder);
    let seen = one_json(&client.run(LIMIT).await.success());
    stage.invocations_in("retry", "dead", 1).await;
    stop(dispatcher).await;
    seen
}

fn ok(status: u16, payload: &str, version: Option<&str>) -> Value {
    json!({ "status": status, "version": version, "error": null, "payload": payload })
}

async fn boto3(stage: Stage) {
    let seen = seen(stage, |scripts| Process::at(weft_tests::python()).arg(scripts.join("invoke.py"))).await;
    let done = ok(200, r#"{"attempt":1}"#, Some("$LATEST"));
    assert_eq!((&seen["invoked"], &seen["by_arn"], &seen["with_context"]), (&done, &done, &done));
    assert_eq!((&seen["event"], &seen["dry_run"]), (&ok(202, "", None), &ok(204, "", None)));
    let failed = &seen["failed"];
    assert_eq!((&failed["status"], &failed["error"]), (&json!(200), &json!("Unhandled")));
    let body: Value = serde_json::from_str(failed["payload"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({ "errorType": "NotYet", "errorMessage": "a later attempt will do", "stackTrace": [] }));

    assert_eq!(seen["functions"], json!([["exit", "retry"], ["seen", "wait"]]));
    assert_eq!(seen["configuration"], json!(["seen", "wait", 12, 128, "$LATEST"]));
    assert_eq!((&seen["concurrency"], &seen["no_concurrency"]), (&json!(7), &Value::Null));
    for (call, class, status) in [
        ("unknown", "ResourceNotFoundException", 404),
        ("version", "ResourceNotFoundException", 404),
        ("no_json", "InvalidRequestContentException", 400),
        ("too_large", "RequestTooLargeException", 413),
        ("wrong_secret", "InvalidSignatureException", 403),
        ("wrong_key", "UnrecognizedClientException", 403),
        ("expired", "InvalidSignatureException", 403),
    ] {
        let error = &seen[call];
        assert_eq!((&error["code"], &error["status"]), (&json!(class), &json!(status)), "{call}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{call}: {error}");
    }
    assert_eq!(seen["unknown"]["class"], "ResourceNotFoundException", "a class of its own");
    assert!(seen["expired"]["message"].as_str().unwrap().contains("expired"), "{}", seen["expired"]);
}

#[tokio::test]
async fn boto3_invokes_lists_and_is_refused_as_by_aws_on_rabbitmq() {
    boto3(Stage::real().await).await;
}

#[tokio::test]
async fn boto3_invokes_lists_and_is_refused_as_by_aws_on_the_embedded_default() {
    boto3(Stage::embedded()).await;
}

#[tokio::test]
async fn the_javascript_sdk_invokes_lists_and_is_refused_as_by_aws() {
    let seen = seen(Stage::embedded(), |scripts| {
        Process::at(weft_tests::node()).arg(scripts.join("invoke.mjs")).env("NODE_PATH", weft_tests::node_modules())
    })
    .await;
    assert_eq!(seen["invoked"], ok(200, r#"{"attempt":1}"#, Some("$LATEST")));
    assert_eq!((&seen["event"], &seen["dry_run"]), (&ok(202, "", None), &ok(204, "", None)));
    assert_eq!(seen["failed"]["error"], "Unhandled");
    assert_eq!((&seen["functions"], &seen["timeout"]), (&json!(["exit", "retry", "seen", "wait"]), &json!(12)));
    for (call, name, status) in [
        ("unknown", "ResourceNotFoundException", 404),
        ("no_json", "InvalidRequestContentException", 400),
        ("too_large", "RequestTooLargeException", 413),
        ("wrong_secret", "InvalidSignatureException", 403),
    ] {
        assert_eq!((&seen[call]["name"], &seen[call]["status"]), (&json!(name), &json!(status)), "{}", seen[call]);
    }
}

/// A function as it stands at AWS, with a web part.
const APP: &str = r#"
def handler(event, context):
    if "requestContext" in event:
        return {"statusCode": 201, "headers": {"x-path": event["rawPath"]}, "body": event["body"].upper()}
    if event.get("fail"):
        raise ValueError("not with that")
    caller = context.client_context.custom if context.client_context else None
    return {"event": event, "caller": caller}
"#;

#[tokio::test]
async fn a_lambda_function_gets_what_its_caller_sent_whatever_the_shape_of_its_events() {
    let python = weft_tests::python();
    let manifest = format!(
        r#"
[functions.app]
runtime = "lambda"
command = ["{}", "-m", "awslambdaric", "app.handler"]
event = "aws:sqs"
batch = {{ size = 10 }}
events = ["t.app"]
"#,
        python.display()
    );
    let stage = Stage::embedded().manifest(&manifest);
    std::fs::write(stage.path("app.py"), APP).unwrap();
    let mut dispatcher = stage.start(&["--invoke", "127.0.0.1:0", "--urls", "127.0.0.1:0"]).await;
    let api = invoke_api(&mut dispatcher).await;
    let call = async |data: &str| stage.weft(&["invoke", "--invoke", &api, "app", "-d", data]).run(LIMIT).await;
    let answer: Value = serde_json::from_str(&call(r#"{"a":[1]}"#).await.success().stdout.concat()).unwrap();
    assert_eq!(answer, json!({ "event": { "a": [1] }, "caller": null }));
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
    // {"custom":{"a":"b"}}
    let request = client
        .post(format!("http://{api}/2015-03-31/functions/app/invocations"))
        .header("x-amz-client-context", "eyJjdXN0b20iOnsiYSI6ImIifX0=");
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer, json!({ "event": {}, "caller": { "a": "b" } }));
    let failed = call(r#"{"fail":true}"#).await.code(1);
    let body: Value = serde_json::from_str(&failed.stdout.concat()).unwrap();
    assert_eq!((&body["errorType"], &body["errorMessage"]), (&json!("ValueError"), &json!("not with that")));
    assert!(body["stackTrace"][0].as_str().is_some_and(|frame| frame.contains("app.py")), "{body}");

    let line = dispatcher.wait_for_line("function URLs open", LIMIT).await;
    let address = super::system_stage::record(&line).unwrap()["fields"]["address"].as_str().unwrap().to_owned();
    let request = client.post(format!("http://{address}/fn/app/a/b")).header("content-type", "text/plain").body("hi");
    let response = request.send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["x-path"].to_str().unwrap()), (201, "/a/b"));
    assert_eq!(response.text().await.unwrap(), "HI");
    stop(dispatcher).await;
}
