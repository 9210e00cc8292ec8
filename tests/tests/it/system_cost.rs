//! `weft cost`: what a real installation has used, by its own books.

use serde_json::{Value, json};

use crate::system_stage::{Stage, stop};

const MANIFEST: &str = r#"
[functions.noop]
command = ["HANDLERS"]
events = ["noop.event"]
memory = "512MiB"

[functions.fail]
command = ["HANDLERS"]
events = ["fail.event"]
"#;

#[tokio::test]
async fn what_functions_used_is_known_after_their_dispatchers_are_gone() {
    let stage = Stage::real().await.manifest(MANIFEST);
    stage.done(&["migrate"]).await;
    let nothing = stage.json(&["cost", "--json"]).await;
    assert_eq!((&nothing["functions"], &nothing["total"]["attempts"]), (&json!([]), &json!(0)), "{nothing:#}");

    let dispatcher = stage.start(&[]).await;
    stage.publish("noop.event", "first", &json!(1)).await;
    stage.publish("noop.event", "second", &json!(2)).await;
    stage.publish("fail.event", "third", &json!(3)).await;
    stage.invocations_in("noop", "succeeded", 2).await;
    stage.invocations_in("fail", "dead", 1).await;
    // A duplicate runs nothing, so it costs nothing.
    stage.publish("noop.event", "second", &json!(2)).await;
    stop(dispatcher).await;
    let costs = stage.json(&["cost", "--json", "--since", "1d"]).await;
    let [fail, noop] = costs["functions"].as_array().unwrap().as_slice() else { panic!("{costs:#}") };
    assert_eq!((&fail["name"], &noop["name"]), (&json!("fail"), &json!("noop")));
    assert_eq!(
        (&noop["attempts"], &fail["attempts"], &noop["memory_mb"]),
        (&json!(2), &json!(1), &json!(512.0)),
        "{costs:#}"
    );
    let number = |value: &Value| value.as_f64().unwrap();
    // Two attempts of at least a millisecond each, of half a GB.
    assert!(number(&noop["billed_gb_seconds"]) >= 2.0 * 0.001 * 0.5, "{costs:#}");
    assert!(number(&noop["cold_starts"]) >= 1.0 && number(&noop["worker_seconds"]) > 0.0, "{costs:#}");
    assert_eq!(number(&noop["memory_mb_seconds"]), 512.0 * number(&noop["worker_seconds"]), "{costs:#}");
    assert_eq!(costs["total"]["attempts"], 3);

    // The next one adds to it: another incarnation, another row.
    let dispatcher = stage.start(&[]).await;
    stage.publish("noop.event", "fourth", &json!(4)).await;
    stage.invocations_in("noop", "succeeded", 3).await;
    stop(dispatcher).await;
    let one = stage.json(&["cost", "noop", "--json"]).await;
    assert_eq!((one["functions"].as_array().unwrap().len(), &one["total"]["attempts"]), (1, &json!(3)), "{one:#}");
    let text = stage.done(&["cost"]).await.text();
    for part in ["BILLED GB-S", "noop", "fail", "all", "node-hours with work"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
