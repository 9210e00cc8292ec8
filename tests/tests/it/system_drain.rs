//! A stop in good order: what runs finishes, what has not started goes back uncounted, and a second signal is heard.

use std::time::Duration;

use serde_json::json;
use weft_tests::poll;

use crate::system_stage::{LIMIT, Stage, children, complaints, is_alive, runs, runs_reach, stop};

/// Room for two at once, so that the others have to wait.
const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["wait.event"]
timeout = "60s"
slots = 2
concurrency = { reserved = 2 }
"#;

/// Publishes events and waits until two of them run; the others wait in the dispatcher or in the queue.
async fn two_of_five(stage: &Stage) {
    for id in ["a", "b", "c", "d", "e"] {
        let data = json!({ "runs": stage.path("runs"), "file": stage.path("go") });
        stage.publish("wait.event", id, &data).await;
    }
    runs_reach(&stage.path("runs"), 2).await;
}

/// The first signal, then `go`: the runs end, the rest is left for the next start. The node has room for one worker; the
/// function may have more, so that all of its events are claimed.
async fn drained(stage: Stage) {
    let stage = stage.manifest(&MANIFEST.replace("concurrency = { reserved = 2 }", ""));
    let mut dispatcher = stage.start(&["--node-workers", "1"]).await;
    two_of_five(&stage).await;
    poll("all are claimed", LIMIT, || async {
        let claimed = stage.invocations(&["--in", "claimed"]).await;
        if claimed.len() == 5 { Ok(()) } else { Err(claimed) }
    })
    .await;
    let workers = children(dispatcher.pid().unwrap());
    assert_eq!(workers.len(), 1);

    dispatcher.terminate();
    // What has not started is handed back while the others still run: a dispatcher without claims of its own left but two.
    poll("only what runs is claimed", LIMIT, || async {
        let claimed = stage.invocations(&["--in", "claimed"]).await;
        if claimed.len() == 2 { Ok(()) } else { Err(claimed) }
    })
    .await;
    assert!(is_alive(dispatcher.pid().unwrap()), "it did not wait for what runs");
    std::fs::write(stage.path("go"), "").unwrap();
    dispatcher.wait_for_line("stopped", LIMIT).await;
    let exit = dispatcher.wait(LIMIT).await.success();
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "a worker outlived the stop");

    let done = stage.invocations(&["--in", "succeeded"]).await;
    assert_eq!((done.len(), runs(&stage.path("runs")).len()), (2, 2), "{done:?}");

    let dispatcher = stage.start(&[]).await;
    let done = stage.invocations_in("wait", "succeeded", 5).await;
    assert!(done.iter().all(|invocation| invocation["attempt"] == 1), "{done:#?}");
    assert_eq!(runs(&stage.path("runs")).len(), 5);
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_the_rest_uncounted_on_real_services() {
    drained(Stage::real().await).await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_the_rest_uncounted_on_one_file() {
    drained(Stage::embedded()).await;
}

#[tokio::test]
async fn a_second_signal_stops_at_once_and_what_ran_runs_again() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    two_of_five(&stage).await;
    let workers = children(dispatcher.pid().unwrap());
    dispatcher.terminate();
    poll("it drains", LIMIT, || async {
        let claimed = stage.invocations(&["--in", "claimed"]).await;
        if claimed.len() == 2 { Ok(()) } else { Err(claimed) }
    })
    .await;
    dispatcher.terminate();
    dispatcher.wait(Duration::from_secs(10)).await.code(130);
    poll("its workers are gone", Duration::from_secs(1), || async {
        let left: Vec<_> = workers.iter().filter(|pid| is_alive(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;

    std::fs::write(stage.path("go"), "").unwrap();
    let dispatcher = stage.start(&[]).await;
    stage.invocations_in("wait", "succeeded", 5).await;
    // Two were cut off, and ran twice; nothing else did.
    assert_eq!(runs(&stage.path("runs")).len(), 7);
    stage.queue_empty("wait").await;
    stop(dispatcher).await;
}
