//! A dispatcher that is stopped while callers wait for their answers.

use serde_json::{Value, json};
use weft_tests::poll;

use super::system_stage::{LIMIT, Stage, complaints, invoke_api, runs, runs_reach, stop};

/// One at a time, by what the node has room for: what waits is not throttled.
const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["t.wait"]
timeout = "60s"
slots = 1
"#;

const START: [&str; 4] = ["--invoke", "127.0.0.1:0", "--node-workers", "1"];

/// Status, when to ask again, and the answer.
type Answered = (u16, Option<String>, String);

async fn call(api: String, key: &'static str, data: Value) -> Answered {
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
    let url = format!("http://{api}/2015-03-31/functions/wait/invocations");
    let response = client.post(url).header("Idempotency-Key", key).body(data.to_string()).send().await.unwrap();
    let again = response.headers().get("retry-after").map(|again| again.to_str().unwrap().to_owned());
    (response.status().as_u16(), again, response.text().await.unwrap())
}

/// The call that runs is answered within the drain; the one that has not begun is told to ask again, and its repeat, at the
/// next start, has its answer. Each has run once.
async fn drained(stage: Stage) {
    let stage = stage.manifest(MANIFEST);
    let (go, log) = (stage.path("go"), stage.path("runs"));
    let data = json!({ "file": go, "runs": log });
    let mut dispatcher = stage.start(&START).await;
    let api = invoke_api(&mut dispatcher).await;
    let begun = tokio::spawn(call(api.clone(), "begun", data.clone()));
    runs_reach(&log, 1).await;
    let waits = tokio::spawn(call(api, "waits", data.clone()));
    poll("the second is claimed", LIMIT, || async {
        let claimed = stage.invocations(&["--in", "claimed"]).await;
        if claimed.len() == 2 { Ok(()) } else { Err(claimed) }
    })
    .await;

    dispatcher.terminate();
    poll("the second is given back", LIMIT, || async {
        let claimed = stage.invocations(&["--in", "claimed"]).await;
        if claimed.len() == 1 { Ok(()) } else { Err(claimed) }
    })
    .await;
    assert!(!begun.is_finished() && !waits.is_finished(), "somebody was let go before the drain had ended");
    std::fs::write(&go, "").unwrap();
    let done = (200, None, r#"{"attempt":1}"#.to_owned());
    assert_eq!(begun.await.unwrap(), done);
    let (status, again, body) = waits.await.unwrap();
    assert_eq!((status, again.as_deref()), (503, Some("1")), "{body}");
    assert!(body.contains("ask again with the same key (waits)"), "{body}");
    let exit = dispatcher.wait(LIMIT).await.success();
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
    assert_eq!(runs(&log).len(), 1, "what had not begun ran in the drain");

    let mut next = stage.start(&START).await;
    let api = invoke_api(&mut next).await;
    assert_eq!(call(api.clone(), "waits", data.clone()).await, done, "nothing of it was counted as an attempt");
    assert_eq!(call(api, "begun", data).await, done);
    let all = stage.invocations_in("wait", "succeeded", 2).await;
    assert!(all.iter().all(|row| row["attempt"] == 1), "{all:?}");
    assert_eq!(runs(&log).len(), 2, "something ran twice");
    stop(next).await;
}

#[tokio::test]
async fn a_drain_answers_what_runs_and_sends_who_waits_to_ask_again_on_rabbitmq() {
    drained(Stage::real().await).await;
}

#[tokio::test]
async fn a_drain_answers_what_runs_and_sends_who_waits_to_ask_again_on_the_embedded_default() {
    drained(Stage::embedded()).await;
}
