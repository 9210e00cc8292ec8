//! Cases 11, 12, 13 and 15: an attempt that has lost its right to run and does not know it, or learns it too late. What
//! it does then changes nothing.

use std::time::Duration;

use serde_json::json;
use weft_tests::{Process, Proxy, poll, poll_every};

use crate::cases::{Case, LONG, SHORT, refused_late};
use crate::system_stage::{LIMIT, Stage, runs, runs_reach, started, stop};

/// Pauses a dispatcher with its workers, and lets the broker notice at once what it would notice by the heartbeat.
async fn paused(case: &Case, node: &Process) {
    node.pause();
    poll_every(Duration::from_millis(250), "the broker has taken everything back", LIMIT, || async {
        case.stage.vhost().close_connections().await;
        match case.stage.vhost().queue_depth(&case.stage.queue("place")).await {
            Some(depth) if depth.unacked == 0 && depth.ready > 0 => Ok(()),
            depth => Err(depth),
        }
    })
    .await;
}

#[tokio::test]
async fn case_11_the_commit_of_a_paused_and_resumed_node_is_refused_with_all_its_effects() {
    let case = Case::new().await;
    let a = started(case.node("a", SHORT)).await;
    case.spy().await;
    let commits = case.stage.path("commits");
    case.order("one", &json!({ "hold": case.hold("one"), "commits": commits })).await;
    case.runs_reach(1).await;
    paused(&case, &a).await;
    let b = started(case.node("b", SHORT)).await;
    let second = case.runs_reach(2).await[1].clone();
    assert_eq!(second[1], "2");

    // The successor is in the middle of its work when the first one wakes up and commits.
    let before = case.row("one").await;
    assert_eq!((before["state"].as_str(), before["attempt"].as_i64()), (Some("claimed"), Some(2)));
    case.let_go("one", 1);
    a.resume();
    assert_eq!(runs_reach(&commits, 1).await, [["1", "superseded"]]);
    assert_eq!(case.row("one").await, before, "the successor's row was changed");
    assert_eq!((case.count("orders").await, case.count("outbox").await), (0, 0), "something of it is seen");

    case.let_go("one", 2);
    case.ends_well(1).await;
    assert_eq!(case.stage.sql("select process from orders").await, second[3], "it is not the successor's effect");
    assert_eq!((case.spied(1).await.len(), case.runs().len()), (1, 2));
    assert_eq!(runs(&commits)[1], ["2", "committed"]);
    // The paused one is none the worse for it.
    stop(b).await;
    case.order("two", &json!({})).await;
    case.ends_well(2).await;
    stop(a).await;
}

#[tokio::test]
async fn case_12_a_resumed_node_that_renews_fails_retries_and_hands_back_changes_nothing() {
    let case = Case::new().await;
    let a = started(case.node("a", SHORT).args(["--drain-limit", "1s"])).await;
    // What the attempt that was paused does with each; `late` is still run by the successor when it does.
    let ids = ["fail", "retry", "release", "late"];
    let ends = [json!(["fail"]), json!(["retry"]), json!([]), json!(["fail"])];
    let ask = |(id, ends): (&&str, &serde_json::Value)| {
        ((*id).to_owned(), json!({ "hold": case.hold(id), "ends": ends, "plain": true }))
    };
    let orders: Vec<_> = ids.iter().zip(&ends).map(ask).collect();
    case.orders(&orders).await;
    case.runs_reach(4).await;
    paused(&case, &a).await;
    let b = started(case.node("b", SHORT)).await;
    case.runs_reach(8).await;
    for id in ["fail", "retry", "release"] {
        case.let_go(id, 2);
        case.reaches(id, "succeeded").await;
    }
    case.outbox_empty().await;
    let all = "select json_agg(i order by key) from invocation i where function = 'place'";
    let before = case.stage.sql(all).await;
    let lease = "select count(*) from node where id like '%-a' and lease_until > clock_timestamp()";
    assert_eq!(case.stage.sql(lease).await, "0", "the paused node has a lease");

    for id in ["fail", "retry", "late"] {
        case.let_go(id, 1);
    }
    a.resume();
    refused_late(&a, 3).await;
    poll("it has renewed its lease", LIMIT, || async {
        let live = case.stage.sql(lease).await;
        if live == "1" { Ok(()) } else { Err(live) }
    })
    .await;
    // The last one is handed back by the drain, unless a slow renewal has cost it its lease and cancelled it before.
    stop(a).await;
    assert_eq!(case.stage.sql(all).await, before, "a row was changed");
    assert_eq!((case.count("dead_letter").await, case.letters("place").await, case.count("outbox").await), (0, 0, 0));

    case.let_go("late", 2);
    case.reaches("late", "succeeded").await;
    case.stage.queue_empty("place").await;
    assert_eq!(case.count("invocation where function = 'place' and attempt <> 2").await, 0);
    assert_eq!(case.runs().len(), 8);
    stop(b).await;
}

#[tokio::test]
async fn case_13_an_old_attempt_in_the_same_worker_and_slot_is_refused_by_its_fence() {
    // The first attempt times out, but its work goes on in a task of its own; the second runs beside it.
    let case = Case::timeout("1500ms").await;
    let dispatcher = started(case.node("a", LONG)).await;
    case.spy().await;
    let commits = case.stage.path("commits");
    case.order("one", &json!({ "hold": case.hold("one"), "commits": commits, "detached": true })).await;
    let attempts = case.runs_reach(2).await;
    assert_eq!((attempts[0][1].as_str(), attempts[1][1].as_str()), ("1", "2"));
    assert_eq!(attempts[0][3], attempts[1][3], "it is another worker");
    case.let_go("one", 1);
    assert_eq!(runs_reach(&commits, 1).await[0], ["1", "superseded"]);
    // On a busy machine the second may have come to its own timeout by now.
    for attempt in [2, 3, 4] {
        case.let_go("one", attempt);
    }
    case.ends_well(1).await;
    assert_eq!(case.spied(1).await.len(), 1);
    let committed = runs(&commits).into_iter().filter(|commit| commit[1] == "committed").count();
    assert_eq!(committed, 1);
    stop(dispatcher).await;
}

#[tokio::test]
async fn case_15_a_run_is_stopped_before_its_lease_ends_when_the_ledger_is_out_of_reach() {
    let case = Case::standard(Stage::real().await).await;
    let proxy = Proxy::before(url::Url::parse(case.ledger()).unwrap().port().unwrap()).await;
    let stopped = case.stage.path("stopped");
    let node = case.node("a", "4s").env("WEFT_LEDGER_URL", proxy.url(case.ledger()));
    let mut dispatcher = started(node).await;
    case.order("one", &json!({ "hold": case.hold("one"), "stopped": stopped })).await;
    case.runs_reach(1).await;
    let before = case.row("one").await;
    proxy.pause();
    let at: i64 = runs_reach(&stopped, 1).await[0][0].parse().unwrap();
    let lease = case.stage.sql("select (extract(epoch from lease_until) * 1000000)::bigint from node").await;
    assert!(at < lease.parse().unwrap(), "it was stopped at {at}, and the lease was over at {lease}");
    // Until long after the lease: nothing is acked, nothing is run, nothing is written.
    poll("the lease is over", LIMIT, || async {
        let over = case.stage.sql("select lease_until < clock_timestamp() from node").await;
        if over == "t" { Ok(()) } else { Err(over) }
    })
    .await;
    case.queue_holds("place", 1).await;
    assert_eq!((case.row("one").await, case.runs().len()), (before, 1));

    proxy.heal();
    dispatcher.wait_for_line("node entered again", Duration::from_secs(30)).await;
    // What the outage cut short was no attempt.
    case.let_go("one", 1);
    case.ends_well(1).await;
    assert_eq!(case.stands("one").await, ("succeeded".to_owned(), 1));
    assert_eq!(case.runs().len(), 2);
    stop(dispatcher).await;
}
