//! A dispatcher that is killed in the middle: its workers go with it, its successor has its leases at once, and in the
//! end everything has happened once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft_tests::{Process, poll};

use crate::system_stage::{LIMIT, Place, Stage, children, is_alive, stop};

/// A lease that no test waits for: whoever finishes before it is over has taken it over.
const LEASE: Duration = Duration::from_secs(60);
const ARGS: [&str; 2] = ["--lease", "60s"];

/// How many invocations have succeeded so far.
async fn succeeded(stage: &Stage) -> usize {
    match &stage.place {
        Place::Real { .. } => {
            stage.sql("select count(*) from invocation where state = 'succeeded'").await.parse().unwrap()
        }
        Place::Embedded => stage.invocations(&["--in", "succeeded"]).await.len(),
    }
}

async fn in_the_middle(stage: &Stage) {
    poll("the flow is in its middle", LIMIT, || async {
        let count = succeeded(stage).await;
        if count >= 50 { Ok(()) } else { Err(count) }
    })
    .await;
}

/// Kills a dispatcher and requires its workers to be gone within a second. Returns how many there were.
async fn kill(dispatcher: Process) -> usize {
    let workers: BTreeSet<u32> = children(dispatcher.pid().unwrap());
    assert!(!workers.is_empty(), "there is no worker to be orphaned");
    dispatcher.kill();
    let status = dispatcher.wait(LIMIT).await.status;
    assert!(!status.success(), "{status}");
    poll("the orphaned workers are gone", Duration::from_secs(1), || async {
        let left: Vec<_> = workers.iter().filter(|pid| is_alive(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    workers.len()
}

/// Runs the orders with a dispatcher that is killed in the middle, and lets the example judge the end.
async fn killed_in_the_middle(stage: &Stage) {
    stage.orders_program(&["prepare"]).run(LIMIT).await.success();
    let dispatcher = stage.start(&ARGS).await;
    let published = stage.json(&["publish", "-f", "orders.ndjson", "--json"]).await;
    assert_eq!(published["published"], 300);
    in_the_middle(stage).await;
    let workers = kill(dispatcher).await;
    let before = succeeded(stage).await;
    let claimed = stage.invocations(&["--in", "claimed"]).await.len();
    println!("killed with {workers} workers, {before} succeeded, {claimed} claimed");
    assert!(claimed > 0, "nothing was claimed: there is nothing to take over");

    let again = Instant::now();
    let dispatcher = stage.start(&ARGS).await;
    poll("nothing is left to do", LIMIT, || async {
        let judge = stage.orders_program(&["judge", "--json"]).run(LIMIT).await;
        if judge.status.success() { Ok(()) } else { Err(judge.text()) }
    })
    .await;
    let took = again.elapsed();
    println!("finished {took:?} after the second start");
    assert!(took < LEASE / 2, "{took:?}: the leases were waited for");
    stop(dispatcher).await;
    // And with nobody at work any more, the end is still as it must be.
    let verdict = stage.orders_program(&["judge"]).run(LIMIT).await.success().text();
    assert!(verdict.contains("lost: 0") && verdict.contains("double effects: 0"), "{verdict}");
    assert!(stage.invocations(&["--in", "claimed"]).await.is_empty());
    assert!(stage.invocations(&["--in", "waiting"]).await.is_empty());
}

#[tokio::test]
async fn a_killed_dispatcher_loses_nothing_and_does_nothing_twice_on_real_services() {
    let stage = Stage::real().await.orders();
    killed_in_the_middle(&stage).await;
    for function in ["create-order", "charge-payment", "notify-customer", "update-analytics"] {
        stage.queue_empty(function).await;
    }
}

#[tokio::test]
async fn a_killed_dispatcher_loses_nothing_and_does_nothing_twice_on_one_file() {
    killed_in_the_middle(&Stage::embedded().orders()).await;
}
