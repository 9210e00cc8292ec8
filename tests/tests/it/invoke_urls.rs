//! Function URLs: HTTP to a function and back.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use weft_tests::{Process, poll};

use super::system_stage::{LIMIT, Stage, record, stop};

const MANIFEST: &str = r#"
[functions.echo]
command = ["HANDLERS"]
events = ["t.echo"]
max_event = "8MiB"

[functions.small]
command = ["HANDLERS"]
handler = "echo"
events = ["t.small"]

[functions.fail]
command = ["HANDLERS"]
events = ["t.fail"]

[functions.slow]
command = ["HANDLERS"]
handler = "echo"
events = ["t.slow"]
timeout = "100ms"
"#;

const URLS: [&str; 2] = ["--urls", "127.0.0.1:0"];

async fn urls(dispatcher: &mut Process) -> String {
    let line = dispatcher.wait_for_line("function URLs open", LIMIT).await;
    format!("http://{}/fn", record(&line).unwrap()["fields"]["address"].as_str().unwrap())
}

fn request(method: Method, url: String) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).redirect(reqwest::redirect::Policy::none());
    client.build().unwrap().request(method, url)
}

/// A request whose answer the caller chooses.
fn answered_with(root: &str, answer: &Value) -> reqwest::RequestBuilder {
    let body = json!({ "answer": answer }).to_string();
    request(Method::POST, format!("{root}/echo/x")).header("content-type", "application/json").body(body)
}

fn header<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
    response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

async fn there_and_back(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&URLS).await;
    let root = urls(&mut dispatcher).await;
    let sent = request(Method::PUT, format!("{root}/echo/a%20b/c?q=1&q=2"))
        .header("x-mine", "1")
        .header("cookie", "a=1; b=2")
        .body(&b"\xff\x00"[..]);
    let response = sent.send().await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, vec!["application/json"]));
    let seen: Value = response.json().await.unwrap();
    assert_eq!(
        (&seen["version"], &seen["rawPath"], &seen["rawQueryString"]),
        (&json!("2.0"), &json!("/a%20b/c"), &json!("q=1&q=2"))
    );
    assert_eq!((&seen["queryStringParameters"]["q"], &seen["cookies"]), (&json!("1,2"), &json!(["a=1", "b=2"])));
    assert_eq!((&seen["body"], &seen["isBase64Encoded"]), (&json!("/wA="), &json!(true)));
    let http = &seen["requestContext"]["http"];
    assert_eq!((&http["method"], &http["sourceIp"]), (&json!("PUT"), &json!("127.0.0.1")));

    let answer = json!({
        "statusCode": 303, "headers": { "Location": "/elsewhere", "content-type": "text/html" },
        "cookies": ["a=1", "b=2"], "body": "PHA+", "isBase64Encoded": true,
    });
    let response = answered_with(&root, &answer).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 303);
    assert_eq!(header(&response, "location"), ["/elsewhere"]);
    assert_eq!(header(&response, "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(header(&response, "content-type"), ["text/html"]);
    assert_eq!(response.text().await.unwrap(), "<p>");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_request_reaches_its_function_and_the_answer_its_caller_on_rabbitmq() {
    there_and_back(Stage::real().await).await;
}

#[tokio::test]
async fn a_request_reaches_its_function_and_the_answer_its_caller_on_the_embedded_default() {
    there_and_back(Stage::embedded()).await;
}

#[tokio::test]
async fn what_goes_wrong_has_the_status_that_http_has_for_it() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&URLS).await;
    let root = urls(&mut dispatcher).await;
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let post = |path: &str, body: Vec<u8>| request(Method::POST, format!("{root}{path}")).body(body);
    assert_eq!(status(post("/nobody", vec![])).await, 404);
    assert_eq!(status(post("/Echo", vec![])).await, 404);
    assert_eq!(status(post("/echo", vec![0; (6 << 20) + 1])).await, 413);
    assert_eq!(status(post("/small", vec![0; 2 << 20])).await, 413, "larger than the function takes");
    assert_eq!(status(post("/fail", vec![])).await, 502);
    let hangs = post("/slow", br#"{"hang":1}"#.to_vec()).header("content-type", "application/json");
    assert_eq!(status(hangs).await, 504);
    assert_eq!(status(answered_with(&root, &json!({ "statusCode": 1 }))).await, 502);
    assert_eq!(status(post("/echo", vec![]).header("idempotency-key", "\"")).await, 400);
    let failed = post("/fail", vec![]).send().await.unwrap().text().await.unwrap();
    assert_eq!(failed, r#"{"message":"Internal Server Error"}"#, "what the error says is not the caller's business");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_repeat_with_its_idempotency_key_has_the_same_answer_and_another_request_with_it_none() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&URLS).await;
    let root = urls(&mut dispatcher).await;
    let ask = async |path: &str| {
        let response = request(Method::POST, format!("{root}/echo{path}"))
            .header("Idempotency-Key", "\"k\"")
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let first = ask("/a").await;
    assert_eq!(first.0, 200);
    // With the first one's time and id in it: nothing ran.
    assert_eq!(ask("/a").await, first);
    assert_eq!(ask("/b").await.0, 422);
    stop(dispatcher).await;
}

#[tokio::test]
async fn who_prefers_not_to_wait_gets_a_place_to_ask_at() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let mut dispatcher = stage.start(&URLS).await;
    let root = urls(&mut dispatcher).await;
    let response = answered_with(&root, &json!({ "statusCode": 201, "body": "made" }))
        .header("prefer", "respond-async")
        .header("idempotency-key", "k")
        .send()
        .await
        .unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "preference-applied")), (202, vec!["respond-async"]));
    let place = header(&response, "location")[0].to_owned();
    assert_eq!(place, "/fn/echo/_weft/invocations/k");
    let place = format!("{}{place}", root.strip_suffix("/fn").unwrap());
    let standing = poll("it has ended", LIMIT, || async {
        let response = request(Method::GET, place.clone()).send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        if status == 200 { Ok(body) } else { Err((status, body)) }
    })
    .await;
    assert_eq!((&standing["status"], &standing["attempt"]), (&json!("succeeded"), &json!(1)));
    let answer = request(Method::GET, format!("{place}/answer")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (201, "made"));
    let unknown = request(Method::GET, format!("{place}x")).send().await.unwrap();
    assert_eq!(unknown.status().as_u16(), 202, "it may wait in its queue");
    assert_eq!(request(Method::POST, place).send().await.unwrap().status().as_u16(), 405);
    stop(dispatcher).await;
}
