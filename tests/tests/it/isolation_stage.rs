//! What the tests of confinement share: a handler that does as it is asked to, and whether this machine keeps a demand.

use serde_json::Value;
use weft_tests::{Process, poll};

use crate::system_stage::{LIMIT, Stage};

/// Sends one event to `confined` and returns the handler's result.
pub async fn result(stage: &Stage, id: &str, ask: &Value) -> Value {
    stage.publish("confined.event", id, ask).await;
    let done = poll(&format!("{id} has succeeded"), LIMIT, || async {
        let all = stage.invocations(&[]).await;
        let fits =
            |one: &&Value| one["key"].as_str().is_some_and(|key| key.contains(id)) && one["state"] == "succeeded";
        let found = all.iter().find(fits).cloned();
        found.ok_or(all)
    })
    .await;
    serde_json::from_str(done["result"].as_str().unwrap()).unwrap()
}

/// Whether this machine can keep something; where it cannot, that it refuses is what there is to see.
pub async fn started_or_refused(stage: &Stage, can: &str, key: &str) -> Option<Process> {
    let machine = stage.weft(&["doctor", "--json"]).run(LIMIT).await.text();
    if machine.contains(can) {
        return Some(stage.start(&[]).await);
    }
    let refused = stage.dispatcher(&[]).run(LIMIT).await.code(9).text();
    assert!(refused.contains("W0504") && refused.contains(key), "{refused}");
    None
}
