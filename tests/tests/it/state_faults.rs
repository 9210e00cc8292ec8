//! State under faults: whatever befalls Redis or a worker, the ledger's answer stays, and nothing is written by those who
//! have lost the right to.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use weft_process::secret::Address;
use weft_tests::{Flow, PrivateRedis, Proxy, poll};
use weft_worker::peek_state;

use crate::system_stage::{LIMIT, Place, Stage, children, runs, runs_reach, started, state_of, stop};

const MANIFEST: &str = r#"
[functions.count]
command = ["HANDLERS"]
handler = "state"
events = ["count.event"]
slots = 4
timeout = "120s"
idempotency = { key = "/id" }
retry = { backoff = { first = "2s" } }
"#;

/// Shared broker and ledger, and a Redis at the given address.
async fn stage(state: String) -> Stage {
    let Place::Real { vhost, ledger, .. } = Stage::real().await.place else { unreachable!("it is real") };
    Stage::with(Place::Real { vhost, ledger, state }).manifest(MANIFEST)
}

/// A value as one sees it past every proxy, or `None`.
async fn peek(redis: &str, stage: &Stage, name: &str) -> Option<Value> {
    let address = Address::new(redis);
    let value = peek_state(&address, &stage.prefix, &"count".parse().unwrap(), name).await.unwrap();
    value.map(|json| serde_json::from_slice(&json).unwrap())
}

fn once(name: &str) -> Value {
    json!({ "do": "increment_once", "name": name, "by": 1 })
}

fn pause(stage: &Stage) -> (Value, PathBuf, PathBuf) {
    let (runs, go) = (stage.path("runs"), stage.path("go"));
    (json!({ "do": "pause", "runs": runs, "file": go }), runs, go)
}

/// What the ledger says of a key: state, attempt, crashes, result.
async fn answer(stage: &Stage, key: &str) -> String {
    let row = format!(
        "select state, attempt, crashes, convert_from(result, 'UTF8') from weft.invocation where key = '{key}'"
    );
    stage.sql(&row).await
}

async fn becomes(stage: &Stage, key: &str, expected: &str) {
    poll(&format!("{key} becomes {expected}"), LIMIT, || async {
        let answer = answer(stage, key).await;
        if answer == expected { Ok(()) } else { Err(answer) }
    })
    .await;
}

/// Whole dispatchers with their workers: the first is stopped by a signal for longer than its lease, in the middle of a
/// handler; the second takes the event over.
#[tokio::test]
async fn a_worker_paused_past_its_lease_writes_nothing_after_its_successor() {
    let mut stage = Stage::real().await.manifest(MANIFEST);
    let Place::Real { vhost, state, .. } = &mut stage.place else { unreachable!("it is real") };
    // So that the broker gives up a silent peer within seconds.
    vhost.amqp_url = format!("{}?heartbeat=2", vhost.amqp_url);
    let redis = state.clone();
    let first = stage.start(&["--lease", "2s"]).await;
    let (pause, noted, go) = pause(&stage);
    let add = |name: &str| json!({ "do": "increment", "name": name, "by": 1 });
    // `once` after the pause as well: the first must not apply it, and the second applies it once.
    let steps = json!([once("before"), add("before-each"), pause, add("after"), once("after-once")]);
    stage.publish("count.event", "k", &steps).await;
    runs_reach(&noted, 1).await;
    first.pause();
    // A signal takes its time, and the handler must not see its file before.
    let pid = first.pid().unwrap();
    poll("dispatcher and worker have stopped", LIMIT, || async {
        let states: Vec<_> = children(pid).into_iter().chain([pid]).map(state_of).collect();
        if states.len() > 1 && states.iter().all(|state| state.as_deref() == Some("T")) { Ok(()) } else { Err(states) }
    })
    .await;
    std::fs::write(&go, "").unwrap();
    let args = ["run", "--admin", "127.0.0.1:0", "--node", "second", "--log-format", "json", "--lease", "2s"];
    let second = started(stage.weft(&args)).await;
    let result = "[1, 2, null, 1, 1]".replace(' ', "");
    becomes(&stage, "k", &format!("succeeded|2|1|{result}")).await;
    let of_second = (peek(&redis, &stage, "after").await, peek(&redis, &stage, "after-once").await);
    assert_eq!(of_second, (Some(json!(1)), Some(json!(1))));
    first.resume();
    // The first's worker goes on with its steps, and its next write is refused. The stop waits for its end.
    stop(first).await;
    for (name, value) in [("before", 1), ("before-each", 2), ("after", 1), ("after-once", 1)] {
        assert_eq!(peek(&redis, &stage, name).await, Some(json!(value)), "{name}");
    }
    assert_eq!(answer(&stage, "k").await, format!("succeeded|2|1|{result}"));
    assert_eq!(runs(&noted).len(), 2);
    stop(second).await;
}

#[tokio::test]
async fn case_31_redis_flushed_between_attempts_changes_no_answer_of_the_ledger() {
    let redis = PrivateRedis::start().await;
    let stage = stage(redis.url()).await;
    let dispatcher = stage.start(&[]).await;
    let (pause, noted, go) = pause(&stage);
    std::fs::write(&go, "").unwrap();
    let steps = json!([once("n"), pause, { "do": "fail_before", "attempt": 2 }]);
    stage.publish("count.event", "k", &steps).await;
    becomes(&stage, "k", "waiting|1|0|").await;
    assert_eq!(peek(&redis.url(), &stage, "n").await, Some(json!(1)));
    redis.flush().await;
    // The marker went with the value: what is counted again is counted from nothing.
    becomes(&stage, "k", "succeeded|2|0|[1,null,null]").await;
    assert_eq!(peek(&redis.url(), &stage, "n").await, Some(json!(1)));
    assert_eq!(runs(&noted).len(), 2);

    redis.flush().await;
    stage.publish("count.event", "k", &steps).await;
    stage.queue_empty("count").await;
    assert_eq!(answer(&stage, "k").await, "succeeded|2|0|[1,null,null]");
    assert_eq!((runs(&noted).len(), peek(&redis.url(), &stage, "n").await), (2, None), "a duplicate ran");
    stop(dispatcher).await;
}

#[tokio::test]
async fn redis_flushed_between_a_once_and_its_settle_loses_the_value_and_nothing_applies_it_again() {
    let redis = PrivateRedis::start().await;
    let stage = stage(redis.url()).await;
    let dispatcher = stage.start(&[]).await;
    let (pause, noted, go) = pause(&stage);
    stage.publish("count.event", "k", &json!([once("n"), pause])).await;
    runs_reach(&noted, 1).await;
    redis.flush().await;
    std::fs::write(&go, "").unwrap();
    becomes(&stage, "k", "succeeded|1|0|[1,null]").await;
    stage.publish("count.event", "k", &json!([once("n"), json!({ "do": "pause", "runs": noted, "file": go })])).await;
    stage.queue_empty("count").await;
    assert_eq!(answer(&stage, "k").await, "succeeded|1|0|[1,null]");
    assert_eq!((runs(&noted).len(), peek(&redis.url(), &stage, "n").await), (1, None));
    stop(dispatcher).await;
}

/// Restarts Redis in the middle of an attempt; gives what is counted in the end, and the attempt's result.
async fn restarted(redis: PrivateRedis) -> (Option<Value>, String) {
    let stage = stage(redis.url()).await;
    let dispatcher = stage.start(&[]).await;
    // An earlier event's count, to see what is kept.
    stage.publish("count.event", "earlier", &json!([once("n")])).await;
    becomes(&stage, "earlier", "succeeded|1|0|[1]").await;
    let (pause, noted, go) = pause(&stage);
    stage.publish("count.event", "k", &json!([once("n"), pause, { "do": "read", "name": "none" }, once("n")])).await;
    runs_reach(&noted, 1).await;
    redis.kill();
    std::fs::write(&go, "").unwrap();
    // Runs into the outage, once or several times.
    poll("the attempt has run into the outage", LIMIT, || async {
        let lines = dispatcher.lines();
        if lines.iter().any(|line| line.contains("attempts cannot use a service")) { Ok(()) } else { Err(lines.len()) }
    })
    .await;
    redis.start_again().await;
    poll("it has succeeded as its first attempt", LIMIT, || async {
        let answer = answer(&stage, "k").await;
        if answer.starts_with("succeeded|1|0|") { Ok(()) } else { Err(answer) }
    })
    .await;
    let result = answer(&stage, "k").await;
    let lines = stop(dispatcher).await.lines;
    let told = lines.iter().filter(|line| line.contains("attempts cannot use a service")).count();
    assert_eq!(told, 1, "{lines:#?}");
    (peek(&redis.url(), &stage, "n").await, result)
}

#[tokio::test]
async fn a_redis_that_is_restarted_with_its_data_has_counted_once_and_costs_no_attempt() {
    let (sum, result) = restarted(PrivateRedis::start().await).await;
    assert_eq!((sum, result.as_str()), (Some(json!(2)), "succeeded|1|0|[2,null,null,2]"));
}

#[tokio::test]
async fn a_redis_that_is_restarted_without_its_data_counts_anew_and_costs_no_attempt() {
    let (sum, result) = restarted(PrivateRedis::start_forgetful().await).await;
    assert_eq!((sum, result.as_str()), (Some(json!(1)), "succeeded|1|0|[1,null,null,1]"));
}

#[tokio::test]
async fn a_redis_slower_than_its_callers_wait_counts_once_and_costs_no_attempt() {
    let redis = PrivateRedis::start().await;
    let proxy = Proxy::before(redis.port()).await;
    let stage = stage(proxy.url(&redis.url())).await;
    let dispatcher = stage.start(&[]).await;
    // Connected before it gets slow, so that the request passes and only its answer comes too late.
    stage.publish("count.event", "earlier", &json!([once("n")])).await;
    becomes(&stage, "earlier", "succeeded|1|0|[1]").await;
    proxy.answers(Flow::Delay(Duration::from_millis(2_500)));
    stage.publish("count.event", "k", &json!([once("n")])).await;
    poll("the count is applied, and its caller does not know", LIMIT, || async {
        let known = dispatcher.lines().iter().any(|line| line.contains("attempts cannot use a service"));
        match peek(&redis.url(), &stage, "n").await {
            Some(sum) if sum == json!(2) && known => Ok(()),
            sum => Err((sum, known)),
        }
    })
    .await;
    proxy.heal();
    becomes(&stage, "k", "succeeded|1|0|[2]").await;
    assert_eq!(peek(&redis.url(), &stage, "n").await, Some(json!(2)));
    stop(dispatcher).await;
}
